//! Settings of the runtime.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use crate::network::PodNetwork;

/// Settings of a [`Runtime`](crate::Runtime). Nothing is hard-coded: many nodes run on one machine.
#[derive(Clone)]
pub struct Config {
    /// Directory of what outlives a reboot: sandboxes, containers and their records. On a real file system.
    pub root: PathBuf,
    /// Directory of what does not: sockets, network namespaces, shared memory. Usually below /run.
    pub run: PathBuf,
    /// Program and arguments of the launcher of shims; `--launcher DIR` is appended. The default is this program again
    /// with the subcommand `shim`.
    pub shim_command: Vec<OsString>,
    /// Connects pods.
    pub network: Arc<dyn PodNetwork>,
    /// Directory of seccomp profiles that are named by a relative path.
    pub seccomp_root: PathBuf,
    /// Name and version that `Version` answers.
    pub name: String,
    /// As above.
    pub version: String,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("root", &self.root)
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Defaults for a runtime in these directories.
    pub fn new(root: impl Into<PathBuf>, run: impl Into<PathBuf>, network: Arc<dyn PodNetwork>) -> Self {
        Self {
            root: root.into(),
            run: run.into(),
            shim_command: vec!["/proc/self/exe".into(), crate::shim::SUBCOMMAND.into()],
            network,
            seccomp_root: PathBuf::from("/var/lib/kubelet/seccomp"),
            name: "keelson".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}
