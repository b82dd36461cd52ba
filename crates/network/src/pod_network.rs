//! The network of a node's pods: bridge, interface pairs, addresses, routes, overlay, host ports.
//!
//! All methods block for a few milliseconds at most (CNI plugins: as long as they take): call them on a blocking thread.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnet::IpNet;
use keelson_nftables::{Conntrack, NfTables};
use keelson_sys::netns::NetNs;
use parking_lot::Mutex;

use crate::cni;
use crate::config::{Config, HostPort, NodeInfo, PodRequest, Protocol};
use crate::error::Error;
use crate::host::{in_host, sysctl};
use crate::ipam::{Ipam, Record, gateway};
use crate::overlay::{MAC_POD, MAC_VXLAN, Overlay, derived_mac, fnv, overhead};
use crate::policy::{PolicyTable, Snapshot};
use crate::rtnl::{self, Link, Peer, Route, Rtnl, VxlanSpec};
use crate::rules;

/// The interface inside a pod.
pub(crate) const POD_INTERFACE: &str = "eth0";
/// Metric of the unreachable routes: every real route is preferred.
const METRIC_UNREACHABLE: u32 = 0xffff_fff0;
/// Metric of the routes that keep this machine's own packets to Services on the machine.
const METRIC_SERVICE: u32 = 1024;
/// Largest MTU of an interface pair.
const MAX_MTU: u32 = 65_535;

/// The network of one node's pods.
#[derive(Debug)]
pub struct PodNetwork {
    config: Config,
    host: NetNs,
    cni: Option<cni::Cni>,
    inner: Mutex<Inner>,
    /// For deleting links: the kernel takes some 20 ms for each, which must not hold up pods that start.
    deleting: Mutex<Rtnl>,
}

#[derive(Debug)]
struct Inner {
    rtnl: Rtnl,
    nft: NfTables,
    ipam: Ipam,
    node: Option<Node>,
    overlay: Option<Overlay>,
    peers: HashMap<String, NodeInfo>,
    policies: PolicyTable,
}

impl Inner {
    /// Brings the policies' rules to the pods that are here now.
    fn sync_policies(&mut self) -> Result<(), Error> {
        let local = self.ipam.records().map(|record| {
            let key = (record.namespace.clone(), record.name.clone());
            (key, record.ips.clone())
        });
        self.policies.set_local(local.collect());
        let messages = self.policies.sync(&mut self.nft)?;
        if messages > 0 {
            tracing::debug!(messages, "network policies changed");
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Node {
    info: NodeInfo,
    bridge: Link,
    mtu: u32,
}

impl PodNetwork {
    /// Opens the records and the node's namespace, turns forwarding on and puts the unreachable routes in place. Pods can
    /// be set up after [`PodNetwork::configure`].
    pub fn new(config: Config) -> Result<Self, Error> {
        let host = match &config.netns {
            None => NetNs::current(),
            Some(path) => NetNs::open(path),
        }
        .map_err(|source| Error::Namespace {
            path: config
                .netns
                .as_ref()
                .map_or_else(|| "of this process".into(), |p| p.display().to_string()),
            source,
        })?;
        let ipam = Ipam::open(&config.state_dir.join("pods"))?;
        let cni = config.cni_conf_dir.as_ref().map(|dir| {
            cni::Cni::new(
                host.clone(),
                dir.clone(),
                config.cni_bin_dirs.clone(),
                config.state_dir.join("cni"),
            )
        });
        let (rtnl, deleting, nft) = in_host(&host, || Ok((Rtnl::open()?, Rtnl::open()?, NfTables::open()?)))?;
        let mut settings = vec![
            ("net/ipv4/ip_forward".to_owned(), "1"),
            ("net/bridge/bridge-nf-call-iptables".to_owned(), "1"),
        ];
        if config.cluster_cidrs.iter().any(|c| c.addr().is_ipv6()) {
            settings.push(("net/ipv6/conf/all/forwarding".to_owned(), "1"));
            settings.push(("net/bridge/bridge-nf-call-ip6tables".to_owned(), "1"));
        }
        sysctl(&host, settings)?;
        let mut inner = Inner {
            rtnl,
            nft,
            ipam,
            node: None,
            overlay: None,
            peers: HashMap::new(),
            policies: PolicyTable::new(
                &format!("{}-policy", config.table),
                config.cluster_cidrs.iter().any(|c| c.addr().is_ipv6()),
            ),
        };
        for to in config
            .cluster_cidrs
            .iter()
            .chain(&config.service_cidrs)
            .chain(&config.load_balancer_cidrs)
        {
            let route = Route {
                to: *to,
                via: None,
                link: None,
                source: None,
                metric: METRIC_UNREACHABLE,
            };
            inner.rtnl.replace_route(&route)?;
        }
        Ok(PodNetwork {
            config,
            host,
            cni,
            inner: Mutex::new(inner),
            deleting: Mutex::new(deleting),
        })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether pods can be set up; the error says what is missing.
    pub fn ready(&self) -> Result<(), Error> {
        if self.uses_cni() || self.inner.lock().node.is_some() {
            return Ok(());
        }
        Err(Error::NotReady(self.config.node_name.clone()))
    }

    /// Whether a CNI configuration has taken over.
    pub fn uses_cni(&self) -> bool {
        self.cni.as_ref().is_some_and(|cni| cni.configured())
    }

    /// Makes bridge, routes, rules and overlay for this node. Idempotent; live pods and connections are untouched.
    pub fn configure(&self, info: &NodeInfo) -> Result<(), Error> {
        if info.pod_cidrs.is_empty() {
            return Err(Error::NotReady(self.config.node_name.clone()));
        }
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if inner.node.as_ref().is_some_and(|n| n.info == *info) {
            return Ok(());
        }
        let underlay = self.underlay(&mut inner.rtnl, info)?;
        let mtu = match (self.config.mtu, &self.config.vxlan, &underlay) {
            (Some(mtu), _, _) => mtu,
            (None, Some(_), Some((ip, link))) => link.mtu.saturating_sub(overhead(*ip)),
            (None, None, Some((_, link))) => link.mtu,
            (None, _, None) => 1500,
        }
        .min(MAX_MTU);
        let bridge = self.bridge(&mut inner.rtnl, info, mtu)?;
        for v6 in [false, true] {
            if info.pod_cidrs.iter().any(|c| c.addr().is_ipv6() == v6) {
                let records = inner.ipam.records();
                inner
                    .nft
                    .commit(rules::table(&self.config, v6, &info.pod_cidrs, records))?;
            }
        }
        if let (Some(vxlan), Some((ip, link))) = (&self.config.vxlan, &underlay) {
            let spec = VxlanSpec {
                vni: vxlan.vni,
                port: vxlan.port,
                local: *ip,
                underlay: link.index,
                mac: derived_mac(MAC_VXLAN, *ip),
                mtu,
            };
            let device = inner.rtnl.add_vxlan(&vxlan.name, &spec)?;
            // What is masqueraded towards other nodes' pods gets this device's address, which must lead back here. Without
            // one the kernel takes any: the cluster DNS address, say, which every node has.
            let sources: Vec<IpNet> = info
                .pod_cidrs
                .iter()
                .map(|cidr| gateway(*cidr).addr().into())
                .collect();
            keep_addresses(&mut inner.rtnl, device.index, &sources)?;
            inner.rtnl.set_up(device.index)?;
            let mut overlay = Overlay::new(device.index, *ip, &info.pod_cidrs);
            for (name, peer) in &inner.peers {
                overlay.set_peer(&mut inner.rtnl, name, Some(peer))?;
            }
            inner.overlay = Some(overlay);
        }
        tracing::info!(node = %self.config.node_name, ranges = ?info.pod_cidrs, mtu, "pod network is ready");
        inner.node = Some(Node {
            info: info.clone(),
            bridge,
            mtu,
        });
        Ok(())
    }

    /// The node's address and the link that holds it. Required by the overlay, otherwise a source for the MTU.
    fn underlay(&self, rtnl: &mut Rtnl, info: &NodeInfo) -> Result<Option<(IpAddr, Link)>, Error> {
        let addresses = rtnl.addresses()?;
        let links = rtnl.links()?;
        for ip in &info.addresses {
            let index = addresses
                .iter()
                .find(|(_, net)| net.addr() == *ip)
                .map(|(index, _)| *index);
            if let Some(link) = index.and_then(|i| links.iter().find(|l| l.index == i)) {
                return Ok(Some((*ip, link.clone())));
            }
        }
        match (&self.config.vxlan, info.addresses.first()) {
            (Some(_), Some(ip)) => Err(Error::NoUnderlay(*ip)),
            _ => Ok(None),
        }
    }

    fn bridge(&self, rtnl: &mut Rtnl, info: &NodeInfo, mtu: u32) -> Result<Link, Error> {
        let gateways: Vec<IpNet> = info.pod_cidrs.iter().map(|c| gateway(*c)).collect();
        let mac = derived_mac(MAC_POD, gateways[0].addr());
        let bridge = rtnl.add_bridge(&self.config.bridge, mac, mtu)?;
        keep_addresses(rtnl, bridge.index, &gateways)?;
        rtnl.set_up(bridge.index)?;
        // A redirect would teach a pod to look for Service addresses on its own segment.
        let of_bridge = |name: &str, value| (format!("net/ipv4/conf/{}/{name}", self.config.bridge), value);
        let mut settings = vec![of_bridge("route_localnet", "1"), of_bridge("send_redirects", "0")];
        settings.push(("net/ipv4/conf/all/send_redirects".to_owned(), "0"));
        sysctl(&self.host, settings)?;
        // The machine's own packets to Services need a route before the proxy translates them. On the bridge they
        // get a pod-range source address, and what is not translated finds nobody there and stays on the machine.
        for to in self
            .config
            .service_cidrs
            .iter()
            .chain(&self.config.load_balancer_cidrs)
        {
            if gateways.iter().any(|g| g.addr().is_ipv6() == to.addr().is_ipv6()) {
                let source = gateways
                    .iter()
                    .map(IpNet::addr)
                    .find(|g| g.is_ipv6() == to.addr().is_ipv6());
                let link = Some(bridge.index);
                rtnl.replace_route(&Route {
                    to: *to,
                    via: None,
                    link,
                    source,
                    metric: METRIC_SERVICE,
                })?;
            }
        }
        Ok(bridge)
    }

    /// What is now known of another node; `None` when it is gone. Programs only the difference.
    pub fn set_peer(&self, name: &str, info: Option<NodeInfo>) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if let Some(overlay) = &mut inner.overlay {
            overlay.set_peer(&mut inner.rtnl, name, info.as_ref())?;
        }
        match info {
            Some(info) => inner.peers.insert(name.to_owned(), info),
            None => inner.peers.remove(name),
        };
        Ok(())
    }

    /// Once all nodes are known: removes what an earlier process programmed for nodes that are gone.
    pub fn remove_stale_peers(&self) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        match &mut inner.overlay {
            Some(overlay) => Ok(overlay.remove_stale(&mut inner.rtnl)?),
            None => Ok(()),
        }
    }

    /// Connects a pod and returns its addresses, the primary first. Idempotent per sandbox id.
    pub fn setup(&self, pod: &PodRequest) -> Result<Vec<IpAddr>, Error> {
        if let Some(cni) = self.cni.as_ref().filter(|cni| cni.configured()) {
            return Ok(cni.add(pod)?);
        }
        let open = |source| Error::Namespace {
            path: pod.netns.display().to_string(),
            source,
        };
        let netns = NetNs::open(&pod.netns).map_err(open)?;
        let (ranges, record) = {
            let mut inner = self.inner.lock();
            let inner = &mut *inner;
            let Some(node) = &inner.node else {
                return Err(Error::NotReady(self.config.node_name.clone()));
            };
            let known = inner.ipam.get(&pod.id).is_some();
            if !known {
                check_host_ports(&inner.ipam, pod)?;
            }
            let ranges = node.info.pod_cidrs.clone();
            let record = inner
                .ipam
                .allocate(&ranges, &pod.id, &pod.namespace, &pod.name, &pod.host_ports)?;
            // Before the first packet: the pod's policies.
            inner.policies.add_local(&record);
            let ready = inner.policies.sync(&mut inner.nft).map_err(Error::from);
            let connected = ready.and_then(|_| self.connect(&mut inner.rtnl, node, &record, &netns));
            if let Err(e) = connected {
                if !known {
                    inner.ipam.release(&pod.id)?;
                }
                return Err(e);
            }
            if !known && !record.host_ports.is_empty() {
                for batch in rules::host_ports(&self.config, &record, true) {
                    inner.nft.commit(batch)?;
                }
                self.forget_udp_flows(&record.host_ports, None)?;
            }
            (ranges, record)
        };
        let ips = record.ips.clone();
        let configured = netns.run(move || Ok(configure_pod(&ips, &ranges))).map_err(open);
        match configured {
            Ok(Ok(())) => Ok(record.ips),
            Ok(Err(e)) => {
                self.teardown(&pod.id)?;
                Err(e.into())
            }
            Err(e) => {
                self.teardown(&pod.id)?;
                Err(e)
            }
        }
    }

    fn connect(&self, rtnl: &mut Rtnl, node: &Node, record: &Record, netns: &NetNs) -> Result<(), Error> {
        let name = host_interface(&record.id);
        if rtnl.find_link(&name)?.is_some() {
            let inside = netns
                .run(|| Ok(Rtnl::open().and_then(|mut r| r.find_link(POD_INTERFACE))))
                .map_err(|source| Error::Namespace {
                    path: format!("of sandbox {}", record.id),
                    source,
                })??;
            if inside.is_some() {
                return Ok(());
            }
            rtnl.delete_link(&name)?;
        }
        let peer = Peer {
            name: POD_INTERFACE,
            mac: derived_mac(MAC_POD, record.ips[0]),
            netns: netns.as_fd(),
        };
        rtnl.add_veth(&name, node.bridge.index, node.mtu, &peer)?;
        let port = rtnl.link(&name)?;
        rtnl.set_hairpin(port.index)?;
        Ok(())
    }

    /// Disconnects a pod; its addresses are free afterwards. Unknown or gone is fine.
    pub fn teardown(&self, id: &str) -> Result<(), Error> {
        if let Some(cni) = &self.cni {
            cni.delete(id)?;
        }
        self.deleting.lock().delete_link(&host_interface(id))?;
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let Some(record) = inner.ipam.get(id).cloned() else {
            return Ok(());
        };
        for batch in rules::host_ports(&self.config, &record, false) {
            // After a restart without a pod range there is no table yet; then nothing is to be removed.
            if inner.node.is_some() {
                inner.nft.commit(batch)?;
            }
        }
        if !record.host_ports.is_empty() {
            self.forget_udp_flows(&record.host_ports, Some(&record.ips))?;
        }
        inner.ipam.release(id)?;
        inner.sync_policies()
    }

    /// What the API says of pods, namespaces and policies: brings the rules to it.
    pub fn set_policies(&self, snapshot: Snapshot) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        if self.uses_cni() {
            return Ok(());
        }
        inner.policies.set_snapshot(snapshot);
        inner.sync_policies()
    }

    /// Tears down every pod that is not in `live`: what a crash left behind.
    pub fn collect_garbage(&self, live: &HashSet<String>) -> Result<(), Error> {
        let dead: Vec<String> = self
            .inner
            .lock()
            .ipam
            .records()
            .map(|r| r.id.clone())
            .filter(|id| !live.contains(id))
            .collect();
        for id in dead {
            self.teardown(&id)?;
        }
        Ok(())
    }

    /// The addresses of a connected sandbox.
    pub fn addresses(&self, id: &str) -> Option<Vec<IpAddr>> {
        if let Some(ips) = self.cni.as_ref().and_then(|cni| cni.addresses(id)) {
            return Some(ips);
        }
        self.inner.lock().ipam.get(id).map(|r| r.ips.clone())
    }

    /// UDP flows keep an old translation while packets come: forget those of these ports (and only to `targets`).
    fn forget_udp_flows(&self, ports: &[HostPort], targets: Option<&[IpAddr]>) -> Result<(), Error> {
        let udp: HashSet<u16> = ports
            .iter()
            .filter(|p| p.protocol == Protocol::Udp)
            .map(|p| p.host_port)
            .collect();
        if udp.is_empty() {
            return Ok(());
        }
        let mut conntrack = in_host(&self.host, || Ok(Conntrack::open()?))?;
        for v6 in [false, true] {
            conntrack.delete(v6, keelson_nftables::proto::UDP, |flow| {
                udp.contains(&flow.destination.1) && targets.is_none_or(|t| t.contains(&flow.reply_source.0))
            })?;
        }
        Ok(())
    }

    /// Puts an address on the node's `lo`, e.g. the cluster DNS address.
    pub fn add_local_address(&self, ip: IpAddr) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        let lo = inner.rtnl.link("lo")?;
        inner.rtnl.set_up(lo.index)?;
        Ok(inner.rtnl.add_address(lo.index, IpNet::from(ip))?)
    }

    /// A handle on the node's network namespace, for sockets that must be opened there.
    pub fn host_namespace(&self) -> NetNs {
        self.host.clone()
    }

    /// Removes all that this component put into the node's namespace: for `keelson down`. Pods must be gone.
    pub fn remove(&self) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.overlay = None;
        inner.node = None;
        if let Some(vxlan) = &self.config.vxlan {
            inner.rtnl.delete_link(&vxlan.name)?;
        }
        inner.rtnl.delete_link(&self.config.bridge)?;
        for v6 in [false, true] {
            let family = if v6 {
                keelson_nftables::Family::Ipv6
            } else {
                keelson_nftables::Family::Ipv4
            };
            let mut batch = keelson_nftables::Batch::new(family, &self.config.table);
            batch.add_table().delete_table();
            inner.nft.commit(batch)?;
        }
        inner.policies.remove(&mut inner.nft)?;
        for to in self
            .config
            .cluster_cidrs
            .iter()
            .chain(&self.config.service_cidrs)
            .chain(&self.config.load_balancer_cidrs)
        {
            let route = Route {
                to: *to,
                via: None,
                link: None,
                source: None,
                metric: METRIC_UNREACHABLE,
            };
            inner.rtnl.delete_route(&route)?;
        }
        Ok(())
    }
}

/// Gives a link exactly these addresses, besides those that the kernel gives itself.
fn keep_addresses(rtnl: &mut Rtnl, link: u32, wanted: &[IpNet]) -> Result<(), rtnl::Error> {
    for (index, net) in rtnl.addresses()? {
        let link_local = matches!(net.addr(), IpAddr::V6(a) if a.is_unicast_link_local());
        if index == link && !wanted.contains(&net) && !link_local {
            rtnl.delete_address(index, net)?;
        }
    }
    for net in wanted {
        rtnl.add_address(link, *net)?;
    }
    Ok(())
}

/// The node's end of a sandbox's interface pair.
pub(crate) fn host_interface(id: &str) -> String {
    format!("kv{:012x}", fnv(id.as_bytes()) >> 16)
}

fn check_host_ports(ipam: &Ipam, pod: &PodRequest) -> Result<(), Error> {
    let any = |p: &HostPort| p.host_ip.filter(|ip| !ip.is_unspecified());
    for record in ipam.records() {
        for other in &record.host_ports {
            for port in &pod.host_ports {
                if port.protocol == other.protocol
                    && port.host_port == other.host_port
                    && any(port) == any(other)
                {
                    return Err(Error::HostPortInUse {
                        port: port.host_port,
                        pod: format!("{}/{}", pod.namespace, pod.name),
                        other: format!("{}/{}", record.namespace, record.name),
                    });
                }
            }
        }
    }
    Ok(())
}

/// Runs inside the pod's namespace.
fn configure_pod(ips: &[IpAddr], ranges: &[IpNet]) -> Result<(), rtnl::Error> {
    let mut rtnl = Rtnl::open()?;
    let lo = rtnl.link("lo")?;
    rtnl.set_up(lo.index)?;
    let link = rtnl.link(POD_INTERFACE)?;
    rtnl.set_up(link.index)?;
    for (ip, range) in ips.iter().zip(ranges) {
        let net = IpNet::new(*ip, range.prefix_len()).expect("invariant: the prefix is the range's own");
        rtnl.add_address(link.index, net)?;
        let everything: IpNet = if ip.is_ipv4() { "0.0.0.0/0" } else { "::/0" }
            .parse()
            .expect("invariant: a literal");
        let via = Some(gateway(*range).addr());
        rtnl.replace_route(&Route {
            to: everything,
            via,
            link: Some(link.index),
            source: None,
            metric: 0,
        })?;
    }
    Ok(())
}
