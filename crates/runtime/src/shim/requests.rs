//! What the runtime asks for.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use keelson_sys::process::{self, Parent};
use nix::sched::CloneFlags;
use nix::sys::epoll::EpollFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::attach::Sink;
use super::complain::complain;
use super::container::{Container, Output};
use super::creator::{self, Stdio};
use super::event_loop::{Creator, EventLoop, Purpose, Source};
use super::exec::{self, Exec};
use super::log::{LogFile, Stream};
use crate::protocol::{Launch, Reply, Request, ShimState};

impl EventLoop {
    /// Handles one request; those that take time are answered later.
    pub(super) fn request(&mut self, id: u64, request: Request, fds: VecDeque<OwnedFd>) {
        let done = |result: Result<(), String>| match result {
            Ok(()) => Some((Reply::Done, Vec::new())),
            Err(message) => Some((Reply::Failed { message }, Vec::new())),
        };
        let later = |result: Result<(), String>| {
            result
                .err()
                .map(|message| (Reply::Failed { message }, Vec::new()))
        };
        let answer = match request {
            Request::State => Some((Reply::State(self.state()), Vec::new())),
            Request::Start {
                id: container,
                bundle,
            } => later(self.start(id, &container, bundle)),
            Request::Kill {
                id: container,
                signal,
            } => done(self.kill(&container, signal)),
            Request::Exec {
                exec,
                id: container,
                args,
                tty,
                stdin,
            } => later(self.exec(id, exec, &container, &args, tty, stdin, fds)),
            Request::KillExec { exec, signal } => {
                let pid = self
                    .execs
                    .iter()
                    .find(|(_, running)| **running == exec)
                    .map(|(pid, _)| *pid);
                // An ended process needs no signal.
                done(pid.map_or(Ok(()), |pid| send_signal(pid, signal)))
            }
            Request::Attach {
                id: container,
                stdout,
                stderr,
            } => Some(match self.attach(&container, stdout, stderr, fds) {
                Ok(stdin) => (Reply::Done, stdin.into_iter().collect()),
                Err(message) => (Reply::Failed { message }, Vec::new()),
            }),
            Request::CloseStdin { id: container } => {
                if let Some(container) = self.containers.get_mut(&container)
                    && !container.launch.tty
                {
                    container.stdin = None;
                }
                done(Ok(()))
            }
            Request::ReopenLog { id: container } => done(self.reopen_log(&container)),
            Request::Dial { port } => Some(match dial(port) {
                Ok(socket) => (Reply::Done, vec![socket]),
                Err(error) => (
                    Reply::Failed {
                        message: error.to_string(),
                    },
                    Vec::new(),
                ),
            }),
            Request::Delete { id: container } => {
                self.drop_container(&container);
                done(Ok(()))
            }
            Request::Shutdown => {
                self.kill_everything();
                self.stop = true;
                done(Ok(()))
            }
        };
        if let Some((reply, fds)) = answer {
            self.reply(id, reply, fds);
        }
    }

    fn state(&self) -> ShimState {
        ShimState {
            pid: nix::unistd::getpid().as_raw(),
            pause: self.pause,
            containers: self.containers.values().filter_map(Container::state).collect(),
        }
    }

    fn running(&mut self, id: &str) -> Result<(&mut Container, i32), String> {
        match self.containers.get_mut(id) {
            Some(container) if container.exit.is_none() => match container.pid {
                Some(pid) => Ok((container, pid)),
                None => Err(format!("container {id} is not running")),
            },
            _ => Err(format!("container {id} is not running")),
        }
    }

    fn start(&mut self, request: u64, id: &str, bundle: PathBuf) -> Result<(), String> {
        if self.containers.contains_key(id) {
            return Err(format!("container {id} has been started already"));
        }
        let launch = read_launch(&bundle)?;
        let log = launch.log_path.as_deref().map(open_log).transpose()?;
        let pipes = |wanted: bool| -> Result<_, String> {
            wanted
                .then(io::pipe)
                .transpose()
                .map_err(|error| format!("failed to create a pipe: {error}"))
        };
        let (stdin, stdout, stderr) = (
            pipes(launch.stdin && !launch.tty)?,
            pipes(!launch.tty)?,
            pipes(!launch.tty)?,
        );
        let mut container = Container {
            id: id.to_owned(),
            group: self.cgroups.group(&launch.cgroup),
            bundle,
            launch,
            pid: None,
            started_at: 0,
            exit: None,
            outputs: Vec::new(),
            stdin: None,
            log,
            sinks: Vec::new(),
        };
        let mut theirs = Stdio {
            stdin: None,
            stdout: None,
            stderr: None,
        };
        if let Some((read, write)) = stdin {
            container.stdin = Some(write.into());
            theirs.stdin = Some(read.into());
        }
        let mut ours = Vec::new();
        if let Some((read, write)) = stdout {
            ours.push((Stream::Stdout, OwnedFd::from(read)));
            theirs.stdout = Some(write.into());
        }
        if let Some((read, write)) = stderr {
            ours.push((Stream::Stderr, OwnedFd::from(read)));
            theirs.stderr = Some(write.into());
        }
        let (bundle, launch) = (container.bundle.clone(), container.launch.clone());
        self.spawn_creator(request, Purpose::Container(id.to_owned()), |socket| {
            creator::create_container(socket, id, &bundle, &launch, theirs)
        })?;
        for (stream, fd) in ours {
            let token = self.token();
            let watched = Output::new(token, stream, fd).and_then(|output| {
                self.watch(
                    token,
                    &output.fd,
                    EpollFlags::EPOLLIN,
                    Source::Output(id.to_owned()),
                )?;
                Ok(output)
            });
            match watched {
                Ok(output) => container.outputs.push(output),
                Err(error) => complain(format_args!("{id}: cannot watch its output: {error}")),
            }
        }
        self.containers.insert(id.to_owned(), container);
        Ok(())
    }

    /// Copies this process for one creation. `body` takes the creator's end of the socket and returns an exit code.
    fn spawn_creator(
        &mut self,
        request: u64,
        purpose: Purpose,
        body: impl FnOnce(&OwnedFd) -> i32,
    ) -> Result<(), String> {
        let failed = |error: io::Error| format!("failed to create a process: {error}");
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|errno| failed(errno.into()))?;
        process::fork(Parent::Caller, CloneFlags::empty(), || body(&theirs))
            .map_err(|error| format!("failed to create a process: {error}"))?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(|errno| failed(errno.into()))?;
        let token = self.token();
        self.watch(token, &ours, EpollFlags::EPOLLIN, Source::Creator)
            .map_err(failed)?;
        self.creators.insert(
            token,
            Creator {
                socket: ours,
                request,
                purpose,
                terminal: None,
            },
        );
        Ok(())
    }

    fn kill(&mut self, id: &str, signal: i32) -> Result<(), String> {
        let (_, pid) = self.running(id)?;
        send_signal(pid, signal)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one request")]
    fn exec(
        &mut self,
        request: u64,
        exec: String,
        id: &str,
        args: &[String],
        tty: bool,
        stdin: bool,
        mut fds: VecDeque<OwnedFd>,
    ) -> Result<(), String> {
        let (container, init) = self.running(id)?;
        let (bundle, launch, group) = (
            container.bundle.clone(),
            container.launch.clone(),
            container.group.clone(),
        );
        let stdio = Stdio {
            stdin: if stdin && !tty { fds.pop_front() } else { None },
            stdout: fds.pop_front(),
            stderr: fds.pop_front(),
        };
        self.spawn_creator(request, Purpose::Exec(exec, None), |socket| {
            let exec = Exec {
                bundle: &bundle,
                launch: &launch,
                group: &group,
                init,
                args,
                tty,
            };
            exec::create_process(socket, &exec, stdio)
        })
    }

    fn attach(
        &mut self,
        id: &str,
        stdout: bool,
        stderr: bool,
        mut fds: VecDeque<OwnedFd>,
    ) -> Result<Option<OwnedFd>, String> {
        let (container, _) = self.running(id)?;
        let failed = |error: io::Error| format!("failed to attach to container {id}: {error}");
        let stdin = container
            .stdin
            .as_ref()
            .map(OwnedFd::try_clone)
            .transpose()
            .map_err(failed)?;
        for (wanted, stream) in [(stdout, Stream::Stdout), (stderr, Stream::Stderr)] {
            if !wanted {
                continue;
            }
            let fd = fds
                .pop_front()
                .ok_or("an attach request without its descriptors")?;
            let token = self.token();
            let sink = Sink::new(token, stream, fd).map_err(failed)?;
            self.watch(token, &sink.fd, EpollFlags::empty(), Source::Sink(id.to_owned()))
                .map_err(failed)?;
            if let Some(container) = self.containers.get_mut(id) {
                container.sinks.push(sink);
            }
        }
        Ok(stdin)
    }

    fn reopen_log(&mut self, id: &str) -> Result<(), String> {
        let (container, _) = self.running(id)?;
        match &mut container.log {
            Some(log) => log
                .reopen()
                .map_err(|error| format!("failed to reopen the log of container {id}: {error}")),
            None => Ok(()),
        }
    }
}

fn read_launch(bundle: &Path) -> Result<Launch, String> {
    let path = bundle.join("launch.json");
    std::fs::read(&path)
        .map_err(|error| error.to_string())
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()))
        .map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn open_log(path: &Path) -> Result<LogFile, String> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .map_err(|error| format!("failed to create the log directory {}: {error}", parent.display()))?;
    }
    LogFile::open(path).map_err(|error| format!("failed to open the log file {}: {error}", path.display()))
}

fn send_signal(pid: i32, signal: i32) -> Result<(), String> {
    match process::send_signal(pid, signal) {
        Err(error) if error.raw_os_error() != Some(nix::libc::ESRCH) => {
            Err(format!("failed to send signal {signal}: {error}"))
        }
        _ => Ok(()),
    }
}

/// Begins to connect to `localhost:port`, first by IPv4 and, when nothing listens there, by IPv6.
fn dial(port: u16) -> io::Result<OwnedFd> {
    let connect = |family, address: std::net::SocketAddr| -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        // A refusal over loopback is known at once.
        match rustix::net::sockopt::socket_error(socket.as_fd())? {
            Ok(()) => Ok(socket),
            Err(errno) => Err(errno.into()),
        }
    };
    let v4 = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, port));
    let v6 = std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
    connect(AddressFamily::INET, v4).or_else(|error| connect(AddressFamily::INET6, v6).map_err(|_| error))
}
