//! NodePorts: a host port is had by one pod per node.

use std::sync::Arc;

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{
    ClusterEvent, CycleState, FilterPlugin, Framework, Outcome, Plugin, PreFilter, PreFilterPlugin,
    QueueingHint, Status,
};

struct NodePorts;

pub(super) fn register(framework: &mut Framework) {
    let plugin = Arc::new(NodePorts);
    framework.pre_filter(&plugin).filter(&plugin);
}

fn conflict(a: &PodInfo, b: &PodInfo) -> bool {
    a.host_ports
        .iter()
        .any(|port| b.host_ports.iter().any(|other| port.conflicts(other)))
}

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn queueing_hint(&self, pod: &PodInfo, event: &ClusterEvent) -> QueueingHint {
        QueueingHint::queue_if(match event {
            ClusterEvent::NodeAdded(_) => true,
            ClusterEvent::AssignedPodDeleted(gone) => conflict(pod, gone),
            _ => false,
        })
    }
}

impl PreFilterPlugin for NodePorts {
    fn pre_filter(
        &self,
        _state: &mut CycleState,
        pod: &PodInfo,
        _snapshot: &Snapshot,
    ) -> Result<PreFilter, Status> {
        if pod.host_ports.is_empty() {
            Err(Status::skip())
        } else {
            Ok(PreFilter::All)
        }
    }
}

impl FilterPlugin for NodePorts {
    fn filter(&self, _state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Outcome {
        if node.pods.iter().any(|other| conflict(pod, other)) {
            return Err(Status::unschedulable(
                "node(s) didn't have free ports for the requested pod ports",
            ));
        }
        Ok(())
    }
}
