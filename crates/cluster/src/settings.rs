//! What a cluster was asked to be; kept in `cluster.json` so that every later command knows it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::paths::{Paths, write_atomically};
use crate::sandbox::NodeSpec;
use crate::underlay::Underlay;

/// Version of the layout of the data directory. A directory of a newer version is refused.
pub const LAYOUT_VERSION: u32 = 1;

/// Everything about a cluster that outlives its processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// [`LAYOUT_VERSION`] of the writer.
    pub layout_version: u32,
    /// Name of this machine's node.
    pub node_name: String,
    /// Address of this machine in the cluster.
    pub node_ip: IpAddr,
    /// Port of the API server.
    pub api_port: u16,
    /// Addresses of pods.
    pub cluster_cidr: Ipv4Net,
    /// Addresses of Services.
    pub service_cidr: Ipv4Net,
    /// Addresses of Services of type LoadBalancer.
    pub load_balancer_cidr: Ipv4Net,
    /// Network of sandboxed nodes.
    pub underlay_cidr: Ipv4Net,
    /// Further names of the API server.
    pub tls_sans: Vec<String>,
    /// Registries configuration.
    pub registries: Option<PathBuf>,
    /// The kubeconfig that the cluster's context was merged into.
    pub merged_into: Option<PathBuf>,
}

/// The settings could not be read or do not fit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read or written.
    #[error("cannot access {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is damaged.
    #[error("{path} is damaged; restore it from a backup, or start over with `keelson down --purge`", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// A newer keelson wrote the directory.
    #[error("{path} was written by a newer keelson (layout {found}, this one knows {known}); use that version", path = path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The cluster exists with other settings.
    #[error("the cluster in {data} has {name} {existing}, not {wanted}; this cannot be changed later: \
        use `keelson down --purge` first, or another --data-dir", data = data.display())]
    Different {
        /// The data directory.
        data: PathBuf,
        /// The flag.
        name: &'static str,
        /// What it is.
        existing: String,
        /// What was asked.
        wanted: String,
    },
}

impl ClusterSettings {
    /// The settings in `paths`; `None` when there is no cluster.
    pub fn read(paths: &Paths) -> Result<Option<Self>, Error> {
        #[derive(Deserialize)]
        struct Version {
            layout_version: u32,
        }
        let path = paths.cluster_record();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { path, source }),
        };
        let damaged = |source| Error::Damaged {
            path: path.clone(),
            source,
        };
        let version: Version = serde_json::from_slice(&bytes).map_err(damaged)?;
        if version.layout_version > LAYOUT_VERSION {
            let (found, known) = (version.layout_version, LAYOUT_VERSION);
            return Err(Error::Newer { path, found, known });
        }
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    /// Writes the settings.
    pub fn write(&self, paths: &Paths) -> Result<(), Error> {
        let path = paths.cluster_record();
        let write = |path: &Path| write_atomically(path, &serde_json::to_vec_pretty(self)?);
        write(&path).map_err(|source| Error::Io { path, source })
    }

    /// Whether `self` may go on as `wanted`: networks and names of a cluster cannot change.
    pub fn check_unchanged(&self, wanted: &Self, data: &Path) -> Result<(), Error> {
        type Setting = (&'static str, fn(&ClusterSettings) -> String);
        let fixed: [Setting; 5] = [
            ("--node-name", |s| s.node_name.clone()),
            ("--cluster-cidr", |s| s.cluster_cidr.to_string()),
            ("--service-cidr", |s| s.service_cidr.to_string()),
            ("--underlay-cidr", |s| s.underlay_cidr.to_string()),
            ("--api-port", |s| s.api_port.to_string()),
        ];
        for (name, value) in fixed {
            let (existing, wanted) = (value(self), value(wanted));
            if existing != wanted {
                return Err(Error::Different {
                    data: data.into(),
                    name,
                    existing,
                    wanted,
                });
            }
        }
        Ok(())
    }

    /// Address of the cluster's DNS: the tenth of the Service range, as kubeadm has it.
    pub fn dns_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.service_cidr.network()).saturating_add(10))
    }

    /// The network of sandboxed nodes.
    pub fn underlay(&self, paths: &Paths) -> Underlay {
        Underlay {
            bridge: format!("kl-{}", paths.id()),
            network: self.underlay_cidr,
        }
    }

    /// URL for this machine.
    pub fn local_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port)
    }

    /// URL for other machines.
    pub fn advertised_url(&self) -> String {
        match self.node_ip {
            IpAddr::V4(ip) => format!("https://{ip}:{}", self.api_port),
            IpAddr::V6(ip) => format!("https://[{ip}]:{}", self.api_port),
        }
    }
}

/// The sandboxed nodes that exist in `paths`, running or not, by name.
pub fn sandboxed_nodes(paths: &Paths) -> Vec<NodeSpec> {
    let Ok(entries) = std::fs::read_dir(paths.nodes()) else {
        return Vec::new();
    };
    let mut nodes: Vec<_> = entries
        .flatten()
        .filter_map(|entry| NodeSpec::read(&entry.path()).ok())
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}
