//! From a fresh process to the holder of a pod's namespaces.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use super::pause;
use crate::protocol;

/// What a shim is told about its sandbox; `shim.json` in its directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShimConfig {
    /// Sandbox id.
    pub sandbox: String,
    /// Directory of the socket.
    pub socket_dir: PathBuf,
    /// Where to pin the pod's network namespace; none for the host's network.
    pub netns: Option<PathBuf>,
    /// A new IPC namespace; otherwise the host's.
    pub ipc: bool,
    /// Host name in a new UTS namespace; none for the host's.
    pub hostname: Option<String>,
    /// All containers share one PID namespace.
    pub shared_pid: bool,
    /// Kernel parameters of the new namespaces, dotted names.
    pub sysctls: BTreeMap<String, String>,
    /// `oom_score_adj` of the shim itself, as near as permitted.
    pub oom_score_adj: i32,
}

/// The namespaces and sockets of a prepared shim.
#[derive(Debug)]
pub(super) struct Sandbox {
    /// Listening socket.
    pub(super) listener: OwnedFd,
    /// The pause process, when the pod shares a PID namespace.
    pub(super) pause: Option<i32>,
}

/// Why a sandbox could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The configuration cannot be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A step failed.
    #[error("failed to {step}: {source}")]
    Step {
        /// What was tried.
        step: String,
        /// Why.
        source: io::Error,
    },
}

/// Names the step of an I/O error.
fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> SetupError {
    move |source| SetupError::Step {
        step: step.into(),
        source,
    }
}

impl ShimConfig {
    /// Name of the file.
    pub const FILE: &'static str = "shim.json";

    /// Reads `shim.json` of a directory.
    ///
    /// # Errors
    /// When it is absent or malformed.
    pub fn read(directory: &Path) -> Result<Self, SetupError> {
        let path = directory.join(Self::FILE);
        fs::read(&path)
            .and_then(|bytes| Ok(serde_json::from_slice(&bytes)?))
            .map_err(|source| SetupError::Config { path, source })
    }
}

/// Makes the namespaces, pins the network namespace, sets name and kernel parameters, listens.
pub(super) fn prepare(config: &ShimConfig) -> Result<Sandbox, SetupError> {
    // Failing to leave the session is harmless: it means that this process leads one already.
    let _ = nix::unistd::setsid();
    nix::sys::prctl::set_name(c"keelson-shim")
        .map_err(io::Error::from)
        .map_err(step("set the process name"))?;
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(io::Error::from)
        .map_err(step("become the reaper of the pod's processes"))?;
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGCHLD);
    blocked
        .thread_block()
        .map_err(io::Error::from)
        .map_err(step("block SIGCHLD"))?;
    std::env::set_current_dir("/").map_err(step("change to the root directory"))?;
    set_oom_score_adj("/proc/self/oom_score_adj".as_ref(), config.oom_score_adj);

    let mut namespaces = CloneFlags::empty();
    namespaces.set(CloneFlags::CLONE_NEWNET, config.netns.is_some());
    namespaces.set(CloneFlags::CLONE_NEWIPC, config.ipc);
    namespaces.set(CloneFlags::CLONE_NEWUTS, config.hostname.is_some());
    nix::sched::unshare(namespaces)
        .map_err(io::Error::from)
        .map_err(step("create the pod's namespaces"))?;
    if let Some(hostname) = &config.hostname {
        nix::unistd::sethostname(hostname)
            .map_err(io::Error::from)
            .map_err(step(format!("set the hostname {hostname:?}")))?;
    }
    if let Some(path) = &config.netns {
        pin_netns(path)?;
        keelson_sys::netdev::set_link_up("lo").map_err(step("bring up the loopback interface"))?;
    }
    for (name, value) in &config.sysctls {
        set_sysctl(name, value)?;
    }
    let pause = if config.shared_pid {
        Some(pause::start().map_err(step("start the pod's first process"))?)
    } else {
        None
    };
    let listener = listen(&config.socket_dir).map_err(step("listen on the shim's socket"))?;
    Ok(Sandbox { listener, pause })
}

/// Binds this process's network namespace to a file, so that it can be entered by path.
fn pin_netns(path: &Path) -> Result<(), SetupError> {
    fs::File::create(path).map_err(step(format!("create {}", path.display())))?;
    rustix::mount::mount_bind("/proc/self/ns/net", path)
        .map_err(io::Error::from)
        .map_err(step(format!("pin the network namespace at {}", path.display())))
}

/// Writes a kernel parameter; a dot separates components, a slash stands for a dot within one.
fn set_sysctl(name: &str, value: &str) -> Result<(), SetupError> {
    let relative: String = name
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    if relative
        .split('/')
        .any(|component| component.is_empty() || component == ".." || component == ".")
    {
        return Err(step(format!("set sysctl {name:?}"))(
            io::ErrorKind::InvalidInput.into(),
        ));
    }
    fs::write(Path::new("/proc/sys").join(relative), value)
        .map_err(step(format!("set sysctl {name:?} to {value:?}")))
}

fn listen(directory: &Path) -> io::Result<OwnedFd> {
    let (_directory, address) = protocol::socket_address(directory)?;
    match fs::remove_file(directory.join(protocol::SOCKET_NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 4)?;
    Ok(socket)
}

/// Points stdin and stdout to /dev/null, so that the runtime sees the end of stdout. Stderr stays as it is (a file).
pub(super) fn detach_stdio() -> io::Result<()> {
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}

/// Writes `oom_score_adj`, or the nearest value that this process may set: without CAP_SYS_RESOURCE a value below the
/// present one (more exactly, below the lowest ever set by a capable process) is refused, and the present one stays.
pub(super) fn set_oom_score_adj(file: &Path, wanted: i32) {
    // Best effort by contract: the only failures are the missing capability and a process that is gone.
    let _ = fs::write(file, wanted.clamp(-1000, 1000).to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names_stay_below_proc_sys() {
        for name in ["", "..", "net..ipv4", "kernel./.", "a.//.b"] {
            assert!(set_sysctl(name, "1").is_err(), "{name}");
        }
    }
}
