//! Creators: short-lived copies of the shim that make one container or one exec process each, and what they tell.
//!
//! A creator's children are made children of the shim (`CLONE_PARENT`), so that it can exit when they run.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use serde::{Deserialize, Serialize};

use super::executor::{ContainerProgram, Filter};
use super::{rootfs, setup};
use crate::protocol::{self, Launch};

/// What a creator tells the shim, in this order; an end without `Started` or `Failed` is a failure.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// The process exists, and has not begun to run its program. With a terminal of a container, the packet carries
    /// the master side.
    Pid(i32),
    /// It runs its program, since this time (nanoseconds since the epoch).
    Started(i64),
    /// It does not run; nothing of it is left.
    Failed(String),
}

/// The other side of the pipes of a container.
#[derive(Debug)]
pub(super) struct Stdio {
    /// Read end.
    pub(super) stdin: Option<OwnedFd>,
    /// Write end.
    pub(super) stdout: Option<OwnedFd>,
    /// Write end.
    pub(super) stderr: Option<OwnedFd>,
}

/// Sends a message to the shim; when the shim is gone so is this process's purpose, and it fails.
pub(super) fn tell(socket: &OwnedFd, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), String> {
    let bytes = serde_json::to_vec(message).map_err(|error| error.to_string())?;
    protocol::send(socket, &bytes, fds).map_err(|error| format!("the shim is gone: {error}"))
}

/// Nanoseconds since the epoch.
pub(super) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// The body of a creator process for a container; returns its exit code.
pub(super) fn create_container(
    socket: &OwnedFd,
    id: &str,
    bundle: &Path,
    launch: &Launch,
    stdio: Stdio,
) -> i32 {
    let outcome =
        create(socket, id, bundle, launch, stdio).and_then(|()| tell(socket, &Message::Started(now()), &[]));
    report(socket, outcome)
}

/// Ends a creator: tells of a failure.
pub(super) fn report(socket: &OwnedFd, outcome: Result<(), String>) -> i32 {
    match outcome {
        Ok(()) => 0,
        Err(message) => {
            // If this fails the shim is gone, and sees nothing anyway.
            let _ = tell(socket, &Message::Failed(message), &[]);
            1
        }
    }
}

fn create(socket: &OwnedFd, id: &str, bundle: &Path, launch: &Launch, stdio: Stdio) -> Result<(), String> {
    rootfs::prepare(launch, bundle)?;
    for fd in [&stdio.stdin, &stdio.stdout, &stdio.stderr].into_iter().flatten() {
        rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(launch.uid)), None)
            .map_err(|errno| format!("failed to hand over the output pipes: {errno}"))?;
    }
    let state = bundle.join("oci");
    fs::create_dir_all(&state).map_err(|error| format!("failed to create {}: {error}", state.display()))?;
    let console = if launch.tty {
        Some(console_listener(bundle)?)
    } else {
        None
    };

    let mut builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(&state)
        .map_err(|error| flatten(&error))?
        .with_executor(ContainerProgram {
            filter: Filter::read(bundle, launch)?,
        });
    if let Some((_, path)) = &console {
        builder = builder.with_console_socket(Some(path.clone()));
    }
    if let Some(fd) = stdio.stdin {
        builder = builder.with_stdin(fd);
    }
    if let Some(fd) = stdio.stdout {
        builder = builder.with_stdout(fd);
    }
    if let Some(fd) = stdio.stderr {
        builder = builder.with_stderr(fd);
    }
    let mut container = builder
        .as_init(bundle)
        .with_systemd(false)
        .as_sibling(true)
        .with_detach(true)
        .build()
        .map_err(|error| flatten(&error))?;
    let pid = container
        .pid()
        .ok_or("libcontainer returned no process id")?
        .as_raw();
    if let Some(score) = launch.oom_score_adj {
        setup::set_oom_score_adj(format!("/proc/{pid}/oom_score_adj").as_ref(), score);
    }
    let master = console
        .map(|(listener, _)| receive_master(&listener))
        .transpose()?;
    let fds: Vec<BorrowedFd<'_>> = master.iter().map(AsFd::as_fd).collect();
    tell(socket, &Message::Pid(pid), &fds)?;
    container.start().map_err(|error| flatten(&error))
}

/// Listens for libcontainer's sending of the terminal's master side.
fn console_listener(bundle: &Path) -> Result<(std::os::unix::net::UnixListener, std::path::PathBuf), String> {
    let failed = |error: io::Error| format!("failed to listen for the console: {error}");
    let directory = bundle.join("console");
    fs::create_dir_all(&directory).map_err(failed)?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    let path = directory.join("c");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // The bundle's path may be longer than a socket address; libcontainer links to it from its own directory.
    let before = std::env::current_dir().map_err(failed)?;
    std::env::set_current_dir(&directory).map_err(failed)?;
    let listener = std::os::unix::net::UnixListener::bind("c").map_err(failed)?;
    std::env::set_current_dir(before).map_err(failed)?;
    Ok((listener, path))
}

fn receive_master(listener: &std::os::unix::net::UnixListener) -> Result<OwnedFd, String> {
    let (stream, _) = listener
        .accept()
        .map_err(|error| format!("failed to get the console: {error}"))?;
    let mut buffer = [0; 4096];
    match protocol::receive(&stream, &mut buffer) {
        Ok(Some((_, mut fds))) => fds
            .pop_front()
            .ok_or_else(|| "no console in libcontainer's message".to_owned()),
        Ok(None) => Err("libcontainer sent no console".to_owned()),
        Err(error) => Err(format!("failed to get the console: {error}")),
    }
}

/// An error with its causes, without repetitions. What the container's own process said comes last and alone, when
/// it could not find its program.
fn flatten(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    match text.find("exec: ") {
        Some(at) => text
            .split_off(at)
            .trim_end_matches(['"', '}', ')'])
            .replace("\\\"", "\""),
        None => text,
    }
}
