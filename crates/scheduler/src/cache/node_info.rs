//! A node with the sums over its pods.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use super::{PodInfo, Resource};

/// Shared by the cache and snapshots; changed by copy on write.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeInfo {
    name: Arc<str>,
    /// None: pods are known to be on the node, but the node is not (yet, or any more).
    node: Option<Arc<Node>>,
    pub(crate) pods: Vec<Arc<PodInfo>>,
    pub(crate) requested: Resource,
    /// CPU and memory with defaults for containers that request none.
    pub(crate) non_zero_requested: (i64, i64),
    pub(crate) allocatable: Arc<Resource>,
    /// Image name to size in bytes.
    pub(crate) images: Arc<HashMap<String, i64>>,
    with_affinity: usize,
    with_required_anti_affinity: usize,
}

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

impl NodeInfo {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    pub(crate) fn set_node(&mut self, node: Option<Arc<Node>>) {
        let status = node.as_ref().and_then(|node| node.status.as_ref());
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        self.allocatable = Arc::new(allocatable.map(Resource::of).unwrap_or_default());
        let images = status
            .and_then(|status| status.images.as_deref())
            .unwrap_or_default();
        let mut sizes = HashMap::new();
        for image in images {
            for name in image.names.iter().flatten() {
                sizes.insert(name.clone(), image.size_bytes.unwrap_or_default());
            }
        }
        self.images = Arc::new(sizes);
        self.node = node;
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }

    pub(crate) fn labels(&self) -> &BTreeMap<String, String> {
        self.node
            .as_ref()
            .and_then(|node| node.metadata.labels.as_ref())
            .unwrap_or(&NO_LABELS)
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels().get(key).map(String::as_str)
    }

    pub(crate) fn taints(&self) -> &[Taint] {
        let spec = self.node.as_ref().and_then(|node| node.spec.as_ref());
        spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
    }

    pub(crate) fn is_unschedulable(&self) -> bool {
        let spec = self.node.as_ref().and_then(|node| node.spec.as_ref());
        spec.and_then(|spec| spec.unschedulable).unwrap_or_default()
    }

    /// Region and zone, for spreading the order of nodes.
    pub(crate) fn zone(&self) -> String {
        let part = |key: &str| self.label(key).unwrap_or_default();
        format!(
            "{}:{}",
            part("topology.kubernetes.io/region"),
            part("topology.kubernetes.io/zone")
        )
    }

    pub(crate) fn has_pods_with_affinity(&self) -> bool {
        self.with_affinity > 0
    }

    pub(crate) fn has_pods_with_required_anti_affinity(&self) -> bool {
        self.with_required_anti_affinity > 0
    }

    pub(crate) fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.non_zero_requested.0 += pod.non_zero.0;
        self.non_zero_requested.1 += pod.non_zero.1;
        self.with_affinity += usize::from(!pod.affinities.is_empty());
        self.with_required_anti_affinity += usize::from(!pod.affinities.required_anti.is_empty());
        self.pods.push(pod);
    }

    /// Removes the pod of that UID; whether it was there.
    pub(crate) fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(at) = self.pods.iter().position(|pod| &*pod.uid == uid) else {
            return false;
        };
        let pod = self.pods.swap_remove(at);
        self.requested.sub(&pod.requests);
        self.non_zero_requested.0 -= pod.non_zero.0;
        self.non_zero_requested.1 -= pod.non_zero.1;
        self.with_affinity -= usize::from(!pod.affinities.is_empty());
        self.with_required_anti_affinity -= usize::from(!pod.affinities.required_anti.is_empty());
        true
    }
}
