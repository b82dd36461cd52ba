//! NodeName: a pod that names its node goes nowhere else.

use std::sync::Arc;

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{
    ClusterEvent, CycleState, FilterPlugin, Framework, Outcome, Plugin, QueueingHint, Status,
};

struct NodeName;

pub(super) fn register(framework: &mut Framework) {
    framework.filter(&Arc::new(NodeName));
}

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn queueing_hint(&self, pod: &PodInfo, event: &ClusterEvent) -> QueueingHint {
        let named = matches!(event, ClusterEvent::NodeAdded(node)
            if node.metadata.name.as_deref() == Some(&*pod.node_name));
        QueueingHint::queue_if(named)
    }
}

impl FilterPlugin for NodeName {
    fn filter(&self, _state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Outcome {
        if pod.node_name.is_empty() || *pod.node_name == *node.name() {
            return Ok(());
        }
        Err(Status::unresolvable(
            "node(s) didn't match the requested node name",
        ))
    }
}
