//! Other nodes' pods, reached through VXLAN.
//!
//! The device learns nothing by itself. For each other node there is a forwarding entry (its device's Ethernet address is
//! at its node address), and for each of its pod ranges a neighbour and a route: `range via <its gateway> onlink`.
//! Ethernet addresses are derived from node addresses, so Node objects say everything that is needed.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::NodeInfo;
use crate::ipam::gateway;
use crate::rtnl::{Error, Mac, Route, Rtnl};

/// Bytes that VXLAN adds to a packet: outer IP, UDP, VXLAN and inner Ethernet headers.
pub(crate) fn overhead(underlay: IpAddr) -> u32 {
    if underlay.is_ipv4() { 50 } else { 70 }
}

/// The Ethernet address of something that has the address `ip`; `kind` separates uses of one address.
pub(crate) fn derived_mac(kind: u8, ip: IpAddr) -> Mac {
    match ip {
        IpAddr::V4(a) => {
            let [a, b, c, d] = a.octets();
            [0x0a, kind, a, b, c, d]
        }
        IpAddr::V6(a) => {
            let h = fnv(&a.octets());
            let [a, b, c, d, ..] = h.to_be_bytes();
            [0x0e, kind, a, b, c, d]
        }
    }
}

/// FNV-1a: stable over versions and builds, unlike the standard hasher.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// [`derived_mac`] of VXLAN devices.
pub(crate) const MAC_VXLAN: u8 = 0x4b;
/// [`derived_mac`] of pods and bridges.
pub(crate) const MAC_POD: u8 = 0x58;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Entry {
    Forwarding(Mac, IpAddr),
    Neighbour(IpAddr, Mac),
    Route(Route),
}

/// The overlay device of this node and what is programmed through it.
#[derive(Debug)]
pub(crate) struct Overlay {
    link: u32,
    /// Whether the node's own address is IPv6: peers are reached by that family.
    underlay_v6: bool,
    /// Gateways of this node's own ranges: preferred source addresses.
    sources: Vec<IpAddr>,
    peers: HashMap<String, HashSet<Entry>>,
}

impl Overlay {
    pub(crate) fn new(link: u32, underlay: IpAddr, own_ranges: &[IpNet]) -> Self {
        let sources = own_ranges.iter().map(|r| gateway(*r).addr()).collect();
        Overlay {
            link,
            underlay_v6: underlay.is_ipv6(),
            sources,
            peers: HashMap::new(),
        }
    }

    fn entries(&self, info: &NodeInfo) -> HashSet<Entry> {
        let mut out = HashSet::new();
        let Some(node) = info.addresses.iter().find(|a| a.is_ipv6() == self.underlay_v6) else {
            return out;
        };
        let mac = derived_mac(MAC_VXLAN, *node);
        if info.pod_cidrs.is_empty() {
            return out;
        }
        out.insert(Entry::Forwarding(mac, *node));
        for range in &info.pod_cidrs {
            let via = gateway(*range).addr();
            out.insert(Entry::Neighbour(via, mac));
            out.insert(Entry::Route(Route {
                to: range.trunc(),
                via: Some(via),
                link: Some(self.link),
                source: self
                    .sources
                    .iter()
                    .copied()
                    .find(|s| s.is_ipv6() == via.is_ipv6()),
                metric: 0,
            }));
        }
        out
    }

    /// Makes the kernel agree with what is now known of node `name`; touches only what changed.
    pub(crate) fn set_peer(
        &mut self,
        rtnl: &mut Rtnl,
        name: &str,
        info: Option<&NodeInfo>,
    ) -> Result<(), Error> {
        let new = info.map(|i| self.entries(i)).unwrap_or_default();
        let old = self.peers.remove(name).unwrap_or_default();
        // What another node has taken over since must stay.
        let others: HashSet<Entry> = self.peers.values().flatten().copied().collect();
        for entry in old.difference(&new).filter(|e| !others.contains(e)) {
            match *entry {
                Entry::Route(route) => rtnl.delete_route(&route)?,
                Entry::Neighbour(ip, _) => rtnl.delete_neighbour(self.link, ip)?,
                Entry::Forwarding(mac, ip) => rtnl.delete_forwarding(self.link, mac, ip)?,
            }
        }
        for entry in new.difference(&old) {
            match *entry {
                Entry::Forwarding(mac, ip) => rtnl.replace_forwarding(self.link, mac, ip)?,
                Entry::Neighbour(ip, mac) => rtnl.replace_neighbour(self.link, ip, mac)?,
                Entry::Route(_) => {}
            }
        }
        for entry in new.difference(&old) {
            if let Entry::Route(route) = entry {
                rtnl.replace_route(route)?;
            }
        }
        if !new.is_empty() {
            self.peers.insert(name.to_owned(), new);
        }
        Ok(())
    }

    /// Removes routes and forwarding entries that an earlier process made for nodes that are no more.
    pub(crate) fn remove_stale(&mut self, rtnl: &mut Rtnl) -> Result<(), Error> {
        let wanted: HashSet<Entry> = self.peers.values().flatten().copied().collect();
        let destinations: HashSet<IpNet> = wanted
            .iter()
            .filter_map(|e| if let Entry::Route(r) = e { Some(r.to) } else { None })
            .collect();
        for v6 in [false, true] {
            for route in rtnl.routes_via(self.link, v6)? {
                // Without a next hop it is the kernel's own.
                if route.via.is_some() && !destinations.contains(&route.to) {
                    rtnl.delete_route(&route)?;
                }
            }
        }
        for (mac, ip) in rtnl.forwarding(self.link)? {
            if !wanted.contains(&Entry::Forwarding(mac, ip)) {
                rtnl.delete_forwarding(self.link, mac, ip)?;
            }
        }
        Ok(())
    }
}
