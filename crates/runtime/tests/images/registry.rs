//! A registry with faults, written here, and Debian's docker-registry as a child process.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use keelson_runtime::images::Digest;
use parking_lot::Mutex;
use tokio::net::TcpListener;

/// How the registry misbehaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// Cut each blob answer after so many bytes (layers only), this many times.
    pub(crate) cut_after: Option<(usize, usize)>,
    /// Ignore `Range`.
    pub(crate) no_ranges: bool,
    /// Flip a byte in layers.
    pub(crate) corrupt: bool,
    /// Answer so many requests with 503 first.
    pub(crate) unavailable: usize,
    /// Want a token for `user:secret`; tokens are good for so many requests.
    pub(crate) token_uses: Option<usize>,
    /// Want basic credentials.
    pub(crate) basic: bool,
    /// Send blobs by redirect to another origin.
    pub(crate) redirect_to: Option<SocketAddr>,
    /// Wait before each layer, so that pulls overlap.
    pub(crate) layer_delay: Option<Duration>,
}

/// One request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
}

#[derive(Default)]
struct State {
    blobs: HashMap<String, Bytes>,
    /// Path below `/v2/`, for example `app/manifests/v1`, to media type and bytes.
    manifests: HashMap<String, (String, Bytes)>,
    faults: Faults,
    seen: Vec<Seen>,
    tokens: HashMap<String, usize>,
}

/// A registry in this process.
pub(crate) struct FakeRegistry {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: tokio::task::JoinHandle<()>,
}

type Body = BoxBody<Bytes, std::io::Error>;

impl FakeRegistry {
    pub(crate) async fn start(faults: Faults) -> Self {
        Self::start_with(faults, None).await
    }

    /// HTTPS with a certificate of its own making for 127.0.0.1; the certificate is returned as PEM.
    pub(crate) async fn start_tls(faults: Faults) -> (Self, String) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("certificate");
        let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("server");
        let pem = made.cert.pem();
        (
            Self::start_with(faults, Some(tokio_rustls::TlsAcceptor::from(Arc::new(config)))).await,
            pem,
        )
    }

    async fn start_with(faults: Faults, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let state = Arc::new(Mutex::new(State {
            faults,
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let state = Arc::clone(&shared);
                let tls = tls.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&state), address, request));
                    // A connection that a fault cuts ends in an error here.
                    let server = hyper::server::conn::http1::Builder::new();
                    match tls {
                        None => drop(server.serve_connection(TokioIo::new(stream), service).await),
                        Some(tls) => {
                            // A client that does not trust the certificate ends the handshake.
                            let Ok(stream) = tls.accept(stream).await else {
                                return;
                            };
                            drop(server.serve_connection(TokioIo::new(stream), service).await);
                        }
                    }
                });
            }
        });
        Self {
            address,
            state,
            server,
        }
    }

    pub(crate) fn add_blob(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::sha256(&bytes);
        self.state.lock().blobs.insert(digest.to_string(), bytes);
        digest
    }

    /// Stores a manifest under `tag` and its digest.
    pub(crate) fn add_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        let mut state = self.state.lock();
        for selector in [tag, &digest.to_string()] {
            let entry = (media_type.to_owned(), Bytes::copy_from_slice(bytes));
            state
                .manifests
                .insert(format!("{repository}/manifests/{selector}"), entry);
        }
        digest
    }

    /// Serves the image of an OCI archive as `repository:tag`; returns the digests of its layer blobs.
    pub(crate) fn add_archive(&self, archive: &Path, repository: &str, tag: &str) -> Vec<String> {
        let mut tar = tar::Archive::new(std::fs::File::open(archive).expect("archive"));
        let mut index = serde_json::Value::Null;
        for entry in tar.entries().expect("entries") {
            let mut entry = entry.expect("entry");
            let path = entry.path().expect("path").into_owned();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).expect("read");
            if path == Path::new("index.json") {
                index = serde_json::from_slice(&bytes).expect("index");
            } else if path.starts_with("blobs") {
                self.add_blob(bytes);
            }
        }
        let digest = index["manifests"][0]["digest"]
            .as_str()
            .expect("digest")
            .to_owned();
        let manifest = self.state.lock().blobs[&digest].clone();
        self.add_manifest(
            repository,
            tag,
            "application/vnd.oci.image.manifest.v1+json",
            &manifest,
        );
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("manifest");
        manifest["layers"]
            .as_array()
            .expect("layers")
            .iter()
            .map(|l| l["digest"].as_str().expect("digest").to_owned())
            .collect()
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.lock().seen.clone()
    }

    /// Requests for this blob.
    pub(crate) fn blob_requests(&self, digest: &str) -> Vec<Seen> {
        self.seen()
            .into_iter()
            .filter(|s| s.method == "GET" && s.path.ends_with(digest))
            .collect()
    }

    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn full(status: StatusCode, bytes: impl Into<Bytes>) -> Response<Body> {
    let body = BodyExt::boxed(BodyExt::map_err(
        Full::new(bytes.into()),
        |never: Infallible| match never {},
    ));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// The answer to a request that lacks what it needs, if it does.
fn challenge(state: &mut State, address: SocketAddr, headers: &HeaderMap) -> Option<Response<Body>> {
    let given = headers
        .get("authorization")
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let value = if state.faults.basic {
        if given == "Basic dXNlcjpzZWNyZXQ=" {
            return None;
        }
        "Basic realm=\"test\"".to_owned()
    } else if state.faults.token_uses.is_some() {
        let token = given.strip_prefix("Bearer ").unwrap_or_default();
        if let Some(left) = state.tokens.get_mut(token).filter(|left| **left > 0) {
            *left -= 1;
            return None;
        }
        format!(r#"Bearer realm="http://{address}/token",service="fake",scope="repository:app:pull""#)
    } else {
        return None;
    };
    let mut response = full(
        StatusCode::UNAUTHORIZED,
        r#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#,
    );
    response
        .headers_mut()
        .insert("www-authenticate", value.parse().expect("header"));
    Some(response)
}

fn token(state: &mut State, headers: &HeaderMap) -> Response<Body> {
    let given = headers
        .get("authorization")
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    if given != "Basic dXNlcjpzZWNyZXQ=" {
        return full(
            StatusCode::UNAUTHORIZED,
            r#"{"details":"incorrect username or password"}"#,
        );
    }
    let token = format!("t{}", state.tokens.len());
    state
        .tokens
        .insert(token.clone(), state.faults.token_uses.unwrap_or_default());
    full(StatusCode::OK, format!(r#"{{"token":"{token}"}}"#))
}

async fn answer(
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let delay = {
        let state = state.lock();
        state.faults.layer_delay.filter(|_| path.contains("/blobs/"))
    };
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
    }
    let mut state = state.lock();
    state.seen.push(Seen {
        method: request.method().to_string(),
        path: path.clone(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        headers: request.headers().clone(),
    });
    if path == "/token" {
        return Ok(token(&mut state, request.headers()));
    }
    if state.faults.unavailable > 0 {
        state.faults.unavailable -= 1;
        return Ok(full(StatusCode::SERVICE_UNAVAILABLE, ""));
    }
    if let Some(response) = challenge(&mut state, address, request.headers()) {
        return Ok(response);
    }
    let below = path.trim_start_matches("/v2/");
    if let Some((media_type, bytes)) = state.manifests.get(below) {
        let mut response = full(StatusCode::OK, bytes.clone());
        response
            .headers_mut()
            .insert("content-type", media_type.parse().expect("header"));
        return Ok(response);
    }
    let digest = path.rsplit('/').next().unwrap_or_default().to_owned();
    if !path.contains("/blobs/") || !state.blobs.contains_key(&digest) {
        return Ok(full(
            StatusCode::NOT_FOUND,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no"}]}"#,
        ));
    }
    if let Some(other) = state.faults.redirect_to {
        let mut response = full(StatusCode::TEMPORARY_REDIRECT, "");
        let target = format!("http://{other}{path}");
        response
            .headers_mut()
            .insert("location", target.parse().expect("header"));
        return Ok(response);
    }
    Ok(blob(&mut state, &digest, request.headers()))
}

fn blob(state: &mut State, digest: &str, headers: &HeaderMap) -> Response<Body> {
    let mut bytes = state.blobs[digest].clone();
    let is_layer = !bytes.starts_with(b"{");
    if state.faults.corrupt && is_layer {
        let mut changed = bytes.to_vec();
        let middle = changed.len() / 2;
        changed[middle] ^= 0xff;
        bytes = changed.into();
    }
    let total = bytes.len();
    let start = headers
        .get("range")
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("bytes="))
        .and_then(|v| v.trim_end_matches('-').parse::<usize>().ok())
        .filter(|_| !state.faults.no_ranges);
    let bytes = bytes.slice(start.unwrap_or(0)..);
    let mut response = match &mut state.faults.cut_after {
        Some((limit, times)) if is_layer && *times > 0 && bytes.len() > *limit => {
            *times -= 1;
            let data = Ok(Frame::data(bytes.slice(..*limit)));
            let cut = async {
                // The server sends what it has before it meets the error.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(std::io::Error::other("cut"))
            };
            let frames = futures::stream::iter([data]).chain(futures::stream::once(cut));
            let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
            response
                .headers_mut()
                .insert("content-length", bytes.len().into());
            response
        }
        _ => full(StatusCode::OK, bytes),
    };
    if let Some(start) = start {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {start}-{}/{total}", total - 1);
        response
            .headers_mut()
            .insert("content-range", range.parse().expect("header"));
    }
    response
}

/// Debian's `docker-registry` on loopback, ended with this value.
pub(crate) struct DockerRegistry {
    child: Child,
    pub(crate) port: u16,
    _dir: tempfile::TempDir,
}

impl DockerRegistry {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        // The port is free now; nothing else on loopback is likely to take it before the child does.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .expect("bind")
            .local_addr()
            .expect("addr")
            .port();
        let config = dir.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
            dir.path().join("data").display()
        );
        std::fs::write(&config, text).expect("config");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry (Debian package docker-registry) starts");
        let registry = Self {
            child,
            port,
            _dir: dir,
        };
        // It says nowhere when it listens, so this asks until it does.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "docker-registry does not listen"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        registry
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        // Only fails when the child has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
