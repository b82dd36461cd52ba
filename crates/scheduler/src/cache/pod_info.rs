//! A pod with everything that plugins need of it, computed once.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration};
use keelson_client::NamespacedName;

use super::affinity::PodAffinities;
use super::resource::pod_requests;
use super::{RequiredNodeAffinity, Resource};

/// A port that a pod wants on its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// Empty or `0.0.0.0`: all addresses.
    pub(crate) ip: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
}

impl HostPort {
    /// Whether both cannot be had.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let any = |port: &Self| matches!(port.ip.as_str(), "" | "0.0.0.0");
        self.port == other.port
            && self.protocol == other.protocol
            && (any(self) || any(other) || self.ip == other.ip)
    }
}

/// See the module. Clones share the pod.
#[derive(Clone, Debug)]
pub(crate) struct PodInfo {
    pub(crate) pod: Arc<Pod>,
    pub(crate) key: NamespacedName,
    pub(crate) uid: Arc<str>,
    /// Where the pod runs, will run (assumed), or is to run.
    pub(crate) node_name: Arc<str>,
    pub(crate) priority: i32,
    pub(crate) requests: Arc<Resource>,
    /// CPU and memory with defaults, for scores.
    pub(crate) non_zero: (i64, i64),
    pub(crate) host_ports: Arc<[HostPort]>,
    pub(crate) affinities: Arc<PodAffinities>,
    /// A term of affinity that cannot be parsed.
    pub(crate) affinity_error: Option<Arc<str>>,
    pub(crate) node_affinity: Arc<RequiredNodeAffinity>,
}

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

impl PodInfo {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        let meta = &pod.metadata;
        let spec = pod.spec.as_ref();
        let (affinities, affinity_error) = match PodAffinities::parse(&pod) {
            Ok(affinities) => (affinities, None),
            Err(error) => (PodAffinities::default(), Some(error.into())),
        };
        let non_zero = pod_requests(&pod, true);
        Self {
            key: NamespacedName::of(&*pod),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            node_name: spec
                .and_then(|spec| spec.node_name.as_deref())
                .unwrap_or_default()
                .into(),
            priority: spec.and_then(|spec| spec.priority).unwrap_or_default(),
            requests: Arc::new(pod_requests(&pod, false)),
            non_zero: (non_zero.milli_cpu, non_zero.memory),
            host_ports: spec.map(host_ports).unwrap_or_default().into(),
            affinities: Arc::new(affinities),
            affinity_error,
            node_affinity: Arc::new(spec.map(RequiredNodeAffinity::of).unwrap_or_default()),
            pod,
        }
    }

    /// The same pod on a node.
    pub(crate) fn on_node(&self, node: &Arc<str>) -> Self {
        Self {
            node_name: node.clone(),
            ..self.clone()
        }
    }

    pub(crate) fn labels(&self) -> &BTreeMap<String, String> {
        self.pod.metadata.labels.as_ref().unwrap_or(&NO_LABELS)
    }

    pub(crate) fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    pub(crate) fn tolerations(&self) -> &[Toleration] {
        self.spec()
            .and_then(|spec| spec.tolerations.as_deref())
            .unwrap_or_default()
    }

    pub(crate) fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    pub(crate) fn nominated_node(&self) -> &str {
        self.pod
            .status
            .as_ref()
            .and_then(|status| status.nominated_node_name.as_deref())
            .unwrap_or_default()
    }

    /// When the kubelet took the pod; now for one that it has not taken.
    pub(crate) fn start_time(&self) -> Timestamp {
        let time = self
            .pod
            .status
            .as_ref()
            .and_then(|status| status.start_time.as_ref());
        time.map_or_else(Timestamp::now, |time| time.0)
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    let wanted = ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        Some(HostPort {
            ip: port.host_ip.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: number,
        })
    });
    wanted.collect()
}
