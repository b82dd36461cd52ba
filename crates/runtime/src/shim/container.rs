//! One container as the shim sees it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::attach::{Progress, Sink};
use super::log::{self, LineFormatter, LogFile, Stream};
use crate::cgroup::Group;
use crate::protocol::{ContainerState, ExitRecord, Launch};

/// Bytes read from a pipe at a time.
const READ_SIZE: usize = 32 * 1024;

/// A container that is being started, runs or has exited.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) launch: Launch,
    pub(super) group: Group,
    /// Set when the process exists.
    pub(super) pid: Option<i32>,
    pub(super) started_at: i64,
    pub(super) exit: Option<ExitRecord>,
    pub(super) outputs: Vec<Output>,
    /// Our end of its stdin: a pipe or the terminal's master side.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) log: Option<LogFile>,
    pub(super) sinks: Vec<Sink>,
}

/// A pipe (or terminal) that the container writes to.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) token: u64,
    pub(super) stream: Stream,
    pub(super) fd: OwnedFd,
    formatter: LineFormatter,
}

impl Output {
    pub(super) fn new(token: u64, stream: Stream, fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            token,
            stream,
            fd,
            formatter: LineFormatter::new(stream),
        })
    }
}

/// What reading an output showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// There may be more.
    Some,
    /// Nothing at present.
    Empty,
    /// The other end is closed.
    End,
}

impl Container {
    /// The state that the runtime asks for; nothing before the process exists.
    pub(super) fn state(&self) -> Option<ContainerState> {
        Some(ContainerState {
            id: self.id.clone(),
            pid: self.pid?,
            started_at: self.started_at,
            exit: self.exit.clone(),
        })
    }

    /// Reads once from the output with this token into the log and to the clients. Returns which clients need
    /// waiting for, or are to be dropped, by token.
    pub(super) fn pump(&mut self, token: u64) -> (Read, Vec<(u64, Progress)>) {
        let Some(at) = self.outputs.iter().position(|output| output.token == token) else {
            return (Read::End, Vec::new());
        };
        let mut buffer = [0; READ_SIZE];
        let output = &mut self.outputs[at];
        let length = match rustix::io::read(&output.fd, &mut buffer) {
            Ok(0) => return (Read::End, self.end_output(at)),
            Ok(length) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return (Read::Empty, Vec::new()),
            // EIO: nobody has the terminal open any more.
            Err(_) => return (Read::End, self.end_output(at)),
        };
        let bytes = &buffer[..length];
        if let Some(log) = &mut self.log {
            let mut entries = Vec::with_capacity(length + 128);
            output.formatter.push(bytes, &log::now(), &mut entries);
            log.append(&entries);
        }
        let stream = output.stream;
        let progress = self
            .sinks
            .iter_mut()
            .filter(|sink| sink.stream == stream)
            .map(|sink| (sink.token, sink.push(bytes)))
            .filter(|(_, progress)| *progress != Progress::Idle)
            .collect();
        (Read::Some, progress)
    }

    /// Ends an output: the rest goes to the log, the clients of it see the end after their backlog.
    fn end_output(&mut self, at: usize) -> Vec<(u64, Progress)> {
        let mut output = self.outputs.remove(at);
        if let Some(log) = &mut self.log {
            let mut entries = Vec::new();
            output.formatter.finish(&log::now(), &mut entries);
            log.append(&entries);
        }
        self.sinks
            .iter_mut()
            .filter(|sink| sink.stream == output.stream)
            .map(|sink| {
                sink.ended = true;
                (sink.token, sink.flush())
            })
            .collect()
    }
}
