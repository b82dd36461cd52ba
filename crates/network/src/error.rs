//! What can go wrong with the network of a node or a pod.

use std::io;
use std::net::IpAddr;

use crate::{cni, ipam, rtnl};

/// Why network work for a node or a pod failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node does not know its pod range yet.
    #[error("network is not ready: node {0} has no pod range yet (spec.podCIDRs)")]
    NotReady(String),
    /// A namespace could not be entered, or a thread not be started.
    #[error("network namespace {path}: {source}")]
    Namespace {
        /// Which.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// A kernel setting could not be made.
    #[error("cannot set {key} to {value}: {source}{}", if key.starts_with("net/bridge/") { " (is br_netfilter in the kernel? try: modprobe br_netfilter)" } else { "" })]
    Sysctl {
        /// Path below /proc/sys.
        key: String,
        /// Value.
        value: String,
        /// The cause.
        source: io::Error,
    },
    /// Links, addresses or routes.
    #[error(transparent)]
    Rtnl(#[from] rtnl::Error),
    /// Addresses of pods.
    #[error(transparent)]
    Ipam(#[from] ipam::Error),
    /// nf_tables.
    #[error(transparent)]
    Nft(#[from] keelson_nftables::Error),
    /// A CNI plugin.
    #[error(transparent)]
    Cni(#[from] cni::Error),
    /// The node's address is on none of its interfaces.
    #[error("no interface of this node has its address {0}")]
    NoUnderlay(IpAddr),
    /// Another pod has the port.
    #[error("host port {port} of pod {pod} is in use by pod {other}")]
    HostPortInUse {
        /// The port.
        port: u16,
        /// Who wants it.
        pod: String,
        /// Who has it.
        other: String,
    },
}
