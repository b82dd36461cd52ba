//! Port-forward over SPDY: a pair of streams (`data` and `error`, tied by `requestid`) per forwarded connection.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;
use keelson_cri::v1;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::spdy::{self, Event, Frame, Reader};
use crate::protocol::Request;
use crate::runtime::Runtime;

/// The stream protocol.
pub(super) const PROTOCOL: &str = "portforward.k8s.io";
/// Frames that wait for the connection, and messages for each forwarded connection.
const QUEUE: usize = 16;

/// A pair of streams that is being opened.
#[derive(Debug, Default)]
struct Pair {
    data: Option<u32>,
    error: Option<u32>,
    port: Option<u16>,
}

/// Serves a port-forward connection until the client ends it.
///
/// # Errors
/// When the connection fails.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Send>(
    runtime: &Runtime,
    request: &v1::PortForwardRequest,
    socket: S,
) -> io::Result<()> {
    let (read, write) = tokio::io::split(socket);
    let (frames, queue) = mpsc::channel(QUEUE);
    let writing = spdy::write(write, queue);
    let (written, read) = tokio::join!(writing, accept(runtime, request, Reader::new(read), frames));
    read.and(written)
}

/// Reads events: opens connections, hands data to them.
async fn accept<R: AsyncRead + Unpin>(
    runtime: &Runtime,
    request: &v1::PortForwardRequest,
    mut reader: Reader<R>,
    frames: mpsc::Sender<Frame>,
) -> io::Result<()> {
    let mut pairs: HashMap<String, Pair> = HashMap::new();
    let mut connections: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    // Dropped with this function: then what is still forwarded ends too.
    let mut tasks = JoinSet::new();
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    while let Some(events) = reader.next().await? {
        for event in events {
            match event {
                Event::Stream(id, headers) => {
                    frames.send(Frame::Reply(id)).await.map_err(gone)?;
                    // Old clients send no id: then the port ties the pair.
                    let port = headers.get("port").cloned().unwrap_or_default();
                    let key = headers.get("requestid").unwrap_or(&port).clone();
                    let pair = pairs.entry(key.clone()).or_default();
                    pair.port = port.parse().ok();
                    match headers.get("streamtype").map(String::as_str) {
                        Some("data") => pair.data = Some(id),
                        Some("error") => pair.error = Some(id),
                        _ => {}
                    }
                    if let Pair {
                        data: Some(data),
                        error: Some(error),
                        port,
                    } = *pair
                    {
                        pairs.remove(&key);
                        let (sender, receiver) = mpsc::channel(QUEUE);
                        connections.insert(data, sender);
                        let (runtime, frames) = (runtime.clone(), frames.clone());
                        let sandbox = request.pod_sandbox_id.clone();
                        tasks.spawn(async move {
                            forward(&runtime, &sandbox, port, data, error, receiver, &frames).await;
                        });
                    }
                }
                Event::Data(id, bytes) => {
                    if let Some(connection) = connections.get(&id)
                        && connection.send(bytes).await.is_err()
                    {
                        connections.remove(&id);
                    }
                }
                Event::Fin(id) | Event::Reset(id) => drop(connections.remove(&id)),
                Event::Ping(id) => frames.send(Frame::Pong(id)).await.map_err(gone)?,
                Event::GoAway | Event::Ignored => {}
            }
        }
        // Connections that have ended.
        while tasks.try_join_next().is_some() {}
    }
    Ok(())
}

/// One forwarded connection, from its opening to the end of both directions.
async fn forward(
    runtime: &Runtime,
    sandbox: &str,
    port: Option<u16>,
    data: u32,
    error: u32,
    mut input: mpsc::Receiver<Bytes>,
    frames: &mpsc::Sender<Frame>,
) {
    let outcome = match port {
        Some(port) => match connect(runtime, sandbox, port).await {
            Ok(socket) => {
                let (mut read, mut write) = socket.into_split();
                let inward = async {
                    while let Some(bytes) = input.recv().await {
                        if write.write_all(&bytes).await.is_err() {
                            break;
                        }
                    }
                    // The peer may have closed already.
                    let _ = write.shutdown().await;
                };
                let outward = async {
                    let mut buffer = vec![0; 32 * 1024];
                    while let Ok(length @ 1..) = read.read(&mut buffer).await {
                        let bytes = Bytes::copy_from_slice(&buffer[..length]);
                        if frames.send(Frame::Data(data, bytes)).await.is_err() {
                            break;
                        }
                    }
                    // Fails when the client's connection has ended, and with it all its streams.
                    let _ = frames.send(Frame::Fin(data)).await;
                };
                tokio::join!(inward, outward);
                Ok(())
            }
            Err(error) => Err(format!(
                "error forwarding port {port} to pod {sandbox}, uid : failed to execute portforward in network \
                 namespace: failed to connect to localhost:{port} inside namespace \"{sandbox}\": {error}"
            )),
        },
        None => Err("invalid port".to_owned()),
    };
    if let Err(message) = outcome {
        // These fail when the client's connection has ended: then nobody is to be told.
        let _ = frames.send(Frame::Data(error, message.into_bytes().into())).await;
        let _ = frames.send(Frame::Fin(data)).await;
    }
    // The client may be gone; then nobody is to be told.
    // As above.
    let _ = frames.send(Frame::Fin(error)).await;
}

/// Connects to a port on the pod's loopback interface.
async fn connect(runtime: &Runtime, sandbox: &str, port: u16) -> io::Result<TcpStream> {
    let shim = runtime.sandbox(sandbox).ok().and_then(|sandbox| sandbox.shim());
    let shim = shim.ok_or_else(|| io::Error::other("the sandbox is not running"))?;
    let (_, mut fds) = shim
        .ask(Request::Dial { port }, Vec::new())
        .await
        .map_err(io::Error::other)?;
    let fd = fds
        .pop_front()
        .ok_or_else(|| io::Error::other("the shim returned no socket"))?;
    let socket = TcpStream::from_std(fd.into())?;
    socket.writable().await?;
    match socket.take_error()? {
        Some(error) => Err(error),
        None => Ok(socket),
    }
}
