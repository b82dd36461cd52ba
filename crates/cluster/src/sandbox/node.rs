//! What a sandboxed node is, and how the host starts and stops one.

use std::io::{self, BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::paths::write_atomically;
use crate::process::ProcessRecord;
use crate::sandbox::CgroupTree;
use crate::underlay::{self, Underlay};

/// Everything that the holder and init must know. Written to `<dir>/node.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Node and host name.
    pub name: String,
    /// The node's directory on the host; `var/lib` and `var/log` below it are the node's own.
    pub dir: PathBuf,
    /// The node's group in every cgroup hierarchy.
    pub cgroup: String,
    /// Host end of the node's link.
    pub link: String,
    /// The node's address on the underlay.
    pub address: Ipv4Addr,
    /// Length of the underlay's prefix.
    pub prefix: u8,
    /// The host's address on the underlay: the default route.
    pub gateway: Ipv4Addr,
    /// Arguments after `keelson agent`.
    pub agent: Vec<String>,
    /// The token to join with. It is not among the arguments, which every process of the machine can read.
    #[serde(default)]
    pub token: Option<String>,
}

/// A started node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxNode {
    /// The process that holds the namespaces.
    pub holder: ProcessRecord,
    /// PID 1 of the node, as the host numbers it.
    pub init: ProcessRecord,
}

/// A sandboxed node could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("node {node}: {operation} failed")]
    Io {
        /// The node.
        node: String,
        /// What was tried.
        operation: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The holder or init ended before the node was up.
    #[error("node {node} ended while it started; see {log}", log = log.display())]
    Died {
        /// The node.
        node: String,
        /// Its log.
        log: PathBuf,
    },
    /// The node's link could not be made.
    #[error("node {node}: cannot connect it to the underlay")]
    Link {
        /// The node.
        node: String,
        /// The cause.
        #[source]
        source: underlay::Error,
    },
}

impl NodeSpec {
    /// The file this is kept in.
    pub fn file(dir: &Path) -> PathBuf {
        dir.join("node.json")
    }

    /// The log of the node's init and agent.
    pub fn log(&self) -> PathBuf {
        self.dir.join("var/log/keelson.log")
    }

    /// The record of the running node.
    pub fn record(&self) -> PathBuf {
        self.dir.join("running.json")
    }

    /// The node, if it runs.
    pub fn running(&self) -> Option<SandboxNode> {
        let record: SandboxNode = serde_json::from_slice(&std::fs::read(self.record()).ok()?).ok()?;
        record.init.is_running().then_some(record)
    }

    /// Reads the spec in `dir`.
    pub fn read(dir: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(Self::file(dir))?)?)
    }

    fn error(&self, operation: &'static str) -> impl FnOnce(io::Error) -> Error {
        let node = self.name.clone();
        move |source| Error::Io {
            node,
            operation,
            source,
        }
    }
}

/// Starts a node and returns when its init has its network. A node that runs already is left alone.
pub async fn start(spec: &NodeSpec, underlay: &Underlay) -> Result<SandboxNode, Error> {
    if let Some(running) = spec.running() {
        return Ok(running);
    }
    for below in ["var/lib", "var/log"] {
        std::fs::create_dir_all(spec.dir.join(below)).map_err(spec.error("make directories"))?;
    }
    let bytes = serde_json::to_vec_pretty(spec)
        .map_err(io::Error::from)
        .map_err(spec.error("write node.json"))?;
    write_atomically(&NodeSpec::file(&spec.dir), &bytes).map_err(spec.error("write node.json"))?;
    let tree = CgroupTree::detect().map_err(spec.error("find the cgroup hierarchies"))?;
    tree.create(&spec.cgroup).map_err(spec.error("make cgroups"))?;

    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(spec.log())
        .map_err(spec.error("open the log"))?;
    let mut holder = Command::new("/proc/self/exe")
        .args(["internal", "node-holder"])
        .arg(&spec.dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .map_err(spec.error("start the holder"))?;
    let died = || Error::Died {
        node: spec.name.clone(),
        log: spec.log(),
    };
    // The holder says the init's process id when the namespaces are there; the init waits for its network.
    let mut line = String::new();
    let stdout = holder.stdout.take().ok_or_else(died)?;
    BufReader::new(stdout)
        .read_line(&mut line)
        .map_err(spec.error("hear from the holder"))?;
    let init = line
        .trim()
        .parse()
        .ok()
        .and_then(ProcessRecord::of)
        .ok_or_else(died)?;
    underlay
        .connect(&spec.link, init.pid)
        .await
        .map_err(|source| Error::Link {
            node: spec.name.clone(),
            source,
        })?;
    let mut stdin = holder.stdin.take().ok_or_else(died)?;
    stdin
        .write_all(b"go\n")
        .map_err(spec.error("let the node go on"))?;
    drop(stdin);
    let pid = i32::try_from(holder.id())
        .map_err(io::Error::other)
        .map_err(spec.error("read the process id"))?;
    let holder = ProcessRecord::of(pid).ok_or_else(died)?;
    let node = SandboxNode { holder, init };
    let bytes = serde_json::to_vec(&node)
        .map_err(io::Error::from)
        .map_err(spec.error("write running.json"))?;
    write_atomically(&spec.record(), &bytes).map_err(spec.error("write running.json"))?;
    Ok(node)
}

/// Tells a node to end and does not wait for it. A node that does not run is fine.
pub fn ask_to_stop(spec: &NodeSpec) -> Result<(), Error> {
    match spec.running() {
        Some(node) => node
            .init
            .signal_and_wait(Signal::TERM, Duration::ZERO)
            .map(|_ended| ())
            .map_err(spec.error("stop the node")),
        None => Ok(()),
    }
}

/// Ends a node and removes its cgroups and link. Its directory stays. A node that does not run is fine.
pub async fn stop(spec: &NodeSpec, underlay: &Underlay, patience: Duration) -> Result<(), Error> {
    if let Some(node) = spec.running() {
        if !node
            .init
            .signal_and_wait(Signal::TERM, patience)
            .map_err(spec.error("stop the node"))?
        {
            node.init
                .signal_and_wait(Signal::KILL, Duration::from_secs(10))
                .map_err(spec.error("stop the node"))?;
        }
        node.holder
            .terminate(Duration::from_secs(5))
            .map_err(spec.error("stop the holder"))?;
    }
    underlay
        .disconnect(&spec.link)
        .await
        .map_err(|source| Error::Link {
            node: spec.name.clone(),
            source,
        })?;
    let tree = CgroupTree::detect().map_err(spec.error("find the cgroup hierarchies"))?;
    tree.remove(&spec.cgroup).map_err(spec.error("remove cgroups"))?;
    match std::fs::remove_file(spec.record()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(spec.error("remove running.json")(error))
        }
        _ => Ok(()),
    }
}
