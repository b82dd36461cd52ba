//! The launcher: the process that a node's shims are copies of.
//!
//! Running the program anew for each pod costs what its linking and first steps cost, and as much memory of its own.
//! A copy of a process that has done all this shares the memory and is there at once. The launcher has one thread and
//! does nothing but wait, fork and reap. It ends when the runtime does; its shims do not.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use keelson_sys::process::{self, Parent};
use nix::sched::CloneFlags;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::protocol::{self, MAX_PACKET};

/// What the launcher waits for.
const REQUEST: u64 = 0;
const CHILD: u64 = 1;

/// Forks a shim for every request on standard input, a socket: the packet is the sandbox's directory, its descriptors
/// are the shim's standard output and error. Returns when the other end is closed.
pub(super) fn run(shim: fn(&Path) -> bool) -> io::Result<()> {
    nix::sys::prctl::set_name(c"keelson-shims")?;
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.thread_block()?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let socket = io::stdin();
    epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, REQUEST))?;
    epoll.add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, CHILD))?;
    process::trim_heap();
    let mut buffer = vec![0; MAX_PACKET];
    let mut events = [EpollEvent::empty(); 2];
    loop {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        for event in &events[..count] {
            if event.data() == CHILD {
                while let Ok(Some(_)) = signals.read_signal() {}
                reap();
                continue;
            }
            let Some((directory, mut fds)) = protocol::receive(socket.as_fd(), &mut buffer)? else {
                return Ok(());
            };
            let (Some(stdout), Some(stderr)) = (fds.pop_front(), fds.pop_front()) else {
                continue;
            };
            let directory = std::ffi::OsString::from_vec(directory.to_vec());
            let own = [epoll.0.as_raw_fd(), signals.as_raw_fd()];
            let mut answer = fs::File::from(stdout.try_clone()?);
            let forked = process::fork(Parent::Caller, CloneFlags::empty(), move || {
                // Copies of the launcher's; its socket is standard input, which is replaced.
                let closed = own.into_iter().try_for_each(nix::unistd::close);
                let ready = closed
                    .map_err(io::Error::from)
                    .and_then(|()| set_stdio(stdout, stderr));
                i32::from(ready.is_err() || !shim(Path::new(&directory)))
            });
            if let Err(error) = forked
                && let Err(error) = writeln!(answer, "cannot copy the launcher: {error}")
            {
                super::complain::complain(format_args!("{error}"));
            }
        }
    }
}

fn set_stdio(stdout: OwnedFd, stderr: OwnedFd) -> io::Result<()> {
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&stdout)?;
    rustix::stdio::dup2_stderr(&stderr)?;
    Ok(())
}

/// Lets ended shims go; the runtime sees the end of their sockets.
fn reap() {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(_) => {}
        }
    }
}
