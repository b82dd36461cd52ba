//! Exec and attach, whatever the transport.

use std::sync::Arc;

use bytes::Bytes;
use keelson_cri::v1;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::fd::StreamFd;
use super::server::Session;
use crate::protocol::Request;
use crate::runtime::Runtime;

/// Bytes read at a time.
const READ_SIZE: usize = 32 * 1024;

/// What the client sends.
#[derive(Debug)]
pub(super) enum Input {
    /// For the program's stdin.
    Stdin(Bytes),
    /// Stdin has ended; the rest goes on.
    StdinEnd,
    /// The client's terminal has this size.
    Resize(u16, u16),
}

/// A channel to the client, with upstream's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    /// The program's stdout, or its terminal.
    Stdout = 1,
    /// The program's stderr.
    Stderr = 2,
    /// How it ended.
    Error = 3,
}

/// What the client gets.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) channel: Channel,
    pub(super) bytes: Bytes,
}

/// Which streams a session has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl Wanted {
    pub(super) fn of(session: &Session) -> Option<Self> {
        match session {
            Session::Exec(v1::ExecRequest {
                stdin,
                stdout,
                stderr,
                tty,
                ..
            })
            | Session::Attach(v1::AttachRequest {
                stdin,
                stdout,
                stderr,
                tty,
                ..
            }) => Some(Self {
                stdin: *stdin,
                stdout: *stdout,
                stderr: *stderr,
                tty: *tty,
            }),
            Session::PortForward(_) => None,
        }
    }
}

/// How a session ended; becomes the message on the error channel.
#[derive(Debug)]
pub(super) enum End {
    /// Exit code 0, or a detached container.
    Success,
    /// Another exit code.
    ExitCode(i32),
    /// It could not be done.
    Failure(String),
}

impl End {
    /// The `Status` of protocol version 4 and later.
    pub(super) fn status(&self) -> Value {
        match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::ExitCode(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failure(message) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {message}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": message}]},
                "code": 500,
            }),
        }
    }

    /// The text of earlier versions; nothing for success.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Success => None,
            Self::ExitCode(code) => Some(format!(
                "command terminated with non-zero exit code: exit status {code}"
            )),
            Self::Failure(message) => Some(message.clone()),
        }
    }
}

/// Runs a session to its end. When `input` ends early the client is gone: an exec process is killed.
pub(super) async fn run(
    runtime: &Runtime,
    session: Session,
    input: mpsc::Receiver<Input>,
    output: mpsc::Sender<Output>,
) -> End {
    match session {
        Session::Exec(request) => exec(runtime, request, input, output).await,
        Session::Attach(request) => attach(runtime, request, input, output).await,
        Session::PortForward(_) => End::Failure("port forwarding is no command".to_owned()),
    }
}

async fn exec(
    runtime: &Runtime,
    request: v1::ExecRequest,
    input: mpsc::Receiver<Input>,
    output: mpsc::Sender<Output>,
) -> End {
    let mut session = match runtime
        .exec(&request.container_id, request.cmd, request.tty, request.stdin)
        .await
    {
        Ok(session) => session,
        Err(status) => {
            return End::Failure(format!(
                "error executing command in container: {}",
                status.message()
            ));
        }
    };
    let mut streams = match Streams::new(session.stdin.take(), session.terminal.take()) {
        Ok(streams) => streams,
        Err(error) => return End::Failure(error.to_string()),
    };
    streams.outputs(
        session.stdout.take(),
        session.stderr.take(),
        request.stdout,
        request.stderr,
    );
    let work = streams.pump(input, output);
    tokio::pin!(work);
    tokio::select! {
        finished = &mut work => match finished {
            // All output is written: only the exit code is missing.
            Finished::Outputs => {}
            Finished::ClientGone => {
                session.kill().await;
                return End::Failure("the client is gone".to_owned());
            }
        },
        code = &mut session.exit => {
            // What it wrote last is still in the pipes.
            work.await;
            return end_of(code.ok());
        }
    }
    end_of(session.exit.await.ok())
}

fn end_of(code: Option<i32>) -> End {
    match code {
        Some(0) => End::Success,
        Some(code) => End::ExitCode(code),
        None => End::Failure("the shim of the pod sandbox is gone".to_owned()),
    }
}

async fn attach(
    runtime: &Runtime,
    request: v1::AttachRequest,
    input: mpsc::Receiver<Input>,
    output: mpsc::Sender<Output>,
) -> End {
    let session = match runtime
        .attach(&request.container_id, request.stdout, request.stderr)
        .await
    {
        Ok(session) => session,
        Err(status) => return End::Failure(format!("error attaching to container: {}", status.message())),
    };
    let (tty, once) = match runtime.container(&request.container_id) {
        Ok(container) => {
            let config = container.config.lock();
            (config.tty, config.stdin_once)
        }
        Err(status) => return End::Failure(status.message().to_owned()),
    };
    let stdin = session.stdin.filter(|_| request.stdin || tty);
    // The terminal's output comes from the shim, which logs it; here it is for input and sizes.
    let mut streams = match Streams::new(stdin, None) {
        Ok(streams) => streams,
        Err(error) => return End::Failure(error.to_string()),
    };
    streams.resizes = tty;
    streams.outputs(session.stdout, session.stderr, request.stdout, request.stderr);
    if !(request.stdin && once && !tty) {
        streams.pump(input, output).await;
        return End::Success;
    }
    // The container reads the end of its stdin when the client has no more, or is gone.
    let (ended, end) = oneshot::channel();
    streams.stdin_ended = Some(ended);
    let closing = async {
        if end.await.is_err() {
            tracing::debug!(
                container = request.container_id,
                "the client went without an end of stdin"
            );
        }
        let id = request.container_id.clone();
        if let Err(error) = session.shim.ask(Request::CloseStdin { id }, Vec::new()).await {
            tracing::debug!(container = request.container_id, %error, "closing stdin");
        }
    };
    tokio::join!(streams.pump(input, output), closing);
    End::Success
}

/// Our ends of a process's streams.
struct Streams {
    /// Pipe or terminal.
    stdin: Option<Arc<StreamFd>>,
    outputs: Vec<(Channel, Arc<StreamFd>, bool)>,
    /// Whether `stdin` is a terminal.
    resizes: bool,
    /// Told when the client has no more to write.
    stdin_ended: Option<oneshot::Sender<()>>,
}

/// Why pumping ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finished {
    Outputs,
    ClientGone,
}

impl Streams {
    fn new(
        stdin: Option<std::os::fd::OwnedFd>,
        terminal: Option<std::os::fd::OwnedFd>,
    ) -> std::io::Result<Self> {
        let terminal = terminal.map(StreamFd::new).transpose()?.map(Arc::new);
        let outputs = terminal
            .iter()
            .map(|fd| (Channel::Stdout, Arc::clone(fd), true))
            .collect();
        let resizes = terminal.is_some();
        let stdin = match terminal {
            Some(terminal) => Some(terminal),
            None => stdin.map(StreamFd::new).transpose()?.map(Arc::new),
        };
        Ok(Self {
            stdin,
            outputs,
            resizes,
            stdin_ended: None,
        })
    }

    /// Adds pipes; what the client does not want is read and dropped.
    fn outputs(
        &mut self,
        stdout: Option<std::os::fd::OwnedFd>,
        stderr: Option<std::os::fd::OwnedFd>,
        wants_stdout: bool,
        wants_stderr: bool,
    ) {
        for (channel, fd, wanted) in [
            (Channel::Stdout, stdout, wants_stdout),
            (Channel::Stderr, stderr, wants_stderr),
        ] {
            match fd.map(StreamFd::new) {
                Some(Ok(fd)) => self.outputs.push((channel, Arc::new(fd), wanted)),
                Some(Err(error)) => tracing::warn!(%error, "using an output pipe"),
                None => {}
            }
        }
    }

    /// Moves bytes both ways until all outputs have ended or the client is gone.
    async fn pump(self, mut input: mpsc::Receiver<Input>, output: mpsc::Sender<Output>) -> Finished {
        let reading = futures::future::join_all(
            self.outputs
                .iter()
                .map(|(channel, fd, wanted)| forward(*channel, fd, wanted.then_some(&output))),
        );
        let mut stdin = self.stdin.clone();
        let resizes = self.resizes;
        let mut ended = self.stdin_ended;
        let writing = async move {
            while let Some(input) = input.recv().await {
                match input {
                    Input::Stdin(bytes) => {
                        if let Some(fd) = &stdin
                            && fd.write_all(&bytes).await.is_err()
                        {
                            // It reads no more.
                            stdin = None;
                        }
                    }
                    Input::StdinEnd if !resizes => {
                        stdin = None;
                        if ended.take().is_some_and(|ended| ended.send(()).is_err()) {
                            tracing::debug!("the session ended together with its stdin");
                        }
                    }
                    Input::StdinEnd => {}
                    Input::Resize(width, height) => {
                        if let Some(fd) = stdin.as_ref().filter(|_| resizes)
                            && let Err(error) = fd.resize(width, height)
                        {
                            tracing::debug!(%error, "resizing a terminal");
                        }
                    }
                }
            }
        };
        drop(self.stdin);
        tokio::select! {
            _ = reading => Finished::Outputs,
            () = writing => Finished::ClientGone,
        }
    }
}

/// Reads an output to its end.
async fn forward(channel: Channel, fd: &StreamFd, output: Option<&mpsc::Sender<Output>>) {
    let mut buffer = vec![0; READ_SIZE];
    loop {
        match fd.read(&mut buffer).await {
            Ok(0) => return,
            Ok(length) => {
                if let Some(output) = output {
                    let bytes = Bytes::copy_from_slice(&buffer[..length]);
                    if output.send(Output { channel, bytes }).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, "reading an output");
                return;
            }
        }
    }
}
