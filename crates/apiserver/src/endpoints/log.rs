//! Logs of containers: plain text, or messages for a client that asks for a WebSocket.
//!
//! As upstream's `wsstream.Reader`: the subprotocols are `binary.k8s.io`, `base64.binary.k8s.io` and none; an empty message
//! comes first; what the client sends is ignored until it closes; the server closes when the log ends.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, CONTENT_TYPE, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use keelson_api::status::{Reason, Status};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::request::Incoming;
use super::upstream::{self, Target};
use crate::http::Body;

/// How much of a log goes into one message.
const MESSAGE: usize = 32 << 10;

/// Streams a log.
pub(super) async fn log(
    incoming: &Incoming<'_>,
    target: Target,
    parts: &Parts,
    upgrade: Option<OnUpgrade>,
) -> Result<Response<Body>, Status> {
    let socket = match upgrade {
        Some(upgrade) if is_websocket(parts) => Some((upgrade, Agreement::of(parts)?)),
        _ => None,
    };
    let mut response = upstream::get(incoming, target).await?;
    if response.status() == StatusCode::OK {
        if let Some((client, agreement)) = socket {
            return Ok(agreement.switch(incoming, client, response.into_body()));
        }
        let kind = HeaderValue::from_static("text/plain");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        return Ok(response);
    }
    let code = response.status().as_u16();
    let text = upstream::read_short(response.into_body()).await;
    let reason = match code {
        404 => Reason::NotFound,
        400 => Reason::BadRequest,
        _ => Reason::InternalError,
    };
    Err(Status::failure(code, reason, text.trim_end()))
}

/// The words of a header that is a list.
fn words(parts: &Parts, name: &HeaderName) -> Vec<String> {
    let values = parts.headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|word| word.trim().to_owned())
        .filter(|word| !word.is_empty())
        .collect()
}

fn is_websocket(parts: &Parts) -> bool {
    let has =
        |name: &HeaderName, wanted: &str| words(parts, name).iter().any(|w| w.eq_ignore_ascii_case(wanted));
    has(&UPGRADE, "websocket") && has(&CONNECTION, "upgrade")
}

/// What client and server agree on.
struct Agreement {
    accept: HeaderValue,
    protocol: Option<&'static str>,
}

impl Agreement {
    /// # Errors
    /// 400: the handshake is wrong, or no protocol that the client speaks is served.
    fn of(parts: &Parts) -> Result<Self, Status> {
        let bad = |why: String| Status::bad_request(format!("websocket handshake: {why}"));
        let header = |name: &HeaderName| {
            let value = parts.headers.get(name);
            value.and_then(|value| value.to_str().ok()).unwrap_or_default()
        };
        if header(&SEC_WEBSOCKET_VERSION) != "13" {
            return Err(bad("missing or bad WebSocket Version".to_owned()));
        }
        let key = header(&SEC_WEBSOCKET_KEY);
        if key.is_empty() {
            return Err(bad("missing Sec-WebSocket-Key".to_owned()));
        }
        let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(Status::internal)?;
        let offered = words(parts, &SEC_WEBSOCKET_PROTOCOL);
        let known = ["binary.k8s.io", "base64.binary.k8s.io"];
        let protocol = offered
            .iter()
            .find_map(|wanted| known.into_iter().find(|known| known == wanted));
        if protocol.is_none() && !offered.is_empty() {
            return Err(bad(format!(
                "requested protocol(s) are not supported: [{}]; supports [{}]",
                offered.join(" "),
                known.join(" ")
            )));
        }
        Ok(Self { accept, protocol })
    }

    /// Goes over to the WebSocket.
    fn switch(self, incoming: &Incoming<'_>, client: OnUpgrade, log: Body) -> Response<Body> {
        let encoded = self.protocol == Some("base64.binary.k8s.io");
        let shutdown = incoming.server.shutdown.clone();
        incoming.server.streams.spawn(async move {
            let result = tokio::select! {
                result = send(client, log, encoded) => result,
                () = shutdown.cancelled() => Ok(()),
            };
            if let Err(error) = result {
                tracing::debug!(%error, "a log's stream ended");
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept);
        if let Some(protocol) = self.protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        response
    }
}

/// Why a log was not sent to its end.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("the connection was not upgraded")]
    Upgrade(#[source] hyper::Error),
    #[error("the log could not be read: {0}")]
    Log(String),
    #[error("the client could not be reached")]
    Client(#[source] Error),
}

/// Sends a log until it ends or the client does.
async fn send(client: OnUpgrade, mut log: Body, encoded: bool) -> Result<(), SendError> {
    let io = TokioIo::new(client.await.map_err(SendError::Upgrade)?);
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    let (mut sink, mut received) = socket.split();
    let message = |bytes: Bytes| {
        if encoded {
            Message::text(STANDARD.encode(bytes))
        } else {
            Message::binary(bytes)
        }
    };
    sink.send(message(Bytes::new()))
        .await
        .map_err(SendError::Client)?;
    loop {
        let frame = tokio::select! {
            frame = log.frame() => frame,
            given = received.next() => match given {
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(SendError::Client(error)),
            },
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| SendError::Log(error.to_string()))?;
        let Ok(mut bytes) = frame.into_data() else {
            continue;
        };
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(MESSAGE));
            sink.send(message(piece)).await.map_err(SendError::Client)?;
        }
    }
    sink.close().await.map_err(SendError::Client)
}
