//! The channel protocols over WebSocket.
//!
//! Every message begins with a channel: 0 stdin, 1 stdout, 2 stderr, 3 error, 4 resize, and from version 5 on 255,
//! which closes the channel named in its next byte. The base64 variants are text, with the channel as a digit.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::command::{self, Channel, End, Input, Output, Wanted};
use super::server::Session;
use crate::runtime::Runtime;

/// Messages that wait in each direction.
const QUEUE: usize = 16;

/// A channel protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Protocol {
    pub(super) name: &'static str,
    base64: bool,
    /// The error channel carries a `Status`.
    status: bool,
}

/// All of them, best first; the empty name is for clients that ask for none.
const PROTOCOLS: &[Protocol] = &[
    Protocol {
        name: "v5.channel.k8s.io",
        base64: false,
        status: true,
    },
    Protocol {
        name: "v4.channel.k8s.io",
        base64: false,
        status: true,
    },
    Protocol {
        name: "v4.base64.channel.k8s.io",
        base64: true,
        status: true,
    },
    Protocol {
        name: "channel.k8s.io",
        base64: false,
        status: false,
    },
    Protocol {
        name: "base64.channel.k8s.io",
        base64: true,
        status: false,
    },
];

/// Chooses the first protocol of the client's list that is known.
pub(super) fn negotiate(offered: &[&str]) -> Option<Protocol> {
    if offered.is_empty() {
        return Some(Protocol {
            name: "",
            base64: false,
            status: false,
        });
    }
    offered
        .iter()
        .find_map(|name| PROTOCOLS.iter().find(|protocol| protocol.name == *name))
        .copied()
}

/// Serves exec or attach.
pub(super) async fn serve<S>(
    runtime: &Runtime,
    session: Session,
    protocol: Protocol,
    socket: WebSocketStream<S>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let Some(wanted) = Wanted::of(&session) else {
        return;
    };
    let (mut sink, mut stream) = socket.split();
    let (inputs, input) = mpsc::channel(QUEUE);
    let (output, mut outputs) = mpsc::channel::<Output>(QUEUE);
    // Tells the client that the session is established.
    let first = if wanted.stdout {
        Channel::Stdout
    } else {
        Channel::Stderr
    };
    if sink.send(encode(protocol, first, &[])).await.is_err() {
        return;
    }
    let reading = async {
        while let Some(Ok(message)) = stream.next().await {
            let input = match message {
                Message::Binary(bytes) if !protocol.base64 => decode(&bytes),
                Message::Text(text) if protocol.base64 => decode_base64(text.as_str()),
                Message::Close(_) => break,
                _ => None,
            };
            if let Some(input) = input
                && inputs.send(input).await.is_err()
            {
                break;
            }
        }
        drop(inputs);
    };
    let running = command::run(runtime, session, input, output);
    let work = async {
        tokio::pin!(running);
        let end = loop {
            tokio::select! {
                biased;
                Some(output) = outputs.recv() => {
                    if sink.send(encode(protocol, output.channel, &output.bytes)).await.is_err() {
                        // The reading side sees the end, and ends the session.
                        outputs.close();
                    }
                }
                end = &mut running => break end,
            }
        };
        while let Some(output) = outputs.recv().await {
            if sink
                .send(encode(protocol, output.channel, &output.bytes))
                .await
                .is_err()
            {
                return;
            }
        }
        if let Some(text) = error_message(protocol, &end) {
            // The client may be gone; then nobody is to be told.
            let _ = sink.send(encode(protocol, Channel::Error, text.as_bytes())).await;
        }
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        // As above: the session has ended, and a client that is gone needs no farewell.
        let _ = sink.send(Message::Close(Some(frame))).await;
        let _ = sink.close().await;
    };
    // Reading goes on while the session ends, so that the client's close is seen.
    tokio::pin!(work);
    tokio::select! {
        () = &mut work => {}
        () = reading => work.await,
    }
}

fn error_message(protocol: Protocol, end: &End) -> Option<String> {
    if protocol.status {
        Some(end.status().to_string())
    } else {
        end.text()
    }
}

fn encode(protocol: Protocol, channel: Channel, bytes: &[u8]) -> Message {
    let channel = channel as u8;
    if protocol.base64 {
        let mut text = char::from(b'0' + channel).to_string();
        STANDARD.encode_string(bytes, &mut text);
        Message::text(text)
    } else {
        let mut message = Vec::with_capacity(bytes.len() + 1);
        message.push(channel);
        message.extend_from_slice(bytes);
        Message::binary(message)
    }
}

fn decode(bytes: &[u8]) -> Option<Input> {
    match bytes.split_first()? {
        (0, data) => Some(Input::Stdin(Bytes::copy_from_slice(data))),
        (4, data) => resize(data),
        (255, [0, ..]) => Some(Input::StdinEnd),
        _ => None,
    }
}

fn decode_base64(text: &str) -> Option<Input> {
    let (channel, data) = text.as_bytes().split_first()?;
    let mut message = vec![channel.checked_sub(b'0')?];
    STANDARD.decode_vec(data, &mut message).ok()?;
    decode(&message)
}

/// `{"Width": …, "Height": …}`
pub(super) fn resize(json: &[u8]) -> Option<Input> {
    let value: serde_json::Value = serde_json::from_slice(json).ok()?;
    let number = |upper: &str, lower: &str| {
        let value = value.get(upper).or_else(|| value.get(lower))?.as_u64()?;
        u16::try_from(value).ok()
    };
    Some(Input::Resize(
        number("Width", "width")?,
        number("Height", "height")?,
    ))
}

/// Presents the binary messages of a WebSocket as a byte stream, until either side ends.
pub(super) async fn tunnel<S>(socket: WebSocketStream<S>, bytes: tokio::io::DuplexStream)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut sink, mut stream) = socket.split();
    let (mut read, mut write) = tokio::io::split(bytes);
    let inward = async {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(bytes) if write.write_all(&bytes).await.is_ok() => {}
                Message::Binary(_) | Message::Close(_) => break,
                _ => {}
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; 32 * 1024];
        while let Ok(length @ 1..) = read.read(&mut buffer).await {
            if sink
                .send(Message::binary(buffer[..length].to_vec()))
                .await
                .is_err()
            {
                break;
            }
        }
        // The client may have closed already.
        let _ = sink.close().await;
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_negotiated() {
        let check = |offered: &[&str], chosen: Option<&str>| {
            assert_eq!(
                negotiate(offered).map(|protocol| protocol.name),
                chosen,
                "{offered:?}"
            );
        };
        check(
            &["v5.channel.k8s.io", "v4.channel.k8s.io"],
            Some("v5.channel.k8s.io"),
        );
        check(
            &["v9.channel.k8s.io", "base64.channel.k8s.io"],
            Some("base64.channel.k8s.io"),
        );
        check(&["nonsense"], None);
        check(&[], Some(""));
    }

    #[test]
    fn messages_are_decoded() {
        assert!(matches!(decode(b"\0abc"), Some(Input::Stdin(bytes)) if &bytes[..] == b"abc"));
        assert!(matches!(
            decode(b"\x04{\"Width\":80,\"Height\":24}"),
            Some(Input::Resize(80, 24))
        ));
        assert!(matches!(decode(b"\xff\0"), Some(Input::StdinEnd)));
        assert!(decode(b"\xff\x01").is_none());
        assert!(decode(b"").is_none());
        assert!(matches!(decode_base64("0YWJj"), Some(Input::Stdin(bytes)) if &bytes[..] == b"abc"));
        assert!(decode_base64("0***").is_none());
    }
}
