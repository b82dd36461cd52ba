//! Records of processes in the background: a process id alone may mean another process by now, so the record carries the
//! start time too.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::paths::write_atomically;

/// One process, told from later users of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Process id in the namespace of whoever reads this.
    pub pid: i32,
    /// Start time in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub start_time: u64,
}

impl ProcessRecord {
    /// The record of a running process; `None` if there is none of that id.
    pub fn of(pid: i32) -> Option<Self> {
        Some(Self {
            pid,
            start_time: start_time(pid)?,
        })
    }

    /// This process.
    pub fn current() -> io::Result<Self> {
        let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
        Self::of(pid).ok_or_else(|| io::Error::other("/proc is not mounted"))
    }

    /// Reads a record; `None` when there is no readable one.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Reads a record; `None` when the file is absent or its process is gone.
    pub fn read_running(path: &Path) -> Option<Self> {
        Self::read(path).filter(Self::is_running)
    }

    /// Writes the record.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_atomically(path, &serde_json::to_vec(self)?)
    }

    /// Whether the process is there still (a zombie is not).
    pub fn is_running(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// Sends `signal` and waits up to `patience` for the end. Whether it ended.
    pub fn signal_and_wait(&self, signal: Signal, patience: Duration) -> io::Result<bool> {
        let Some(pidfd) = self.open()? else {
            return Ok(true);
        };
        match pidfd_send_signal(&pidfd, signal) {
            Ok(()) => wait_readable(&pidfd, patience),
            Err(rustix::io::Errno::SRCH) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits up to `patience` for the end of the process: of its last thread, when its files and sockets are free too,
    /// which is later than [`Self::is_running`] turns false. Whether it ended. Blocks.
    pub fn wait(&self, patience: Duration) -> io::Result<bool> {
        let Some(pidfd) = self.open()? else {
            return Ok(true);
        };
        wait_readable(&pidfd, patience)
    }

    /// A descriptor of this very process; `None` when it is gone.
    fn open(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The descriptor holds the process: if it is the right one now, what is done with it reaches the right one.
        let right = stat(self.pid).is_some_and(|(_, start_time)| start_time == self.start_time);
        Ok(right.then_some(pidfd))
    }

    /// Asks the process to end, and ends it by force when it has not done so in time.
    pub fn terminate(&self, patience: Duration) -> io::Result<()> {
        if !self.signal_and_wait(Signal::TERM, patience)? {
            self.signal_and_wait(Signal::KILL, Duration::from_secs(10))?;
        }
        Ok(())
    }
}

fn wait_readable(pidfd: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
    let mut descriptors = [PollFd::new(pidfd, PollFlags::IN)];
    Ok(poll(&mut descriptors, Some(&timeout))? > 0)
}

/// `None` when the process does not exist or is a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let (state, start_time) = stat(pid)?;
    (state != 'Z' && state != 'X').then_some(start_time)
}

/// State and start time of a process; `None` when it does not exist.
fn stat(pid: i32) -> Option<(char, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may contain anything, also `)`.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_of_one_process_only() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let record = ProcessRecord::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(record.is_running());
        let other = ProcessRecord {
            start_time: record.start_time + 1,
            ..record
        };
        assert!(!other.is_running());
        assert!(
            other.signal_and_wait(Signal::KILL, Duration::ZERO).unwrap(),
            "must not touch the child"
        );
        assert!(record.is_running());
        record.terminate(Duration::from_secs(5)).unwrap();
        child.wait().unwrap();
        assert!(!record.is_running());
    }
}
