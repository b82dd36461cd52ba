//! Probes and hooks that send an HTTP request. Certificates are not verified: the request goes to the pod's own address.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Outcome, tcp};

/// What of a body is read.
const MAX_BODY: usize = 10 << 10;
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// The end of a chain of redirects.
pub(crate) struct Response {
    pub(crate) status: u16,
}

pub(super) async fn probe(action: &HTTPGetAction, pod_ip: &str, port: u16, limit: Duration) -> Outcome {
    match get(action, pod_ip, port, limit).await {
        // A redirect to another host is as good as an answer.
        Ok(response) if (200..400).contains(&response.status) => Outcome::Success,
        Ok(response) => Outcome::Failure(format!("HTTP probe failed with statuscode: {}", response.status)),
        Err(error) => Outcome::Failure(error),
    }
}

/// Sends the request of `action`; follows redirects on the same host. The error reads as Go's.
pub(crate) async fn get(
    action: &HTTPGetAction,
    pod_ip: &str,
    port: u16,
    limit: Duration,
) -> Result<Response, String> {
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let host = action
        .host
        .clone()
        .filter(|host| !host.is_empty())
        .unwrap_or_else(|| pod_ip.to_owned());
    let path = action
        .path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or("/");
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let shown_host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.clone()
    };
    let first = format!("{scheme}://{shown_host}:{port}{path}");
    let work = async {
        let mut target = Target {
            scheme,
            host,
            port,
            path,
        };
        for _ in 0..=MAX_REDIRECTS {
            let (status, location) = request(action, &target, limit).await?;
            let next = location
                .filter(|_| (300..400).contains(&status))
                .and_then(|location| target.redirect(&location));
            match next {
                Some(next) => target = next,
                None => return Ok(Response { status }),
            }
        }
        Err("stopped after 10 redirects".to_owned())
    };
    let result = tokio::time::timeout(limit, work).await;
    let timed_out = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned();
    result
        .unwrap_or(Err(timed_out))
        .map_err(|error| format!("Get {first:?}: {error}"))
}

struct Target {
    scheme: String,
    host: String,
    port: u16,
    path: String,
}

impl Target {
    /// The next target if it is on the same host.
    fn redirect(&self, location: &str) -> Option<Self> {
        if location.starts_with('/') {
            return Some(Self {
                path: location.to_owned(),
                scheme: self.scheme.clone(),
                host: self.host.clone(),
                port: self.port,
            });
        }
        let uri: http::Uri = location.parse().ok()?;
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
        let scheme = uri.scheme_str()?.to_owned();
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        (host == self.host).then(|| Self {
            scheme,
            host: host.to_owned(),
            port,
            path,
        })
    }
}

async fn request(
    action: &HTTPGetAction,
    target: &Target,
    limit: Duration,
) -> Result<(u16, Option<String>), String> {
    let stream = tcp::dial(&target.host, target.port, limit).await?;
    if target.scheme != "https" {
        return exchange(action, target, stream).await;
    }
    let connector = tokio_rustls::TlsConnector::from(tls());
    let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
    let stream = connector
        .connect(name, stream)
        .await
        .map_err(|error| error.to_string())?;
    exchange(action, target, stream).await
}

async fn exchange<S>(
    action: &HTTPGetAction,
    target: &Target,
    stream: S,
) -> Result<(u16, Option<String>), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let authority = if target.host.contains(':') {
        format!("[{}]:{}", target.host, target.port)
    } else {
        format!("{}:{}", target.host, target.port)
    };
    let mut builder = http::Request::get(&target.path);
    let headers = action.http_headers.as_deref().unwrap_or_default();
    let has = |name: &str| {
        headers
            .iter()
            .any(|header| header.name.eq_ignore_ascii_case(name))
    };
    for (name, value) in [
        ("Host", authority.as_str()),
        ("User-Agent", "kube-probe/1.36"),
        ("Accept", "*/*"),
        ("Connection", "close"),
    ] {
        if !has(name) {
            builder = builder.header(name, value);
        }
    }
    for header in headers
        .iter()
        .filter(|header| !header.value.is_empty() || !header.name.eq_ignore_ascii_case("accept"))
    {
        builder = builder.header(&header.name, &header.value);
    }
    let request = builder
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let work = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let location = response
            .headers()
            .get("location")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        // What the body says does not matter; a longer one is cut off.
        let _ = Limited::new(response.into_body(), MAX_BODY).collect().await;
        Ok((status, location))
    };
    tokio::pin!(work);
    let connection = async {
        match connection.await {
            Ok(()) => std::future::pending().await,
            Err(error) => error.to_string(),
        }
    };
    tokio::select! {
        biased;
        result = &mut work => result,
        error = connection => Err(error),
    }
}

/// Accepts every certificate, as upstream's prober does.
fn tls() -> Arc<ClientConfig> {
    static CONFIG: std::sync::LazyLock<Arc<ClientConfig>> = std::sync::LazyLock::new(|| {
        let mut config = keelson_pki::tls::client_config(&[], None)
            .expect("invariant: no authority and no identity can be wrong");
        keelson_pki::tls::accept_any(&mut config);
        Arc::new(config)
    });
    CONFIG.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers requests by path from a table of raw responses.
    async fn server() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = vec![0; 4096];
                    let read = stream.read(&mut request).await.unwrap();
                    let text = String::from_utf8_lossy(&request[..read]).into_owned();
                    let answer = match text.split(' ').nth(1).unwrap() {
                        "/ok" => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(),
                        "/bad" => "HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno".to_owned(),
                        "/near" => "HTTP/1.1 302 Found\r\nlocation: /bad\r\ncontent-length: 0\r\n\r\n".to_owned(),
                        "/far" => "HTTP/1.1 302 Found\r\nlocation: http://elsewhere.invalid/\r\ncontent-length: 0\r\n\r\n".to_owned(),
                        "/agent" if text.contains("kube-probe/1.36") && text.contains("x-a: b") => "HTTP/1.1 204 OK\r\n\r\n".to_owned(),
                        "/slow" => {
                            tokio::time::sleep(Duration::from_secs(5)).await;
                            String::new()
                        }
                        _ => "HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n".to_owned(),
                    };
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        port
    }

    #[tokio::test]
    async fn outcomes_and_texts() {
        let port = server().await;
        let closed = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        for (path, port, expected) in [
            ("/ok", port, Ok(())),
            (
                "/bad",
                port,
                Err("HTTP probe failed with statuscode: 503".to_owned()),
            ),
            (
                "/near",
                port,
                Err("HTTP probe failed with statuscode: 503".to_owned()),
            ),
            ("/far", port, Ok(())),
            ("/agent", port, Ok(())),
            (
                "/slow",
                port,
                Err(format!(
                    "Get \"http://127.0.0.1:{port}/slow\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
                )),
            ),
            (
                "/ok",
                closed,
                Err(format!(
                    "Get \"http://127.0.0.1:{closed}/ok\": dial tcp 127.0.0.1:{closed}: connect: connection refused"
                )),
            ),
        ] {
            let action: HTTPGetAction = HTTPGetAction {
                path: Some(path.into()),
                port: IntOrString::Int(0),
                http_headers: Some(vec![k8s_openapi::api::core::v1::HTTPHeader {
                    name: "X-A".into(),
                    value: "b".into(),
                }]),
                ..HTTPGetAction::default()
            };
            let outcome = probe(&action, "127.0.0.1", port, Duration::from_millis(300)).await;
            let expected = expected.map_or_else(Outcome::Failure, |()| Outcome::Success);
            assert_eq!(outcome, expected, "{path}");
        }
    }
}
