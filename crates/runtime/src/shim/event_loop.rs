//! What the shim waits for, and what it does then. One thread, no timers: without events it does not run.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::attach::Progress;
use super::complain::complain;
use super::container::{Container, Output, Read};
use super::creator::{Message, now};
use super::log::Stream;
use super::setup::Sandbox;
use crate::cgroup::Cgroups;
use crate::protocol::{self, Event, ExitRecord, MAX_PACKET, Packet, Reply, RequestPacket};

/// What a descriptor in the epoll set is.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A runtime connects.
    Listener,
    /// The runtime's requests.
    Connection,
    /// A child ended.
    Signals,
    /// A creator reports.
    Creator,
    /// Output of this container.
    Output(String),
    /// A client attached to this container.
    Sink(String),
}

/// What a creator was made for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// This container.
    Container(String),
    /// This exec process, and its id once known.
    Exec(String, Option<i32>),
}

/// A creator at work.
#[derive(Debug)]
pub(super) struct Creator {
    pub(super) socket: OwnedFd,
    pub(super) request: u64,
    pub(super) purpose: Purpose,
    /// A terminal for the reply.
    pub(super) terminal: Option<OwnedFd>,
}

/// The connection to the runtime, and what could not be sent yet.
#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    outbox: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

/// The state of a shim.
#[derive(Debug)]
pub(super) struct EventLoop {
    pub(super) pause: Option<i32>,
    pub(super) cgroups: Cgroups,
    pub(super) containers: BTreeMap<String, Container>,
    pub(super) creators: HashMap<u64, Creator>,
    /// Running exec processes by process id.
    pub(super) execs: HashMap<i32, String>,
    pub(super) stop: bool,
    epoll: Epoll,
    sources: HashMap<u64, Source>,
    next_token: u64,
    signals: SignalFd,
    listener: OwnedFd,
    connection: Option<(u64, Connection)>,
}

impl EventLoop {
    pub(super) fn new(sandbox: Sandbox) -> io::Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let mut this = Self {
            pause: sandbox.pause,
            cgroups: Cgroups::detect().map_err(io::Error::other)?,
            containers: BTreeMap::new(),
            creators: HashMap::new(),
            execs: HashMap::new(),
            stop: false,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            sources: HashMap::new(),
            next_token: 0,
            signals,
            listener: sandbox.listener,
            connection: None,
        };
        let token = this.token();
        this.epoll
            .add(&this.listener, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        this.sources.insert(token, Source::Listener);
        let token = this.token();
        this.epoll
            .add(&this.signals, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        this.sources.insert(token, Source::Signals);
        Ok(this)
    }

    /// Serves until the sandbox is removed.
    ///
    /// # Errors
    /// When waiting for events fails, which nothing can mend.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 16];
        while !self.stop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            for event in &events[..count] {
                self.handle(event.data(), event.events())?;
            }
        }
        Ok(())
    }

    pub(super) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// Waits for a descriptor from now on.
    pub(super) fn watch(
        &mut self,
        token: u64,
        fd: impl AsFd,
        flags: EpollFlags,
        source: Source,
    ) -> io::Result<()> {
        self.epoll.add(fd, EpollEvent::new(flags, token))?;
        self.sources.insert(token, source);
        Ok(())
    }

    /// Waits for it no longer. Descriptors that are closed right after need this too: a creator may still hold a
    /// copy, and the kernel watches the open file, not the number.
    pub(super) fn unwatch(&mut self, token: u64, fd: impl AsFd) {
        if self.sources.remove(&token).is_some() {
            // Fails only for what is not in the set, which is what is wanted.
            let _ = self.epoll.delete(fd);
        }
    }

    fn handle(&mut self, token: u64, flags: EpollFlags) -> io::Result<()> {
        match self.sources.get(&token).cloned() {
            // An earlier event of the same round has removed it.
            None => {}
            Some(Source::Listener) => self.accept()?,
            Some(Source::Signals) => {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                self.reap();
            }
            Some(Source::Connection) => self.connection_ready(flags),
            Some(Source::Creator) => self.creator_ready(token),
            Some(Source::Output(id)) => drop(self.pump(&id, token)),
            Some(Source::Sink(id)) => self.sink_ready(&id, token, flags),
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        use rustix::net::SocketFlags;
        let socket =
            match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => socket,
                // The client has gone again.
                Err(_) => return Ok(()),
            };
        self.disconnect();
        let token = self.token();
        self.watch(token, &socket, EpollFlags::EPOLLIN, Source::Connection)?;
        self.connection = Some((
            token,
            Connection {
                socket,
                outbox: VecDeque::new(),
            },
        ));
        Ok(())
    }

    fn disconnect(&mut self) {
        if let Some((token, connection)) = self.connection.take() {
            self.unwatch(token, &connection.socket);
        }
    }

    fn connection_ready(&mut self, flags: EpollFlags) {
        if flags.contains(EpollFlags::EPOLLOUT) {
            self.flush();
        }
        if !flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            return;
        }
        let Some((_, connection)) = &self.connection else {
            return;
        };
        let mut buffer = vec![0; MAX_PACKET];
        let received = match protocol::receive(&connection.socket, &mut buffer) {
            Ok(Some((bytes, fds))) => serde_json::from_slice::<RequestPacket>(bytes)
                .map(|packet| (packet, fds))
                .ok(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Ok(None) | Err(_) => None,
        };
        match received {
            Some((packet, fds)) => self.request(packet.id, packet.request, fds),
            // Gone, or not a runtime that we understand.
            None => self.disconnect(),
        }
    }

    /// Answers a request.
    pub(super) fn reply(&mut self, id: u64, reply: Reply, fds: Vec<OwnedFd>) {
        self.send(&Packet::Reply { id, reply }, fds);
    }

    /// Sends a packet; without a connection it is for nobody, since everything that lasts is in files and in the
    /// state that a new connection asks for.
    fn send(&mut self, packet: &Packet, fds: Vec<OwnedFd>) {
        let Some((_, connection)) = &mut self.connection else {
            return;
        };
        match serde_json::to_vec(packet) {
            Ok(bytes) => connection.outbox.push_back((bytes, fds)),
            Err(error) => complain(format_args!("cannot encode a packet: {error}")),
        }
        self.flush();
    }

    fn flush(&mut self) {
        let Some((token, connection)) = &mut self.connection else {
            return;
        };
        let mut wanted = EpollFlags::EPOLLIN;
        while let Some((bytes, fds)) = connection.outbox.front() {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match protocol::send(&connection.socket, bytes, &borrowed) {
                Ok(()) => drop(connection.outbox.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wanted |= EpollFlags::EPOLLOUT;
                    break;
                }
                Err(_) => return self.disconnect(),
            }
        }
        let mut event = EpollEvent::new(wanted, *token);
        if let Err(errno) = self.epoll.modify(&connection.socket, &mut event) {
            complain(format_args!("cannot wait for the runtime: {errno}"));
            self.disconnect();
        }
    }

    /// Reads one message of a creator.
    fn creator_ready(&mut self, token: u64) {
        let Some(creator) = self.creators.get(&token) else {
            return;
        };
        let mut buffer = vec![0; 16 * 1024];
        let received = match protocol::receive(&creator.socket, &mut buffer) {
            Ok(Some((bytes, fds))) => serde_json::from_slice::<Message>(bytes)
                .map(|message| (message, fds))
                .map_err(|error| format!("unintelligible: {error}")),
            Ok(None) => Err("the process that creates it ended unexpectedly".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => Err(error.to_string()),
        };
        match received {
            Ok((Message::Pid(pid), mut fds)) => self.creator_told_pid(token, pid, fds.pop_front()),
            Ok((Message::Started(at), _)) => self.creator_done(token, Ok(at)),
            Ok((Message::Failed(message), _)) | Err(message) => self.creator_done(token, Err(message)),
        }
    }

    fn creator_told_pid(&mut self, token: u64, pid: i32, fd: Option<OwnedFd>) {
        let Some(creator) = self.creators.get_mut(&token) else {
            return;
        };
        match &mut creator.purpose {
            Purpose::Exec(exec, known) => {
                if pid > 0 {
                    *known = Some(pid);
                    self.execs.insert(pid, exec.clone());
                }
                if fd.is_some() {
                    creator.terminal = fd;
                }
            }
            Purpose::Container(id) => {
                let id = id.clone();
                let Some(container) = self.containers.get_mut(&id) else {
                    return;
                };
                container.pid = Some(pid);
                container.started_at = now();
                if let Some(master) = fd
                    && let Err(error) = self.watch_terminal(&id, master)
                {
                    complain(format_args!("{id}: cannot use the terminal: {error}"));
                }
            }
        }
    }

    fn watch_terminal(&mut self, id: &str, master: OwnedFd) -> io::Result<()> {
        let token = self.token();
        let output = Output::new(token, Stream::Stdout, master.try_clone()?)?;
        self.watch(
            token,
            &output.fd,
            EpollFlags::EPOLLIN,
            Source::Output(id.to_owned()),
        )?;
        if let Some(container) = self.containers.get_mut(id) {
            container.outputs.push(output);
            container.stdin = Some(master);
        }
        Ok(())
    }

    fn creator_done(&mut self, token: u64, outcome: Result<i64, String>) {
        let Some(creator) = self.creators.remove(&token) else {
            return;
        };
        self.unwatch(token, &creator.socket);
        let (reply, fds) = match (&creator.purpose, outcome) {
            (Purpose::Container(id), Ok(at)) => match self.containers.get_mut(id) {
                Some(container) => {
                    container.started_at = at;
                    (
                        Reply::Started {
                            pid: container.pid.unwrap_or_default(),
                            at,
                        },
                        Vec::new(),
                    )
                }
                None => (
                    Reply::Failed {
                        message: format!("container {id} is gone"),
                    },
                    Vec::new(),
                ),
            },
            (Purpose::Container(id), Err(message)) => {
                self.drop_container(&id.clone());
                (Reply::Failed { message }, Vec::new())
            }
            (Purpose::Exec(_, pid), Ok(at)) => (
                Reply::Started {
                    pid: pid.unwrap_or_default(),
                    at,
                },
                creator.terminal.into_iter().collect(),
            ),
            (Purpose::Exec(exec, _), Err(message)) => {
                self.execs.retain(|_, running| running != exec);
                (Reply::Failed { message }, Vec::new())
            }
        };
        self.reply(creator.request, reply, fds);
    }

    /// Forgets a container, closing what it has open; what runs of it is killed.
    pub(super) fn drop_container(&mut self, id: &str) {
        let Some(container) = self.containers.remove(id) else {
            return;
        };
        for output in &container.outputs {
            self.unwatch(output.token, &output.fd);
        }
        for sink in &container.sinks {
            self.unwatch(sink.token, &sink.fd);
        }
        if container.exit.is_none() {
            container.group.kill_all();
        }
        // Processes may still be ending; the runtime removes the group again when it removes the container.
        let _ = container.group.remove();
    }

    /// Collects the exit status of every child that has ended.
    fn reap(&mut self) {
        // What creators have told of a process precedes its end.
        let creators: Vec<u64> = self.creators.keys().copied().collect();
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return,
                Ok(_) | Err(_) => continue,
            };
            let pid = pid.as_raw();
            let known = |this: &Self| {
                this.execs.contains_key(&pid) || this.containers.values().any(|c| c.pid == Some(pid))
            };
            if !known(self) {
                for token in &creators {
                    self.creator_ready(*token);
                }
            }
            if let Some(exec) = self.execs.remove(&pid) {
                self.send(&Packet::Event(Event::ExecExited { exec, code }), Vec::new());
                continue;
            }
            let exited = self
                .containers
                .values()
                .find(|c| c.pid == Some(pid) && c.exit.is_none());
            if let Some(id) = exited.map(|c| c.id.clone()) {
                self.container_exited(&id, code);
            }
        }
    }

    fn container_exited(&mut self, id: &str, code: i32) {
        let at = now();
        let tokens: Vec<u64> = self
            .containers
            .get(id)
            .iter()
            .flat_map(|c| &c.outputs)
            .map(|output| output.token)
            .collect();
        for token in tokens {
            // What it wrote before its end is in the log before anybody hears of the end. Bounded: others that hold
            // the pipe may write for ever.
            for _ in 0..64 {
                if self.pump(id, token) != Read::Some {
                    break;
                }
            }
        }
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let oom = code != 0 && container.group.oom_kills() > 0;
        if !container.launch.own_pid_namespace {
            container.group.kill_all();
        }
        container.stdin = None;
        let exit = ExitRecord {
            code,
            at,
            started_at: container.started_at,
            oom,
        };
        if let Err(error) = exit.write(&container.bundle) {
            complain(format_args!("{id}: cannot record the exit: {error}"));
        }
        container.exit = Some(exit.clone());
        // EBUSY while killed processes end; the runtime removes the group again with the container.
        let _ = container.group.remove();
        self.send(
            &Packet::Event(Event::Exited {
                id: id.to_owned(),
                exit,
            }),
            Vec::new(),
        );
    }

    /// Moves output of a container on.
    fn pump(&mut self, id: &str, token: u64) -> Read {
        let Some(container) = self.containers.get_mut(id) else {
            return Read::End;
        };
        // The descriptor is closed by the container when it has ended: take it out of the set before.
        let (read, progress) = container.pump(token);
        if read == Read::End {
            self.sources.remove(&token);
        }
        for (sink, progress) in progress {
            self.sink_progress(id, sink, progress);
        }
        read
    }

    fn sink_ready(&mut self, id: &str, token: u64, flags: EpollFlags) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let Some(sink) = container.sinks.iter_mut().find(|sink| sink.token == token) else {
            return;
        };
        let progress = if flags.contains(EpollFlags::EPOLLERR) {
            Progress::Gone
        } else {
            sink.flush()
        };
        self.sink_progress(id, token, progress);
    }

    fn sink_progress(&mut self, id: &str, token: u64, progress: Progress) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let Some(at) = container.sinks.iter().position(|sink| sink.token == token) else {
            return;
        };
        // EPOLLERR (the client is gone) is always reported.
        let flags = match progress {
            Progress::Idle => EpollFlags::empty(),
            Progress::Blocked => EpollFlags::EPOLLOUT,
            Progress::Gone => {
                let sink = container.sinks.remove(at);
                self.unwatch(token, &sink.fd);
                return;
            }
        };
        let mut event = EpollEvent::new(flags, token);
        if let Err(errno) = self.epoll.modify(&container.sinks[at].fd, &mut event) {
            complain(format_args!("{id}: cannot wait for an attached client: {errno}"));
        }
    }

    /// Kills every container and the pause process: the end of the sandbox.
    pub(super) fn kill_everything(&mut self) {
        for container in self
            .containers
            .values()
            .filter(|container| container.exit.is_none())
        {
            container.group.kill_all();
        }
        if let Some(pause) = self.pause {
            // ESRCH: gone already.
            let _ = kill(Pid::from_raw(pause), Signal::SIGKILL);
        }
    }
}
