//! Settings of the pod network of one node.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

/// Settings of the pod network of one node. Every name is the caller's, so that several nodes fit one machine.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node's Node object.
    pub node_name: String,
    /// Directory for what must survive a restart: one record per pod, CNI results.
    pub state_dir: PathBuf,
    /// Network namespace of the node; `None` is the process's own.
    pub netns: Option<PathBuf>,
    /// Bridge that the pods hang on, at most 15 bytes.
    pub bridge: String,
    /// Overlay between nodes; `None` on a cluster that will never have a second node.
    pub vxlan: Option<Vxlan>,
    /// nf_tables table of this component.
    pub table: String,
    /// Ranges of all pods of the cluster.
    pub cluster_cidrs: Vec<IpNet>,
    /// Ranges of Services.
    pub service_cidrs: Vec<IpNet>,
    /// Ranges of LoadBalancer addresses.
    pub load_balancer_cidrs: Vec<IpNet>,
    /// MTU of pods; `None` derives it from the link that holds the node's address.
    pub mtu: Option<u32>,
    /// Directory of CNI configurations. A configuration there takes the place of the built-in network for pods.
    pub cni_conf_dir: Option<PathBuf>,
    /// Where CNI plugins are looked for, in order.
    pub cni_bin_dirs: Vec<PathBuf>,
}

/// Settings of the overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Device name, at most 15 bytes.
    pub name: String,
    /// Network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
}

impl Default for Vxlan {
    /// Linux's own VXLAN port and identifier 1, as flannel uses.
    fn default() -> Self {
        Vxlan {
            name: "keelson.1".into(),
            vni: 1,
            port: 8472,
        }
    }
}

impl Config {
    /// The defaults of a cluster with a node of that name and state directory.
    pub fn new(node_name: &str, state_dir: PathBuf) -> Self {
        let net = |s: &str| -> Vec<IpNet> { vec![s.parse().expect("invariant: a literal network")] };
        Config {
            node_name: node_name.to_owned(),
            state_dir,
            netns: None,
            bridge: "keelson0".into(),
            vxlan: Some(Vxlan::default()),
            table: "keelson-network".into(),
            cluster_cidrs: net("10.244.0.0/16"),
            service_cidrs: net("10.96.0.0/12"),
            load_balancer_cidrs: net("10.112.0.0/16"),
            mtu: None,
            cni_conf_dir: None,
            cni_bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
        }
    }
}

/// What the network must know of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// `InternalIP` of the node, one per family at most.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
}

/// A transport protocol of a port mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => keelson_nftables::proto::TCP,
            Protocol::Udp => keelson_nftables::proto::UDP,
            Protocol::Sctp => keelson_nftables::proto::SCTP,
        }
    }
}

/// A container port that is reachable on the node's addresses.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HostPort {
    /// Address of the node; `None` is all of them.
    pub host_ip: Option<IpAddr>,
    /// Port on the node.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// A pod sandbox that needs a network.
#[derive(Clone, Debug)]
pub struct PodRequest {
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// Identifier of the sandbox, unique on the node for all time; it becomes a file name.
    pub id: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// Ports of the node that lead to the pod.
    pub host_ports: Vec<HostPort>,
}
