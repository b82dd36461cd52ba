//! Settings of the proxy of one node.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

/// Settings of the proxy of one node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node: which endpoints are local.
    pub node_name: String,
    /// Network namespace of the node; `None` is the process's own.
    pub netns: Option<PathBuf>,
    /// nf_tables table, made in the families `ip` and, with [`Config::ipv6`], `ip6`.
    pub table: String,
    /// Whether Services have IPv6 addresses.
    pub ipv6: bool,
    /// Ranges of pods: who comes from elsewhere to a cluster address is masqueraded. Empty: nobody is.
    pub cluster_cidrs: Vec<IpNet>,
    /// Ranges of cluster addresses: what is sent to an unallocated one is dropped.
    pub service_cidrs: Vec<IpNet>,
    /// Which of the node's addresses answer on node ports (`--nodeport-addresses`). Empty: all but loopback.
    pub node_port_addresses: Vec<IpNet>,
    /// Bit of the packet mark that asks for masquerade (`--iptables-masquerade-bit`).
    pub masquerade_bit: u8,
    /// Where /healthz and /livez answer (`--healthz-bind-address`).
    pub healthz_bind_address: Option<SocketAddr>,
    /// Where /metrics and /proxyMode answer (`--metrics-bind-address`).
    pub metrics_bind_address: Option<SocketAddr>,
}

impl Config {
    /// The defaults of a cluster for a node of that name.
    pub fn new(node_name: &str) -> Self {
        let net = |s: &str| -> Vec<IpNet> { vec![s.parse().expect("invariant: a literal network")] };
        Config {
            node_name: node_name.to_owned(),
            netns: None,
            table: "kube-proxy".into(),
            ipv6: false,
            cluster_cidrs: net("10.244.0.0/16"),
            service_cidrs: net("10.96.0.0/12"),
            node_port_addresses: Vec::new(),
            masquerade_bit: 14,
            healthz_bind_address: Some(SocketAddr::from(([0, 0, 0, 0], 10256))),
            metrics_bind_address: Some(SocketAddr::from(([127, 0, 0, 1], 10249))),
        }
    }

    pub(crate) fn masquerade_mark(&self) -> u32 {
        1 << (self.masquerade_bit & 31)
    }
}
