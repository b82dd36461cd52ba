//! Where a cluster keeps its files on this machine, and the names it gives to what it creates in the kernel.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Default of `--data-dir`.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/keelson";
/// Default of `--run-dir`.
pub const DEFAULT_RUN_DIR: &str = "/run/keelson";

/// The two directories of one cluster or node. Everything it makes lies below them or carries [`Paths::id`] in its name,
/// so that several clusters can live on one machine and `keelson down` finds all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paths {
    /// What must survive a reboot.
    pub data: PathBuf,
    /// Sockets, pinned namespaces, process records.
    pub run: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            data: DEFAULT_DATA_DIR.into(),
            run: DEFAULT_RUN_DIR.into(),
        }
    }
}

impl Paths {
    /// Six hexadecimal digits that tell this cluster's links, groups and tables from those of other data directories.
    pub fn id(&self) -> String {
        let digest = Sha256::digest(self.data.as_os_str().as_encoded_bytes());
        hex::encode(&digest[..3])
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.data.join("pki")
    }

    /// The embedded store.
    pub fn store(&self) -> PathBuf {
        self.data.join("store")
    }

    /// The node agent's part: images, containers, pods.
    pub fn node(&self) -> PathBuf {
        self.data.join("node")
    }

    /// The sandboxed nodes.
    pub fn nodes(&self) -> PathBuf {
        self.data.join("nodes")
    }

    /// One sandboxed node.
    pub fn sandbox(&self, node: &str) -> PathBuf {
        self.nodes().join(node)
    }

    /// Log files of the processes in the background.
    pub fn logs(&self) -> PathBuf {
        self.data.join("logs")
    }

    /// The log of the server process.
    pub fn server_log(&self) -> PathBuf {
        self.logs().join("keelson.log")
    }

    /// The administrator's kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.data.join("admin.kubeconfig")
    }

    /// What `keelson up` was asked for.
    pub fn cluster_record(&self) -> PathBuf {
        self.data.join("cluster.json")
    }

    /// The record of the running server process.
    pub fn server_record(&self) -> PathBuf {
        self.run.join("server.json")
    }

    /// The runtime's CRI socket.
    pub fn cri_socket(&self) -> PathBuf {
        self.run.join("cri.sock")
    }

    /// The node's control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }

    /// The cgroup, below every controller's root, that holds all pods of this node.
    pub fn cgroup(&self) -> String {
        format!("/keelson-{}", self.id())
    }
}

/// Writes a file so that it is either the old one or the new one, with mode `0600`.
pub fn write_atomically(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(contents)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}
