//! PID 1 of a sandboxed node.

use std::io::{self, BufRead};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::sandbox::{CgroupTree, NodeSpec};
use crate::underlay;

/// An agent that ends sooner than this after its start is started again only after this time.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// How long the agent may take to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Entry point of `keelson internal node-init DIR`; must run as PID 1 before any thread is started.
///
/// Mounts, network, host name; then runs the agent, starts it again when it dies, reaps what is left to PID 1, and ends
/// on `SIGTERM` after the agent has ended. The kernel then ends everything else in the node.
pub fn init(dir: &Path) -> ExitCode {
    match try_init(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keelson: node init for {}: {error}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn try_init(dir: &Path) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let spec = NodeSpec::read(dir)?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    if line != "go\n" {
        return Err(io::Error::other("the host gave up before the network was there"));
    }
    mounts(&spec)?;
    nix::unistd::sethostname(&spec.name)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime
        .block_on(underlay::configure_inside(&spec))
        .map_err(io::Error::other)?;
    drop(runtime);
    supervise(&spec)
}

fn mounts(spec: &NodeSpec) -> io::Result<()> {
    let none = None::<&str>;
    let tree = CgroupTree::detect()?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), quiet, none)?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), quiet, none)?;
    tree.mount()?;
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=755"),
    )?;
    // Pods mount volumes below this one and must be able to share them with the kubelet.
    for below in ["var/log", "var/lib"] {
        let (from, to) = (spec.dir.join(below), Path::new("/").join(below));
        mount(Some(&from), &to, none, MsFlags::MS_BIND, none)?;
    }
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none)?;
    Ok(())
}

fn supervise(spec: &NodeSpec) -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let signal_fd = SignalFd::new(&signals)?;
    let start = || {
        let null = std::fs::File::open("/dev/null")?;
        let mut agent = Command::new("/proc/self/exe");
        agent.arg("agent").args(&spec.agent).stdin(Stdio::from(null));
        // What `keelson up` was told by its environment is about the host, not about the node.
        agent.env_remove("KEELSON_DATA_DIR").env_remove("KEELSON_RUN_DIR");
        match &spec.token {
            Some(token) => agent.env("KEELSON_TOKEN", token),
            None => agent.env_remove("KEELSON_TOKEN"),
        };
        agent.spawn()
    };
    let mut agent = Agent {
        child: Some(start()?),
        started: Instant::now(),
    };
    let mut stopping: Option<Instant> = None;
    loop {
        let wait = match (&agent.child, stopping) {
            (None, Some(_)) => return Ok(()),
            (Some(_), Some(since)) => Some(STOP_PATIENCE.saturating_sub(since.elapsed())),
            (None, None) => Some(RESTART_DELAY.saturating_sub(agent.started.elapsed())),
            (Some(_), None) => None,
        };
        if wait == Some(Duration::ZERO) {
            if stopping.is_some() {
                return Ok(());
            }
            agent = Agent {
                child: Some(start()?),
                started: Instant::now(),
            };
            continue;
        }
        if !readable(&signal_fd, wait)? {
            continue;
        }
        match signal_fd.read_signal()?.map(|info| info.ssi_signo) {
            Some(number) if number == Signal::SIGTERM as u32 => {
                stopping.get_or_insert_with(Instant::now);
                if let Some(pid) = agent.pid() {
                    nix::sys::signal::kill(pid, Signal::SIGTERM)?;
                }
            }
            Some(_) => agent.reap()?,
            None => {}
        }
    }
}

struct Agent {
    child: Option<std::process::Child>,
    started: Instant,
}

impl Agent {
    fn pid(&self) -> Option<Pid> {
        self.child
            .as_ref()
            .and_then(|child| i32::try_from(child.id()).ok())
            .map(Pid::from_raw)
    }

    /// Reaps everything that has ended; notices when it was the agent.
    fn reap(&mut self) -> io::Result<()> {
        loop {
            let ended = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => return Ok(()),
                Ok(status) => status,
                Err(error) => return Err(error.into()),
            };
            if ended.pid().is_some() && ended.pid() == self.pid() {
                eprintln!("keelson: the agent ended: {ended:?}");
                self.child = None;
            }
        }
    }
}

fn readable(signal_fd: &SignalFd, wait: Option<Duration>) -> io::Result<bool> {
    use std::os::fd::AsFd;
    let timeout = wait
        .map(rustix::event::Timespec::try_from)
        .transpose()
        .map_err(io::Error::other)?;
    let mut descriptors = [rustix::event::PollFd::from_borrowed_fd(
        signal_fd.as_fd(),
        rustix::event::PollFlags::IN,
    )];
    Ok(rustix::event::poll(&mut descriptors, timeout.as_ref())? > 0)
}
