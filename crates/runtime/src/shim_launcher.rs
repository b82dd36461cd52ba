//! Starting shims: the runtime's end of the conversation with the launcher.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::shim_client::{self, ShimError, async_fd};

/// The process that shims are copies of. It is started with the first of them, and again when it is gone.
#[derive(Debug)]
pub(crate) struct Launcher {
    /// Program and first arguments.
    command: Vec<OsString>,
    /// The runtime's directory.
    root: PathBuf,
    tasks: TaskTracker,
    closing: CancellationToken,
    socket: tokio::sync::Mutex<Option<AsyncFd<OwnedFd>>>,
}

fn failed(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> ShimError {
    move |error| ShimError::Start(format!("{what}: {error}"))
}

impl Launcher {
    /// Nothing is started yet. A task of `tasks` reaps the launcher when it ends, if that is before `closing`.
    pub(crate) fn new(
        command: Vec<OsString>,
        root: PathBuf,
        tasks: TaskTracker,
        closing: CancellationToken,
    ) -> Self {
        Self {
            command,
            root,
            tasks,
            closing,
            socket: tokio::sync::Mutex::new(None),
        }
    }

    /// Starts a shim and waits until its sandbox is ready. Shims outlive this process and the launcher.
    ///
    /// # Errors
    /// The text of what it could not prepare.
    pub(crate) async fn start(&self, directory: &Path) -> Result<(), ShimError> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(directory.join("shim.log"))
            .map_err(failed("open its log"))?;
        let (ours, theirs) = io::pipe().map_err(failed("create a pipe"))?;
        self.request(directory, &[theirs.into(), log.into()]).await?;
        let answer = pipe::Receiver::from_owned_fd(ours.into()).map_err(failed("create a pipe"))?;
        let mut line = String::new();
        BufReader::new(answer)
            .read_line(&mut line)
            .await
            .map_err(failed("read its answer"))?;
        match line.trim_end() {
            "ok" => Ok(()),
            "" => Err(ShimError::Start("it ended without an answer".to_owned())),
            message => Err(ShimError::Failed(message.to_owned())),
        }
    }

    /// Asks for a shim; a launcher that is gone is replaced.
    async fn request(&self, directory: &Path, fds: &[OwnedFd]) -> Result<(), ShimError> {
        let packet = directory.as_os_str().as_bytes();
        let mut socket = self.socket.lock().await;
        if let Some(known) = &*socket
            && shim_client::send(known, packet, fds).await.is_ok()
        {
            return Ok(());
        }
        let new = socket.insert(self.spawn()?);
        shim_client::send(new, packet, fds)
            .await
            .map_err(failed("ask the launcher"))
    }

    fn spawn(&self) -> Result<AsyncFd<OwnedFd>, ShimError> {
        let (program, arguments) = self
            .command
            .split_first()
            .ok_or_else(|| ShimError::Start("no program is configured".to_owned()))?;
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|errno| failed("create a socket")(errno.into()))?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(|errno| failed("create a socket")(errno.into()))?;
        let mut child = tokio::process::Command::new(program)
            .args(arguments)
            .arg("--launcher")
            .arg(&self.root)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(failed(program.to_string_lossy()))?;
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                ended = child.wait() => match ended {
                    Ok(status) => tracing::debug!(%status, "the launcher of shims ended"),
                    Err(error) => tracing::warn!(%error, "cannot reap the launcher of shims"),
                },
            }
        });
        async_fd(ours).map_err(failed("create a socket"))
    }

    /// Lets the launcher end; shims go on.
    pub(crate) async fn close(&self) {
        self.socket.lock().await.take();
    }
}
