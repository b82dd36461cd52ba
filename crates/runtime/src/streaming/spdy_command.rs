//! Exec and attach over SPDY: a stream per channel, named by its `streamtype` header.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::command::{self, Channel, Input, Output, Wanted};
use super::server::Session;
use super::spdy::{self, Event, Frame, Reader};
use super::websocket::resize;
use crate::runtime::Runtime;

/// How long the client may take to open its streams; upstream's.
const STREAM_TIMEOUT: Duration = Duration::from_secs(30);
/// Messages that wait in each direction.
const QUEUE: usize = 16;

/// The stream protocols, best first; from version 4 on the error stream carries a `Status`.
pub(super) const PROTOCOLS: &[(&str, bool)] = &[
    ("v4.channel.k8s.io", true),
    ("v3.channel.k8s.io", false),
    ("v2.channel.k8s.io", false),
    ("channel.k8s.io", false),
];

/// Serves exec or attach.
///
/// # Errors
/// When the connection fails.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Send>(
    runtime: &Runtime,
    session: Session,
    status: bool,
    socket: S,
) -> io::Result<()> {
    let Some(wanted) = Wanted::of(&session) else {
        return Ok(());
    };
    let (read, write) = tokio::io::split(socket);
    let mut reader = Reader::new(read);
    let (frames, queue) = mpsc::channel(QUEUE);
    let writing = spdy::write(write, queue);
    let working = async {
        let opened = open_streams(&mut reader, &frames, wanted);
        let streams = tokio::time::timeout(STREAM_TIMEOUT, opened)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the client did not open its streams"))??;
        talk(runtime, session, status, &mut reader, &frames, &streams).await;
        drop(frames);
        Ok::<_, io::Error>(())
    };
    let (written, worked) = tokio::join!(writing, working);
    worked.and(written)
}

/// Accepts streams until all that the session has are there.
async fn open_streams<R: AsyncRead + Unpin>(
    reader: &mut Reader<R>,
    frames: &mpsc::Sender<Frame>,
    wanted: Wanted,
) -> io::Result<HashMap<String, u32>> {
    let mut expected = vec!["error"];
    let kinds = [
        (wanted.stdin, "stdin"),
        (wanted.stdout, "stdout"),
        (wanted.stderr && !wanted.tty, "stderr"),
    ];
    expected.extend(kinds.iter().filter(|(wanted, _)| *wanted).map(|(_, kind)| *kind));
    let mut streams = HashMap::new();
    while !expected.iter().all(|kind| streams.contains_key(*kind)) {
        let events = reader.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        for event in events {
            match event {
                Event::Stream(id, headers) => {
                    let kind = headers.get("streamtype").cloned().unwrap_or_default();
                    streams.insert(kind, id);
                    send(frames, Frame::Reply(id)).await?;
                }
                Event::Ping(id) => send(frames, Frame::Pong(id)).await?,
                _ => {}
            }
        }
    }
    Ok(streams)
}

async fn send(frames: &mpsc::Sender<Frame>, frame: Frame) -> io::Result<()> {
    frames
        .send(frame)
        .await
        .map_err(|_| io::ErrorKind::BrokenPipe.into())
}

/// Moves bytes between the streams and the session, until it ends.
async fn talk<R: AsyncRead + Unpin>(
    runtime: &Runtime,
    session: Session,
    status: bool,
    reader: &mut Reader<R>,
    frames: &mpsc::Sender<Frame>,
    streams: &HashMap<String, u32>,
) {
    let (inputs, input) = mpsc::channel(QUEUE);
    let (output, mut outputs) = mpsc::channel::<Output>(QUEUE);
    let mut late = streams.get("resize").copied();
    let reading = async move {
        let stdin = streams.get("stdin").copied();
        while let Ok(Some(events)) = reader.next().await {
            for event in events {
                let input = match event {
                    Event::Data(id, bytes) if Some(id) == stdin => Some(Input::Stdin(bytes)),
                    Event::Data(id, bytes) if Some(id) == late => resize(&bytes),
                    Event::Fin(id) | Event::Reset(id) if Some(id) == stdin => Some(Input::StdinEnd),
                    // The resize stream may come after the others.
                    Event::Stream(id, headers) => {
                        if headers.get("streamtype").is_some_and(|kind| kind == "resize") {
                            late = Some(id);
                        }
                        if frames.send(Frame::Reply(id)).await.is_err() {
                            return;
                        }
                        None
                    }
                    Event::Ping(id) => {
                        if frames.send(Frame::Pong(id)).await.is_err() {
                            return;
                        }
                        None
                    }
                    _ => None,
                };
                if let Some(input) = input
                    && inputs.send(input).await.is_err()
                {
                    return;
                }
            }
        }
    };
    let id_of = |channel: Channel| {
        let name = match channel {
            Channel::Stdout => "stdout",
            Channel::Stderr => "stderr",
            Channel::Error => "error",
        };
        streams.get(name).copied()
    };
    let forwarding = async {
        while let Some(output) = outputs.recv().await {
            if let Some(id) = id_of(output.channel)
                && frames.send(Frame::Data(id, output.bytes)).await.is_err()
            {
                break;
            }
        }
    };
    let running = async {
        let (end, ()) = tokio::join!(command::run(runtime, session, input, output), forwarding);
        let text = if status {
            Some(end.status().to_string())
        } else {
            end.text()
        };
        if let (Some(id), Some(text)) = (id_of(Channel::Error), text) {
            // When the client is gone nobody is to be told.
            let _ = frames.send(Frame::Data(id, text.into_bytes().into())).await;
        }
        for id in [Channel::Error, Channel::Stdout, Channel::Stderr]
            .into_iter()
            .filter_map(id_of)
        {
            // As above.
            let _ = frames.send(Frame::Fin(id)).await;
        }
    };
    tokio::pin!(running);
    tokio::select! {
        () = &mut running => {}
        () = reading => running.await,
    }
}
