//! Listening, tokens, and the way from a URL to a session.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use hyper::header::HeaderValue;
use hyper::{HeaderMap, StatusCode};
use hyper_util::rt::TokioIo;
use keelson_cri::v1;
use parking_lot::Mutex;
use rand::RngCore;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;

use super::{portforward, spdy_command, websocket};
use crate::runtime::{Inner, Runtime};

/// How long a token is good.
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Tokens that may wait at the same time.
const MAX_TOKENS: usize = 1000;

/// What a token stands for.
#[derive(Debug, Clone)]
pub(crate) enum Session {
    /// Run a process.
    Exec(v1::ExecRequest),
    /// Attach to a container.
    Attach(v1::AttachRequest),
    /// Forward ports.
    PortForward(v1::PortForwardRequest),
}

/// The server; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct StreamingServer {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    tokens: Arc<Mutex<HashMap<String, (Instant, Session)>>>,
}

impl StreamingServer {
    /// Listens on a free loopback port.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn bind() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self {
            listener: Arc::new(listener),
            address,
            tokens: Arc::default(),
        })
    }

    /// Makes a URL for a session.
    pub(crate) fn register(&self, verb: &str, session: Session) -> String {
        let mut bytes = [0; 16];
        rand::rng().fill_bytes(&mut bytes);
        let token = hex::encode(bytes);
        let mut tokens = self.tokens.lock();
        tokens.retain(|_, (made, _)| made.elapsed() < TOKEN_LIFE);
        if tokens.len() >= MAX_TOKENS
            && let Some(oldest) = tokens
                .iter()
                .min_by_key(|(_, (made, _))| *made)
                .map(|(token, _)| token.clone())
        {
            tokens.remove(&oldest);
        }
        tokens.insert(token.clone(), (Instant::now(), session));
        format!("http://{}/{verb}/{token}", self.address)
    }

    /// Takes what a token stands for; a second time there is nothing.
    fn take(&self, token: &str) -> Option<Session> {
        let (made, session) = self.tokens.lock().remove(token)?;
        (made.elapsed() < TOKEN_LIFE).then_some(session)
    }

    /// Serves until the runtime closes. Sessions end with it.
    pub(crate) async fn run(&self, runtime: Weak<Inner>, closing: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = closing.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let (server, runtime) = (self.clone(), runtime.clone());
                        connections.spawn(async move { server.connection(runtime, stream).await });
                    }
                    // Out of descriptors, or a client that is gone: the next one may do better.
                    Err(error) => tracing::warn!(%error, "accepting a streaming connection"),
                }
            }
        }
        connections.shutdown().await;
    }

    async fn connection(&self, runtime: Weak<Inner>, stream: tokio::net::TcpStream) {
        // Keystrokes are small; latency is what matters.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "setting TCP_NODELAY");
        }
        let (sender, mut upgrades) = tokio::sync::mpsc::channel::<Upgrade>(1);
        let server = self.clone();
        let service = hyper::service::service_fn(move |request| {
            let (server, sender) = (server.clone(), sender.clone());
            async move { Ok::<_, std::convert::Infallible>(server.answer(request, &sender).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "serving a streaming connection");
        }
        let (Ok(upgrade), Some(inner)) = (upgrades.try_recv(), runtime.upgrade()) else {
            return;
        };
        let runtime = Runtime(inner);
        match upgrade.on.await {
            Ok(upgraded) => {
                let socket = TokioIo::new(upgraded);
                if let Err(error) = serve(&runtime, upgrade.session, upgrade.protocol, socket).await {
                    tracing::debug!(%error, "a streaming session");
                }
            }
            Err(error) => tracing::debug!(%error, "upgrading a streaming connection"),
        }
    }

    /// Answers a request: checks the token, chooses a protocol, agrees to the upgrade.
    async fn answer(
        &self,
        mut request: hyper::Request<hyper::body::Incoming>,
        upgrades: &tokio::sync::mpsc::Sender<Upgrade>,
    ) -> hyper::Response<String> {
        let token = request
            .uri()
            .path()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        let Some(session) = self.take(&token) else {
            return refuse(StatusCode::NOT_FOUND, "unknown or used token");
        };
        let port_forward = matches!(session, Session::PortForward(_));
        let (protocol, response) = match choose(request.headers(), port_forward) {
            Ok(chosen) => chosen,
            Err(message) => return refuse(StatusCode::BAD_REQUEST, &message),
        };
        let on = hyper::upgrade::on(&mut request);
        if upgrades
            .send(Upgrade {
                on,
                session,
                protocol,
            })
            .await
            .is_err()
        {
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "closing");
        }
        response
    }
}

/// A connection on its way to another protocol.
struct Upgrade {
    on: hyper::upgrade::OnUpgrade,
    session: Session,
    protocol: Chosen,
}

/// The protocol of an upgraded connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chosen {
    /// WebSocket channels.
    Channels(websocket::Protocol),
    /// SPDY streams; whether the error stream carries a `Status`.
    Spdy(bool),
    /// SPDY in the messages of a WebSocket.
    Tunnel,
}

/// The subprotocol of SPDY in WebSocket for port-forward.
const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

fn refuse(status: StatusCode, message: &str) -> hyper::Response<String> {
    let mut response = hyper::Response::new(message.to_owned());
    *response.status_mut() = status;
    response
}

/// Chooses a protocol from the request's headers, and makes the answer that agrees to it.
fn choose(headers: &HeaderMap, port_forward: bool) -> Result<(Chosen, hyper::Response<String>), String> {
    let list = |name: &str| -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
            .collect()
    };
    let mut response = hyper::Response::new(String::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert("connection", HeaderValue::from_static("Upgrade"));
    let mut put = |name: &'static str, value: &str| -> Result<(), String> {
        out.insert(
            name,
            HeaderValue::from_str(value).map_err(|error| error.to_string())?,
        );
        Ok(())
    };
    let upgrade = list("upgrade");
    if upgrade
        .iter()
        .any(|value| value.eq_ignore_ascii_case("websocket"))
    {
        let key = headers
            .get("sec-websocket-key")
            .ok_or("missing Sec-WebSocket-Key")?;
        let offered = list("sec-websocket-protocol");
        let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
        let (chosen, name) = if port_forward {
            if !offered.contains(&TUNNEL_PROTOCOL) {
                return Err(format!(
                    "unable to negotiate protocol: only {TUNNEL_PROTOCOL} is supported"
                ));
            }
            (Chosen::Tunnel, TUNNEL_PROTOCOL)
        } else {
            let protocol =
                websocket::negotiate(&offered).ok_or("unable to negotiate a WebSocket protocol")?;
            (Chosen::Channels(protocol), protocol.name)
        };
        put("upgrade", "websocket")?;
        put("sec-websocket-accept", &derive_accept_key(key.as_bytes()))?;
        if !name.is_empty() {
            put("sec-websocket-protocol", name)?;
        }
        return Ok((chosen, response));
    }
    if upgrade.iter().any(|value| value.eq_ignore_ascii_case("SPDY/3.1")) {
        let offered = list("x-stream-protocol-version");
        let (name, status) = if port_forward {
            (portforward::PROTOCOL, false)
        } else if offered.is_empty() {
            ("", false)
        } else {
            let known = |name: &String| spdy_command::PROTOCOLS.iter().find(|(known, _)| known == name);
            *offered
                .iter()
                .find_map(known)
                .ok_or("unable to negotiate a stream protocol")?
        };
        put("upgrade", "SPDY/3.1")?;
        if !name.is_empty() {
            put("x-stream-protocol-version", name)?;
        }
        return Ok((Chosen::Spdy(status), response));
    }
    Err("unable to upgrade: missing upgrade headers".to_owned())
}

/// Runs a session over an upgraded connection.
async fn serve(
    runtime: &Runtime,
    session: Session,
    protocol: Chosen,
    socket: TokioIo<hyper::upgrade::Upgraded>,
) -> io::Result<()> {
    match (protocol, session) {
        (Chosen::Channels(protocol), session) => {
            let socket = WebSocketStream::from_raw_socket(socket, Role::Server, None).await;
            websocket::serve(runtime, session, protocol, socket).await;
            Ok(())
        }
        (Chosen::Spdy(_), Session::PortForward(request)) => {
            portforward::serve(runtime, &request, socket).await
        }
        (Chosen::Spdy(status), session) => spdy_command::serve(runtime, session, status, socket).await,
        (Chosen::Tunnel, Session::PortForward(request)) => {
            let socket = WebSocketStream::from_raw_socket(socket, Role::Server, None).await;
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let ((), served) = tokio::join!(
                websocket::tunnel(socket, theirs),
                portforward::serve(runtime, &request, ours)
            );
            served
        }
        (Chosen::Tunnel, _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_chosen() {
        let check = |pairs: &[(&'static str, &'static str)], port_forward, expected: Option<(&str, &str)>| {
            let headers: HeaderMap = pairs
                .iter()
                .map(|(name, value)| {
                    (
                        hyper::header::HeaderName::from_static(name),
                        HeaderValue::from_static(value),
                    )
                })
                .collect();
            let found = choose(&headers, port_forward).ok().map(|(_, response)| response);
            let header = |name: &str| {
                found
                    .as_ref()
                    .and_then(|r| r.headers().get(name))
                    .and_then(|v| v.to_str().ok())
                    .map(str::to_owned)
            };
            assert_eq!(found.is_some(), expected.is_some(), "{pairs:?}");
            if let Some((name, value)) = expected {
                assert_eq!(header(name).as_deref(), Some(value), "{pairs:?}");
            }
        };
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let websocket = ("upgrade", "websocket");
        let protocols = ("sec-websocket-protocol", "v5.channel.k8s.io, v4.channel.k8s.io");
        check(
            &[websocket, key, protocols],
            false,
            Some(("sec-websocket-protocol", "v5.channel.k8s.io")),
        );
        check(
            &[websocket, key],
            false,
            Some(("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")),
        );
        check(&[websocket], false, None);
        check(&[websocket, key, protocols], true, None);
        let tunnel = ("sec-websocket-protocol", TUNNEL_PROTOCOL);
        check(
            &[websocket, key, tunnel],
            true,
            Some(("sec-websocket-protocol", TUNNEL_PROTOCOL)),
        );
        let versions = ("x-stream-protocol-version", "v9.channel.k8s.io,v4.channel.k8s.io");
        let spdy = ("upgrade", "SPDY/3.1");
        check(
            &[spdy, versions],
            false,
            Some(("x-stream-protocol-version", "v4.channel.k8s.io")),
        );
        check(
            &[spdy, ("x-stream-protocol-version", "v9.channel.k8s.io")],
            false,
            None,
        );
        check(&[], false, None);
    }
}
