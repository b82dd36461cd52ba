//! Further processes in a running container.
//!
//! Not libcontainer's: its tenant builder (0.7) drops the container's seccomp profile. This one applies what the
//! container's own process has: user, groups, capabilities, no_new_privs, seccomp, environment, working directory.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use keelson_sys::process::{self, Parent};
use libcontainer::oci_spec::runtime::{Process, Spec};
use libcontainer::syscall::syscall::create_syscall;
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid};
use rustix::termios::Winsize;

use super::creator::{self, Message, Stdio, now, tell};
use super::executor::{self, DEFAULT_PATH, Filter};
use super::setup;
use crate::cgroup::Group;
use crate::protocol::Launch;

/// A process to start.
#[derive(Debug)]
pub(super) struct Exec<'a> {
    /// Bundle of its container.
    pub(super) bundle: &'a Path,
    /// Launch parameters of its container.
    pub(super) launch: &'a Launch,
    /// The container's group.
    pub(super) group: &'a Group,
    /// The container's init process.
    pub(super) init: i32,
    /// Arguments.
    pub(super) args: &'a [String],
    /// Whether it gets a terminal.
    pub(super) tty: bool,
}

/// The body of a creator process for an exec process; returns its exit code.
pub(super) fn create_process(socket: &OwnedFd, exec: &Exec<'_>, stdio: Stdio) -> i32 {
    let outcome = create(socket, exec, stdio)
        .map_err(|message| format!("exec failed: unable to start container process: {message}"));
    creator::report(socket, outcome)
}

fn create(socket: &OwnedFd, exec: &Exec<'_>, stdio: Stdio) -> Result<(), String> {
    let config = exec.bundle.join("config.json");
    let spec =
        Spec::load(&config).map_err(|error| format!("failed to load {}: {error}", config.display()))?;
    let filter = Filter::read(exec.bundle, exec.launch)?;
    let open = |name: &str| {
        fs::File::open(format!("/proc/{}/ns/{name}", exec.init))
            .map_err(|error| format!("failed to open the container's {name} namespace: {error}"))
    };
    let (pid_namespace, mounts, cgroups) = (open("pid")?, open("mnt")?, open("cgroup")?);
    exec.group
        .add_self()
        .map_err(|error| format!("failed to enter the container's cgroup: {error}"))?;
    if let Some(score) = exec.launch.oom_score_adj {
        setup::set_oom_score_adj("/proc/self/oom_score_adj".as_ref(), score);
    }
    nix::sched::setns(&pid_namespace, CloneFlags::CLONE_NEWPID)
        .map_err(|errno| format!("failed to enter the PID namespace: {errno}"))?;

    // The child waits until the shim knows its id, and says what went wrong until its program runs.
    let (mut go_read, mut go_write) = std::io::pipe().map_err(|error| error.to_string())?;
    let (mut error_read, error_write) = std::io::pipe().map_err(|error| error.to_string())?;
    let pid = process::fork(Parent::ParentOfCaller, CloneFlags::empty(), || {
        let mut byte = [0];
        if go_read.read(&mut byte).unwrap_or(0) != 1 {
            return 1;
        }
        let message = match run(socket, exec, &spec, filter.as_ref(), &mounts, &cgroups, stdio) {
            Ok(never) => match never {},
            Err(message) => message,
        };
        let mut error_write = error_write;
        // The creator reads this; without it there is nobody to tell.
        let _ = error_write.write_all(message.as_bytes());
        255
    })
    .map_err(|error| error.to_string())?;
    tell(socket, &Message::Pid(pid.as_raw()), &[])?;
    go_write.write_all(b"g").map_err(|error| error.to_string())?;
    let mut message = String::new();
    error_read
        .read_to_string(&mut message)
        .map_err(|error| error.to_string())?;
    if message.is_empty() {
        tell(socket, &Message::Started(now()), &[])
    } else {
        Err(message)
    }
}

/// What never is: the process has become another program.
enum Never {}

fn run(
    socket: &OwnedFd,
    exec: &Exec<'_>,
    spec: &Spec,
    filter: Option<&Filter>,
    mounts: &fs::File,
    cgroups: &fs::File,
    stdio: Stdio,
) -> Result<Never, String> {
    let process = spec.process().as_ref().ok_or("the container has no process")?;
    nix::unistd::setsid().map_err(|errno| format!("setsid: {errno}"))?;
    nix::sched::setns(cgroups, CloneFlags::CLONE_NEWCGROUP)
        .map_err(|errno| format!("setns cgroup: {errno}"))?;
    nix::sched::setns(mounts, CloneFlags::CLONE_NEWNS).map_err(|errno| format!("setns mnt: {errno}"))?;
    let uid = process.user().uid();
    if exec.tty {
        let slave = terminal(socket, uid)?;
        set_stdio(slave.as_fd(), slave.as_fd(), slave.as_fd())?;
    } else {
        let null = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(|error| format!("open /dev/null: {error}"))?;
        for fd in [&stdio.stdout, &stdio.stderr].into_iter().flatten() {
            // A pipe of a process that runs as somebody else cannot be opened by path otherwise; best effort, since
            // what was passed may be no pipe.
            let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None);
        }
        let or_null = |fd: &Option<OwnedFd>| {
            fd.as_ref()
                .map_or(null.as_fd().try_clone_to_owned(), |fd| fd.try_clone())
        };
        let failed = |error: std::io::Error| error.to_string();
        let (stdin, stdout, stderr) = (
            or_null(&stdio.stdin).map_err(failed)?,
            or_null(&stdio.stdout).map_err(failed)?,
            or_null(&stdio.stderr).map_err(failed)?,
        );
        set_stdio(stdin.as_fd(), stdout.as_fd(), stderr.as_fd())?;
    }
    become_user(process, spec, filter)?;
    let mut env: Vec<String> = process.env().clone().unwrap_or_default();
    if exec.tty && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", home(uid)));
    }
    let path = env
        .iter()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    let name = exec.args.first().map(String::as_str).unwrap_or_default();
    let program = executor::find_program(name, path)?;
    let errno = executor::become_program(&program, exec.args, &env);
    Err(format!(
        "exec {}: {}",
        program.display(),
        executor::describe(errno)
    ))
}

/// Opens a terminal in the container, makes it the controlling one and sends its master side to the shim.
fn terminal(socket: &OwnedFd, uid: u32) -> Result<OwnedFd, String> {
    let failed = |errno: rustix::io::Errno| format!("failed to open a terminal: {errno}");
    use rustix::pty::OpenptFlags;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).map_err(failed)?;
    rustix::pty::unlockpt(&master).map_err(failed)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).map_err(failed)?;
    rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(uid)), None).map_err(failed)?;
    rustix::process::ioctl_tiocsctty(&slave).map_err(failed)?;
    rustix::termios::tcsetwinsize(
        &master,
        Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
    .map_err(failed)?;
    // Pid 0: the terminal alone; the creator has told the id.
    tell(socket, &Message::Pid(0), &[master.as_fd()])?;
    Ok(slave)
}

fn set_stdio(
    stdin: std::os::fd::BorrowedFd<'_>,
    stdout: std::os::fd::BorrowedFd<'_>,
    stderr: std::os::fd::BorrowedFd<'_>,
) -> Result<(), String> {
    let failed = |errno: rustix::io::Errno| format!("failed to set up stdio: {errno}");
    rustix::stdio::dup2_stdin(stdin).map_err(failed)?;
    rustix::stdio::dup2_stdout(stdout).map_err(failed)?;
    rustix::stdio::dup2_stderr(stderr).map_err(failed)
}

/// Working directory, groups, user, capabilities, no_new_privs and seccomp, in the order in which each is possible.
fn become_user(process: &Process, spec: &Spec, filter: Option<&Filter>) -> Result<(), String> {
    let syscall = create_syscall();
    let user = process.user();
    let cwd = process.cwd();
    let early = nix::unistd::chdir(cwd);
    if user.additional_gids().is_some() {
        let groups: Vec<Gid> = user
            .additional_gids()
            .iter()
            .flatten()
            .map(|gid| Gid::from_raw(*gid))
            .collect();
        nix::unistd::setgroups(&groups).map_err(|errno| format!("setgroups: {errno}"))?;
    } else {
        nix::unistd::setgroups(&[]).map_err(|errno| format!("setgroups: {errno}"))?;
    }
    if let Some(umask) = user.umask() {
        rustix::process::umask(rustix::fs::Mode::from_bits_truncate(umask));
    }
    keep_capabilities(true)?;
    let (gid, uid) = (Gid::from_raw(user.gid()), Uid::from_raw(user.uid()));
    nix::unistd::setresgid(gid, gid, gid).map_err(|errno| format!("setgid: {errno}"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(|errno| format!("setuid: {errno}"))?;
    keep_capabilities(false)?;
    syscall
        .close_range(0)
        .map_err(|error| format!("close_range: {error}"))?;
    let no_new_privs = process.no_new_privileges() == Some(true);
    if no_new_privs {
        nix::sys::prctl::set_no_new_privs().map_err(|errno| format!("no_new_privs: {errno}"))?;
    }
    let load = || match (
        filter,
        spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()),
    ) {
        (Some(filter), _) => filter.load(),
        (None, Some(profile)) => libcontainer::seccomp::initialize_seccomp(profile)
            .map(drop)
            .map_err(|error| format!("failed to load the seccomp profile: {error}")),
        (None, None) => Ok(()),
    };
    libcontainer::capabilities::reset_effective(syscall.as_ref())
        .map_err(|error| format!("capset: {error}"))?;
    // Without no_new_privs a profile can be loaded only while CAP_SYS_ADMIN is there; with it, as late as possible.
    if !no_new_privs {
        load()?;
    }
    if let Some(capabilities) = process.capabilities() {
        let own = filter.map(|filter| filter.capabilities(capabilities));
        libcontainer::capabilities::drop_privileges(own.as_ref().unwrap_or(capabilities), syscall.as_ref())
            .map_err(|error| format!("failed to drop capabilities: {error}"))?;
    }
    if early.is_err() {
        nix::unistd::chdir(cwd)
            .map_err(|errno| format!("chdir to cwd ({:?}): {errno}", cwd.display().to_string()))?;
    }
    if no_new_privs {
        load()?;
    }
    Ok(())
}

fn keep_capabilities(keep: bool) -> Result<(), String> {
    nix::sys::prctl::set_keepcaps(keep).map_err(|errno| format!("keepcaps: {errno}"))
}

/// The home directory of a user in the container's /etc/passwd; `/` when it has none there.
fn home(uid: u32) -> String {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    text.lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let id = fields.nth(2)?;
            (id.parse() == Ok(uid)).then(|| fields.nth(2)).flatten()
        })
        .filter(|home| !home.is_empty())
        .unwrap_or("/")
        .to_owned()
}
