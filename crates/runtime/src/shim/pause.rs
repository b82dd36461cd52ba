//! The first process of a PID namespace that all containers of a pod share.

use std::io;

use keelson_sys::process::{self, Parent};
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, waitpid};

/// Starts it: a copy of this process as PID 1 of a new namespace. It reaps what is orphaned there and exits on
/// SIGTERM, SIGINT or the death of the shim.
///
/// # Errors
/// When the kernel refuses the new process.
pub(super) fn start() -> io::Result<i32> {
    let pid = process::fork(Parent::Caller, CloneFlags::CLONE_NEWPID, run).map_err(io::Error::other)?;
    Ok(pid.as_raw())
}

fn run() -> i32 {
    let name = nix::sys::prctl::set_name(c"pause");
    let bound = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    if name.is_err() || bound.is_err() {
        return 1;
    }
    if super::setup::detach_stdio().is_err() {
        return 1;
    }
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        set.add(signal);
    }
    if set.thread_block().is_err() {
        return 1;
    }
    loop {
        match set.wait() {
            Ok(Signal::SIGCHLD) => {
                while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                    if status == nix::sys::wait::WaitStatus::StillAlive {
                        break;
                    }
                }
            }
            Ok(_) => return 0,
            Err(_) => return 1,
        }
    }
}
