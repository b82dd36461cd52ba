//! Copies of a container's output for attached clients.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::log::Stream;

/// A client that lags further behind than this, bytes, is cut off rather than slowing the container down.
const MAX_BACKLOG: usize = 1 << 20;

/// The write end of a pipe to one client.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) token: u64,
    pub(super) stream: Stream,
    pub(super) fd: OwnedFd,
    backlog: VecDeque<u8>,
    /// No more output will come; the sink goes when its backlog is written.
    pub(super) ended: bool,
}

/// What to do with a sink after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Everything is written.
    Idle,
    /// Wait until the pipe takes more.
    Blocked,
    /// The client is gone or too slow: drop it.
    Gone,
}

impl Sink {
    pub(super) fn new(token: u64, stream: Stream, fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            token,
            stream,
            fd,
            backlog: VecDeque::new(),
            ended: false,
        })
    }

    /// Writes output of the container, keeping what the pipe does not take.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Progress {
        self.backlog.extend(bytes);
        if self.backlog.len() > MAX_BACKLOG {
            return Progress::Gone;
        }
        self.flush()
    }

    /// Writes what is kept.
    pub(super) fn flush(&mut self) -> Progress {
        while !self.backlog.is_empty() {
            match rustix::io::write(self.fd.as_fd(), self.backlog.as_slices().0) {
                Ok(written) => drop(self.backlog.drain(..written)),
                Err(rustix::io::Errno::AGAIN) => return Progress::Blocked,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Progress::Gone,
            }
        }
        self.backlog = VecDeque::new();
        if self.ended {
            Progress::Gone
        } else {
            Progress::Idle
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_slow_client_is_cut_off() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut sink = Sink::new(1, Stream::Stdout, writer.into()).unwrap();
        assert_eq!(sink.push(b"x"), Progress::Idle);
        assert_eq!(sink.push(&vec![0; 200_000]), Progress::Blocked);
        let mut some = vec![0; 50_000];
        reader.read_exact(&mut some).unwrap();
        assert_eq!(sink.push(&vec![0; MAX_BACKLOG]), Progress::Gone);
        drop(reader);
        assert_eq!(sink.flush(), Progress::Gone);
    }
}
