//! What links and routes look like, and what can go wrong.

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use ipnet::IpNet;

/// An operation on links, addresses, routes or neighbours failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error("rtnetlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused.
    #[error("cannot {operation}: {source}{}", .detail.as_deref().map(|d| format!(" ({d})")).unwrap_or_default())]
    Refused {
        /// What was asked.
        operation: String,
        /// The kernel's own words.
        detail: Option<String>,
        /// The errno.
        source: io::Error,
    },
    /// There is no such link.
    #[error("there is no network interface {0}")]
    NoLink(String),
}

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A network interface as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Ethernet address, when it has one.
    pub mac: Option<Mac>,
    /// Whether it is administratively up.
    pub up: bool,
    /// Driver: `bridge`, `veth`, `vxlan`; none for physical devices.
    pub kind: Option<String>,
    /// VXLAN network identifier.
    pub vni: Option<u32>,
}

/// One end of a veth pair to be made inside another namespace.
#[derive(Debug)]
pub struct Peer<'a> {
    /// Name there.
    pub name: &'a str,
    /// Ethernet address.
    pub mac: Mac,
    /// The namespace.
    pub netns: BorrowedFd<'a>,
}

/// Properties of a VXLAN device.
#[derive(Clone, Copy, Debug)]
pub struct VxlanSpec {
    /// Network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// This node's address on the underlay.
    pub local: IpAddr,
    /// Index of the underlay link.
    pub underlay: u32,
    /// Ethernet address.
    pub mac: Mac,
    /// MTU.
    pub mtu: u32,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Destination.
    pub to: IpNet,
    /// Next hop, reachable on the link itself (`onlink`).
    pub via: Option<IpAddr>,
    /// Link; none makes the destination unreachable.
    pub link: Option<u32>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Metric; 0 is the family's default.
    pub metric: u32,
}
