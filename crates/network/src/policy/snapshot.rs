//! What the API says that policies depend on.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use keelson_nftables::proto;

/// The labels of an object.
pub(super) type Labels = BTreeMap<String, String>;

/// Addresses of this node's pods as the pod network gave them, by namespace and name: known before the API has them.
pub type LocalAddresses = HashMap<(String, String), Vec<IpAddr>>;

/// What policies need to know of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses; none while it has none.
    pub ips: Vec<IpAddr>,
    /// Named ports: name, protocol number, port.
    pub ports: Vec<(String, u8, u16)>,
    /// Whether it is on this node.
    pub local: bool,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Pods with a network of their own that have not ended.
    pub pods: Vec<PodFacts>,
    /// Labels of namespaces.
    pub namespaces: HashMap<String, Labels>,
    /// All policies.
    pub policies: Vec<Arc<NetworkPolicy>>,
}

/// The number of a protocol that the API names; TCP where it names none.
pub(super) fn protocol(name: Option<&str>) -> Option<u8> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(proto::TCP),
        "UDP" => Some(proto::UDP),
        "SCTP" => Some(proto::SCTP),
        _ => None,
    }
}

impl PodFacts {
    /// Of a Pod; `None` when policies are not about it: it has ended, or shares its node's network.
    pub fn of(pod: &Pod, node: &str) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let status = pod.status.as_ref();
        let phase = status.and_then(|s| s.phase.as_deref());
        if spec.host_network == Some(true) || matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let ips = status.and_then(|s| s.pod_ips.as_ref()).into_iter().flatten();
        let sidecars = spec.init_containers.iter().flatten();
        let containers = sidecars
            .filter(|c| c.restart_policy.as_deref() == Some("Always"))
            .chain(&spec.containers);
        let ports = containers.flat_map(|c| c.ports.iter().flatten());
        Some(Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            ips: ips.filter_map(|ip| ip.ip.parse().ok()).collect(),
            ports: ports
                .filter_map(|port| {
                    let number = u16::try_from(port.container_port).ok()?;
                    Some((port.name.clone()?, protocol(port.protocol.as_deref())?, number))
                })
                .collect(),
            local: spec.node_name.as_deref() == Some(node),
        })
    }
}

impl Snapshot {
    /// Of objects; `node` is the name of this node.
    pub fn of(
        node: &str,
        pods: &[Arc<Pod>],
        namespaces: &[Arc<Namespace>],
        policies: Vec<Arc<NetworkPolicy>>,
    ) -> Self {
        let labels = |namespace: &Arc<Namespace>| {
            let name = namespace.metadata.name.clone()?;
            Some((name, namespace.metadata.labels.clone().unwrap_or_default()))
        };
        Self {
            pods: pods.iter().filter_map(|pod| PodFacts::of(pod, node)).collect(),
            namespaces: namespaces.iter().filter_map(labels).collect(),
            policies,
        }
    }
}
