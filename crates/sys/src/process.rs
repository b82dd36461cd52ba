//! Creating processes without `exec`: a child that is a copy of this (single-threaded) process.
//!
//! The container shim and its short-lived creator processes are single-threaded on purpose, so that a copy of
//! them may run any code. [`fork`] refuses to run in a process with more than one thread.

use nix::unistd::Pid;

/// What can go wrong when a process is copied.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// A copy of a multi-threaded process may deadlock on locks that the other threads held.
    #[error("fork needs a single-threaded process, this one has {0} threads")]
    Threads(usize),
    /// `/proc/self/task` could not be read.
    #[error("cannot count the threads of this process")]
    CountThreads(#[source] std::io::Error),
    /// The kernel refused.
    #[error("clone")]
    Clone(#[source] nix::errno::Errno),
}

/// Whose child the copy becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The calling process.
    Caller,
    /// The parent of the calling process (`CLONE_PARENT`); that one gets SIGCHLD when the copy exits.
    ParentOfCaller,
}

/// Copies this process. The copy runs `child` and exits with its result, without running destructors or exit
/// handlers of the original; the original gets the copy's process id.
///
/// `namespaces` are the `CLONE_NEW*` flags of namespaces that the copy starts in.
///
/// # Errors
/// When the process has more than one thread, or the kernel refuses.
pub fn fork(
    parent: Parent,
    namespaces: nix::sched::CloneFlags,
    child: impl FnOnce() -> i32,
) -> Result<Pid, ForkError> {
    let threads = std::fs::read_dir("/proc/self/task")
        .map_err(ForkError::CountThreads)?
        .count();
    if threads != 1 {
        return Err(ForkError::Threads(threads));
    }
    let mut flags = namespaces.bits() as libc::c_ulong;
    match parent {
        Parent::Caller => flags |= libc::SIGCHLD as libc::c_ulong,
        // With CLONE_PARENT the kernel takes the exit signal of the caller itself.
        Parent::ParentOfCaller => flags |= (libc::CLONE_PARENT | libc::SIGCHLD) as libc::c_ulong,
    }
    // SAFETY: clone without CLONE_VM and with a null stack behaves as fork: the child gets a copy of the address
    // space and runs on a copy of this stack. The process has one thread (checked above), so no lock is held by
    // a thread that does not exist in the child. The child leaves through `_exit` and never returns from here.
    let pid = unsafe { raw_clone(flags) };
    match pid {
        -1 => Err(ForkError::Clone(nix::errno::Errno::last())),
        0 => {
            let code = child();
            // SAFETY: `_exit` has no preconditions; it ends the process at once.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(Pid::from_raw(pid as libc::pid_t)),
    }
}

/// The `clone` system call with the stack of the caller, argument order per architecture.
///
/// # Safety
/// As `fork`: in the child only what is safe after a fork of a process with the same threads.
unsafe fn raw_clone(flags: libc::c_ulong) -> libc::c_long {
    #[cfg(not(target_arch = "s390x"))]
    // SAFETY: all pointers are null: no stack switch, no thread-id stores, no TLS change.
    unsafe {
        libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize)
    }
    #[cfg(target_arch = "s390x")]
    // SAFETY: as above; s390x takes the stack first.
    unsafe {
        libc::syscall(libc::SYS_clone, 0usize, flags, 0usize, 0usize, 0usize)
    }
}

/// Ends this process at once with `code`: no destructors, no exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Sends a signal by number, real-time ones included.
///
/// # Errors
/// `ESRCH` when there is no such process, `EINVAL` for a number that is no signal.
pub fn send_signal(pid: i32, signal: i32) -> std::io::Result<()> {
    // SAFETY: kill takes numbers only.
    if unsafe { libc::kill(pid, signal) } < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Gives every signal its default action again; a program inherits ignored signals over `exec`, and Rust programs
/// ignore SIGPIPE.
pub fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is a valid action. Setting it for SIGKILL, SIGSTOP and signals reserved by the C library
        // fails without effect.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

/// Gives freed heap memory back to the kernel where the C library can do so.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_with_threads() {
        // The test harness runs tests on threads of their own, so this process has at least two.
        match fork(Parent::Caller, nix::sched::CloneFlags::empty(), || 0) {
            Err(ForkError::Threads(n)) => assert!(n > 1),
            other => panic!("{other:?}"),
        }
    }
}
