//! What happens in the cluster that may make an unschedulable pod schedulable.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};

use crate::cache::PodInfo;

/// Which parts of a node an update touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeChange {
    pub(crate) allocatable: bool,
    pub(crate) labels: bool,
    pub(crate) taints: bool,
    pub(crate) unschedulable: bool,
}

impl NodeChange {
    /// What differs between two states of a node.
    pub(crate) fn between(old: &Node, new: &Node) -> Self {
        let taints = |node: &Node| {
            node.spec
                .as_ref()
                .and_then(|spec| spec.taints.clone())
                .unwrap_or_default()
        };
        let cordoned = |node: &Node| {
            node.spec
                .as_ref()
                .and_then(|spec| spec.unschedulable)
                .unwrap_or_default()
        };
        let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
        Self {
            allocatable: allocatable(old) != allocatable(new),
            labels: old.metadata.labels != new.metadata.labels,
            taints: taints(old) != taints(new),
            unschedulable: cordoned(old) != cordoned(new),
        }
    }

    /// Whether anything changed that a plugin looks at.
    pub(crate) fn any(self) -> bool {
        self != Self::default()
    }
}

/// One event, with what plugins need to judge it.
#[derive(Clone, Debug)]
pub(crate) enum ClusterEvent {
    NodeAdded(Arc<Node>),
    NodeUpdated {
        old: Arc<Node>,
        new: Arc<Node>,
        change: NodeChange,
    },
    /// Fewer nodes change the domains of a topology.
    NodeDeleted,
    AssignedPodAdded(Arc<PodInfo>),
    /// Labels or requests of a running pod changed.
    AssignedPodUpdated {
        old: Arc<PodInfo>,
        new: Arc<PodInfo>,
    },
    AssignedPodDeleted(Arc<PodInfo>),
    /// The pod itself changed while it waited.
    PodUpdated {
        old: Arc<PodInfo>,
        new: Arc<PodInfo>,
    },
    NamespaceChanged,
    ClaimChanged(Arc<PersistentVolumeClaim>),
    VolumeChanged,
    StorageClassChanged,
}

/// A plugin's opinion of an event for a pod that it refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueingHint {
    /// The event does not help.
    Skip,
    /// The pod should be tried again.
    Queue,
}

impl QueueingHint {
    pub(crate) fn queue_if(helps: bool) -> Self {
        if helps { Self::Queue } else { Self::Skip }
    }
}
