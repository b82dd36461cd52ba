//! What can be wrong with settings.

use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::preflight;

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
    /// Objects do not move by the way.
    #[error("the cluster in {data} has its objects in the embedded store, not in etcd; `keelson down` and then \
        `keelson store migrate --to etcd --etcd-servers …` moves them", data = data.display())]
    NotInEtcd {
        /// The data directory.
        data: PathBuf,
    },
    /// Nodes are not taken away.
    #[error("the cluster in {data} has {existing} nodes, and --nodes {wanted} would have to delete some, which is never done \
        by the way: keep a node empty with `kubectl drain`, or start over with `keelson down --purge`", data = data.display())]
    FewerNodes {
        /// The data directory.
        data: PathBuf,
        /// How many there are.
        existing: u16,
        /// How many were asked for.
        wanted: u16,
    },
    /// Two ranges have addresses in common.
    #[error(
        "{first_flag} {first} and {second_flag} {second} overlap: an address must belong to one of them alone"
    )]
    Overlap {
        /// A flag.
        first_flag: &'static str,
        /// Its range.
        first: Ipv4Net,
        /// Another flag.
        second_flag: &'static str,
        /// Its range.
        second: Ipv4Net,
    },
    /// The cluster's domain is not a name.
    #[error("--cluster-domain {0:?} is not a DNS name")]
    Domain(String),
    /// No name for this machine's node.
    #[error(transparent)]
    Machine(#[from] preflight::Error),
}
