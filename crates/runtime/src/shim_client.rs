//! The runtime's end of the conversation with a shim.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::protocol::{self, Event, MAX_PACKET, Packet, Reply, Request, RequestPacket, ShimState};

/// Events that wait for the runtime; beyond it the shim waits.
const EVENT_QUEUE: usize = 64;

/// Why a shim did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShimError {
    /// It answered that it failed.
    #[error("{0}")]
    Failed(String),
    /// It is gone.
    #[error("the shim of the pod sandbox is gone")]
    Gone,
    /// It could not be started.
    #[error("failed to start the shim: {0}")]
    Start(String),
    /// The conversation failed.
    #[error("shim: {0}")]
    Io(#[from] io::Error),
}

type Answer = (Reply, VecDeque<OwnedFd>);
type Waiting = Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>;

/// A connection to one shim.
#[derive(Debug)]
pub(crate) struct ShimClient {
    socket: Arc<AsyncFd<OwnedFd>>,
    next: AtomicU64,
    /// Requests without an answer; `None` once the shim is gone.
    waiting: Arc<Waiting>,
}

impl ShimClient {
    /// Connects to the shim that listens in this directory. Events arrive on the returned channel, which ends when
    /// the shim is gone. The reading task ends then too, and when the receiver and the client are dropped.
    ///
    /// # Errors
    /// When nobody listens.
    pub(crate) fn connect(
        socket_dir: &Path,
        tasks: &TaskTracker,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Event>), ShimError> {
        let (_directory, address) = protocol::socket_address(socket_dir)?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(io::Error::from)?;
        rustix::net::connect(&socket, &address).map_err(io::Error::from)?;
        let socket = Arc::new(async_fd(socket)?);
        let waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        tasks.spawn(read(Arc::clone(&socket), Arc::clone(&waiting), events));
        Ok((
            Arc::new(Self {
                socket,
                next: AtomicU64::new(1),
                waiting,
            }),
            receiver,
        ))
    }

    /// Ends the connection; the shim goes on.
    pub(crate) fn close(&self) {
        // Fails only when the other end has closed already.
        let _ = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both);
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// When the shim answers with a failure, or is gone.
    pub(crate) async fn ask(&self, request: Request, fds: Vec<OwnedFd>) -> Result<Answer, ShimError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        match self.waiting.lock().as_mut() {
            Some(waiting) => drop(waiting.insert(id, sender)),
            None => return Err(ShimError::Gone),
        }
        let packet = serde_json::to_vec(&RequestPacket { id, request }).map_err(io::Error::from)?;
        let sent = send(&self.socket, &packet, &fds).await;
        drop(fds);
        if let Err(error) = sent {
            if let Some(waiting) = self.waiting.lock().as_mut() {
                waiting.remove(&id);
            }
            return Err(if error.kind() == io::ErrorKind::BrokenPipe {
                ShimError::Gone
            } else {
                error.into()
            });
        }
        match receiver.await {
            Ok((Reply::Failed { message }, _)) => Err(ShimError::Failed(message)),
            Ok(answer) => Ok(answer),
            Err(_) => Err(ShimError::Gone),
        }
    }

    /// Asks for everything that the shim knows.
    ///
    /// # Errors
    /// As [`ShimClient::ask`].
    pub(crate) async fn state(&self) -> Result<ShimState, ShimError> {
        match self.ask(Request::State, Vec::new()).await? {
            (Reply::State(state), _) => Ok(state),
            (other, _) => Err(ShimError::Failed(format!("unexpected answer {other:?}"))),
        }
    }
}

/// Sends a packet when there is room for it.
pub(crate) async fn send(socket: &AsyncFd<OwnedFd>, packet: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    loop {
        let mut ready = socket.writable().await?;
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        match ready.try_io(|socket| protocol::send(socket.get_ref(), packet, &borrowed)) {
            Ok(result) => return result,
            Err(_would_block) => {}
        }
    }
}

/// Reads packets until the shim is gone.
async fn read(socket: Arc<AsyncFd<OwnedFd>>, waiting: Arc<Waiting>, events: mpsc::Sender<Event>) {
    loop {
        let received = {
            let mut ready = match socket.readable().await {
                Ok(ready) => ready,
                Err(_) => break,
            };
            let mut buffer = vec![0; MAX_PACKET];
            ready.try_io(|socket| {
                let packet = protocol::receive(socket.get_ref(), &mut buffer)?;
                packet
                    .map(|(bytes, fds)| Ok((serde_json::from_slice::<Packet>(bytes)?, fds)))
                    .transpose()
            })
        };
        match received {
            Err(_would_block) => {}
            Ok(Ok(Some((Packet::Reply { id, reply }, fds)))) => {
                let sender = waiting.lock().as_mut().and_then(|waiting| waiting.remove(&id));
                if let Some(sender) = sender {
                    // The asker may have given up.
                    let _ = sender.send((reply, fds));
                }
            }
            Ok(Ok(Some((Packet::Event(event), _)))) => {
                if events.send(event).await.is_err() {
                    break;
                }
            }
            Ok(Ok(None)) => break,
            Ok(Err(error)) => {
                if error.kind() != io::ErrorKind::ConnectionReset {
                    tracing::warn!(%error, "reading from a shim");
                }
                break;
            }
        }
    }
    // Whoever waits for an answer learns that none will come.
    *waiting.lock() = None;
}

/// Registers a descriptor that is owned and stays open while it is registered.
pub(crate) fn async_fd(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe only for types that may close early; OwnedFd does not"
    )]
    AsyncFd::new(fd)
}
