//! Requests that the server makes to kubelets and proxied endpoints.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use keelson_api::status::Status;
use keelson_pki::{Certificate, Leaf, PrivateKey};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::request::Incoming;
use crate::config::KubeletClientConfig;
use crate::http::{Body, BodyError, RequestBody};

const DIAL: Duration = Duration::from_secs(30);
const MAX_ERROR_TEXT: usize = 64 << 10;

/// Dials kubelets with the server's identity.
pub(crate) struct KubeletProxy {
    tls: parking_lot::RwLock<TlsConnector>,
    unverified: TlsConnector,
}

impl KubeletProxy {
    /// Reads keys and certificates.
    pub(crate) fn new(config: &KubeletClientConfig) -> Result<Self, keelson_pki::Error> {
        let mut unverified = keelson_pki::tls::client_config(&[], None)?;
        keelson_pki::tls::accept_any(&mut unverified);
        Ok(Self {
            tls: connector(config)?.into(),
            unverified: Arc::new(unverified).into(),
        })
    }

    /// Uses another identity from now on.
    pub(crate) fn renew(&self, config: &KubeletClientConfig) -> Result<(), keelson_pki::Error> {
        *self.tls.write() = connector(config)?;
        Ok(())
    }
}

fn connector(config: &KubeletClientConfig) -> Result<TlsConnector, keelson_pki::Error> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let leaf = Leaf {
        certificate: Certificate::from_pem(&text(&config.identity.certificate_pem))?,
        key: PrivateKey::from_pem(&text(&config.identity.key_pem))?,
    };
    let cas = match &config.ca_pem {
        Some(pem) => Certificate::all_from_pem(&text(pem))?,
        None => Vec::new(),
    };
    let mut tls = keelson_pki::tls::client_config(&cas, Some(&leaf))?;
    if config.ca_pem.is_none() {
        keelson_pki::tls::accept_any(&mut tls);
    }
    Ok(Arc::new(tls).into())
}

/// Where a request goes on.
pub(super) struct Target {
    host: String,
    port: u16,
    path: String,
    transport: Transport,
}

#[derive(PartialEq, Eq)]
enum Transport {
    Kubelet,
    Tls,
    Plain,
}

impl Target {
    /// A kubelet, with the server's client certificate.
    pub(super) fn kubelet(host: String, port: u16, path: String) -> Self {
        Self {
            host,
            port,
            path,
            transport: Transport::Kubelet,
        }
    }

    /// A pod or service endpoint, without credentials.
    pub(super) fn plain(host: String, port: u16, path: String, tls: bool) -> Self {
        Self {
            host,
            port,
            path,
            transport: if tls { Transport::Tls } else { Transport::Plain },
        }
    }

    /// `host:port`
    pub(super) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn dial(incoming: &Incoming<'_>, target: &Target) -> Result<Box<dyn Stream>, Status> {
    let failed = |e: &dyn std::fmt::Display| {
        Status::failure(
            if target.transport == Transport::Kubelet {
                500
            } else {
                503
            },
            if target.transport == Transport::Kubelet {
                keelson_api::status::Reason::InternalError
            } else {
                keelson_api::status::Reason::ServiceUnavailable
            },
            format!(
                "error trying to reach service: dial tcp {}: {e}",
                target.authority()
            ),
        )
    };
    let address = (target.host.as_str(), target.port);
    let tcp = match tokio::time::timeout(DIAL, TcpStream::connect(address)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) => return Err(failed(&error)),
        Err(_) => return Err(failed(&"i/o timeout")),
    };
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let connector = match (&target.transport, &incoming.server.kubelets) {
        (Transport::Plain, _) => return Ok(Box::new(tcp)),
        (_, None) => {
            return Err(Status::service_unavailable(
                "this server has no client certificate for kubelets",
            ));
        }
        (Transport::Kubelet, Some(proxy)) => proxy.tls.read().clone(),
        (Transport::Tls, Some(proxy)) => proxy.unverified.clone(),
    };
    let name = ServerName::try_from(target.host.clone()).map_err(|e| failed(&e))?;
    match tokio::time::timeout(DIAL, connector.connect(name, tcp)).await {
        Ok(Ok(tls)) => Ok(Box::new(tls)),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(failed(&"TLS handshake timeout")),
    }
}

async fn send(
    incoming: &Incoming<'_>,
    target: &Target,
    request: Request<UnsyncBoxBody<bytes::Bytes, BodyError>>,
) -> Result<Response<hyper::body::Incoming>, Status> {
    let stream = dial(incoming, target).await?;
    let failed = |e: hyper::Error| {
        Status::service_unavailable(format!(
            "error trying to reach service {}: {e}",
            target.authority()
        ))
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let shutdown = incoming.server.shutdown.clone();
    incoming.server.streams.spawn(async move {
        tokio::select! {
            result = connection.with_upgrades() => if let Err(error) = result {
                tracing::debug!(%error, "a proxied connection ended");
            },
            () = shutdown.cancelled() => {}
        }
    });
    sender.send_request(request).await.map_err(failed)
}

/// A GET without body.
pub(super) async fn get(incoming: &Incoming<'_>, target: Target) -> Result<Response<Body>, Status> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let mut request = Request::new(body);
    *request.uri_mut() = uri(&target.path)?;
    request.headers_mut().insert(HOST, host(&target)?);
    let response = send(incoming, &target, request).await?;
    let (mut parts, body) = response.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    Ok(Response::from_parts(parts, Body::boxed(body)))
}

/// Passes a request on, upgrades included.
pub(super) async fn forward(
    incoming: &Incoming<'_>,
    target: Target,
    parts: &Parts,
    body: RequestBody,
    upgrade: Option<OnUpgrade>,
) -> Result<Response<Body>, Status> {
    let upgrades = parts.headers.contains_key(UPGRADE);
    let mut headers = parts.headers.clone();
    let (connection, protocol) = (headers.remove(CONNECTION), headers.remove(UPGRADE));
    strip_hop_by_hop(&mut headers);
    headers.remove(AUTHORIZATION);
    let impersonation: Vec<_> = headers
        .keys()
        .filter(|k| k.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    for name in impersonation {
        headers.remove(name);
    }
    headers.insert(HOST, host(&target)?);
    if let Some(remote) = incoming.connection.remote
        && let Ok(value) = HeaderValue::from_str(&remote.ip().to_string())
    {
        headers.append("X-Forwarded-For", value);
    }
    if upgrades && let (Some(connection), Some(protocol)) = (connection, protocol) {
        headers.insert(CONNECTION, connection);
        headers.insert(UPGRADE, protocol);
    }
    let mut request = Request::new(body.into_boxed());
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri(&target.path)?;
    *request.headers_mut() = headers;
    if upgrades && upgrade.is_none() {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let streaming = matches!(
        incoming.info.subresource.as_str(),
        "exec" | "attach" | "portforward"
    );
    if streaming && !upgrades {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let mut response = send(incoming, &target, request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let (Some(client), true) = (upgrade, upgrades) else {
            return Err(Status::internal(
                "the server answered with an upgrade nobody asked for",
            ));
        };
        let server = hyper::upgrade::on(&mut response);
        let shutdown = incoming.server.shutdown.clone();
        incoming.server.streams.spawn(async move {
            tokio::select! {
                () = tunnel(client, server) => {}
                () = shutdown.cancelled() => {}
            }
        });
        let (parts, _) = response.into_parts();
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let (mut parts, body) = response.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    Ok(Response::from_parts(parts, Body::boxed(body)))
}

/// Passes bytes both ways until one side ends.
pub(crate) async fn tunnel(client: OnUpgrade, server: OnUpgrade) {
    let (client, server) = match futures::future::try_join(client, server).await {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "a stream was not upgraded");
            return;
        }
    };
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    if let Err(error) =
        tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, 32 << 10, 32 << 10).await
    {
        tracing::debug!(%error, "a stream ended");
    }
}

/// Removes what belongs to one connection.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "proxy-authenticate",
        "proxy-authorization",
    ] {
        headers.remove(name);
    }
}

fn uri(path: &str) -> Result<http::Uri, Status> {
    path.parse()
        .map_err(|e| Status::bad_request(format!("invalid path {path:?}: {e}")))
}

fn host(target: &Target) -> Result<HeaderValue, Status> {
    HeaderValue::from_str(&target.authority()).map_err(Status::internal)
}

/// The text of an error body.
pub(super) async fn read_short(body: Body) -> String {
    match Limited::new(body, MAX_ERROR_TEXT).collect().await {
        Ok(collected) => String::from_utf8_lossy(&collected.to_bytes()).into_owned(),
        Err(error) => format!("the answer could not be read: {error}"),
    }
}

/// Percent-encodes what is not unreserved.
pub(super) fn escape(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// A path with a query of these pairs.
pub(super) fn with_query(path: &str, pairs: &[(&str, String)]) -> String {
    let mut out = path.to_owned();
    for (at, (key, value)) in pairs.iter().enumerate() {
        out.push(if at == 0 { '?' } else { '&' });
        out.push_str(key);
        out.push('=');
        out.push_str(&escape(value));
    }
    out
}
