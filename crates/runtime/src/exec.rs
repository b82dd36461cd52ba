//! Processes in containers, and attaching to containers.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use keelson_cri::v1;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tonic::Status;

use crate::protocol::Request;
use crate::runtime::{Runtime, new_id};
use crate::sandbox::{SIGKILL, failed};
use crate::shim_client::ShimClient;
use crate::state::{Container, Phase};

/// The most output of `ExecSync` that is kept per stream, bytes; the largest message of CRI clients.
const MAX_OUTPUT: u64 = 16 << 20;

/// A process in a container and its ends of pipes or terminal.
#[derive(Debug)]
pub(crate) struct ExecSession {
    pub(crate) id: String,
    pub(crate) shim: Arc<ShimClient>,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    /// The terminal's master side, instead of the pipes.
    pub(crate) terminal: Option<OwnedFd>,
    /// Its exit code; an error when the shim is gone.
    pub(crate) exit: oneshot::Receiver<i32>,
}

impl ExecSession {
    /// Kills the process.
    pub(crate) async fn kill(&self) {
        let request = Request::KillExec {
            exec: self.id.clone(),
            signal: SIGKILL,
        };
        if let Err(error) = self.shim.ask(request, Vec::new()).await {
            tracing::debug!(exec = self.id, %error, "killing an exec process");
        }
    }
}

/// Our ends of an attached container's streams.
#[derive(Debug)]
pub(crate) struct AttachSession {
    pub(crate) shim: Arc<ShimClient>,
    /// Pipe or terminal; none when the container has no stdin.
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Status> {
    let (read, write) = std::io::pipe().map_err(failed("create a pipe"))?;
    Ok((read.into(), write.into()))
}

impl Runtime {
    /// A running container and its shim.
    pub(crate) fn running(&self, id: &str) -> Result<(Arc<Container>, Arc<ShimClient>), Status> {
        let container = self.container(id)?;
        let phase = container.phase();
        if !matches!(phase, Phase::Running { .. }) {
            return Err(Status::unknown(format!(
                "container is in {} state",
                phase.cri().as_str_name()
            )));
        }
        let shim = self.sandbox(&container.sandbox_id)?.shim();
        let shim = shim.ok_or_else(|| Status::unavailable("the shim of the pod sandbox is gone"))?;
        Ok((container, shim))
    }

    /// Starts a process in a running container.
    pub(crate) async fn exec(
        &self,
        id: &str,
        args: Vec<String>,
        tty: bool,
        stdin: bool,
    ) -> Result<ExecSession, Status> {
        let (container, shim) = self.running(id)?;
        let exec = new_id();
        let mut session_fds = (None, None, None);
        let mut theirs = Vec::new();
        if !tty {
            if stdin {
                let (read, write) = pipe()?;
                theirs.push(read);
                session_fds.0 = Some(write);
            }
            for ours in [&mut session_fds.1, &mut session_fds.2] {
                let (read, write) = pipe()?;
                theirs.push(write);
                *ours = Some(read);
            }
        }
        let (sender, exit) = oneshot::channel();
        self.0.execs.lock().insert(exec.clone(), sender);
        let request = Request::Exec {
            exec: exec.clone(),
            id: container.id.clone(),
            args,
            tty,
            stdin,
        };
        match shim.ask(request, theirs).await {
            Ok((_, mut fds)) => Ok(ExecSession {
                id: exec,
                shim,
                stdin: session_fds.0,
                stdout: session_fds.1,
                stderr: session_fds.2,
                terminal: fds.pop_front(),
                exit,
            }),
            Err(error) => {
                self.0.execs.lock().remove(&exec);
                Err(Status::unknown(format!(
                    "failed to exec in container: failed to start exec \"{exec}\": OCI runtime exec failed: {error}"
                )))
            }
        }
    }

    pub(crate) async fn exec_sync(
        &self,
        request: v1::ExecSyncRequest,
    ) -> Result<v1::ExecSyncResponse, Status> {
        let mut session = self
            .exec(&request.container_id, request.cmd, false, false)
            .await?;
        let (stdout, stderr) = (session.stdout.take(), session.stderr.take());
        let work = async {
            let (stdout, stderr, code) = tokio::join!(read_all(stdout), read_all(stderr), &mut session.exit);
            Ok::<_, Status>(v1::ExecSyncResponse {
                stdout: stdout?,
                stderr: stderr?,
                exit_code: code.map_err(|_| Status::unavailable("the shim of the pod sandbox is gone"))?,
            })
        };
        let limit = u64::try_from(request.timeout)
            .ok()
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs);
        let outcome = match limit {
            Some(limit) => tokio::time::timeout(limit, work).await,
            None => Ok(work.await),
        };
        match outcome {
            Ok(result) => result,
            Err(_elapsed) => {
                session.kill().await;
                Err(Status::deadline_exceeded(format!(
                    "failed to exec in container: timeout {}s exceeded: context deadline exceeded",
                    request.timeout
                )))
            }
        }
    }

    /// Attaches to the streams of a running container.
    pub(crate) async fn attach(&self, id: &str, stdout: bool, stderr: bool) -> Result<AttachSession, Status> {
        let (container, shim) = self.running(id)?;
        // A terminal has one stream.
        let stderr = stderr && !container.config.lock().tty;
        let (mut ours, mut theirs) = ((None, None), Vec::new());
        for (wanted, ours) in [(stdout, &mut ours.0), (stderr, &mut ours.1)] {
            if wanted {
                let (read, write) = pipe()?;
                theirs.push(write);
                *ours = Some(read);
            }
        }
        let request = Request::Attach {
            id: container.id.clone(),
            stdout,
            stderr,
        };
        let (_, mut fds) = shim
            .ask(request, theirs)
            .await
            .map_err(failed("attach to container"))?;
        Ok(AttachSession {
            shim,
            stdin: fds.pop_front(),
            stdout: ours.0,
            stderr: ours.1,
        })
    }
}

/// Reads a stream to its end; what exceeds the limit is dropped, so that the process does not block.
async fn read_all(fd: Option<OwnedFd>) -> Result<Vec<u8>, Status> {
    let mut bytes = Vec::new();
    let Some(fd) = fd else { return Ok(bytes) };
    let reader = pipe::Receiver::from_owned_fd(fd).map_err(failed("read the output"))?;
    let mut limited = reader.take(MAX_OUTPUT);
    limited
        .read_to_end(&mut bytes)
        .await
        .map_err(failed("read the output"))?;
    let mut rest = limited.into_inner();
    tokio::io::copy(&mut rest, &mut tokio::io::sink())
        .await
        .map_err(failed("read the output"))?;
    Ok(bytes)
}
