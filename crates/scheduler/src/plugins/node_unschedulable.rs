//! NodeUnschedulable: cordoned nodes take only pods that tolerate it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;

use super::taint_toleration::tolerates;
use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{
    ClusterEvent, CycleState, FilterPlugin, Framework, Outcome, Plugin, QueueingHint, Status,
};

struct NodeUnschedulable;

pub(super) fn register(framework: &mut Framework) {
    framework.filter(&Arc::new(NodeUnschedulable));
}

fn tolerates_cordon(pod: &PodInfo) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    pod.tolerations()
        .iter()
        .any(|toleration| tolerates(toleration, &taint))
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn queueing_hint(&self, pod: &PodInfo, event: &ClusterEvent) -> QueueingHint {
        let open = |node: &k8s_openapi::api::core::v1::Node| {
            !node
                .spec
                .as_ref()
                .and_then(|spec| spec.unschedulable)
                .unwrap_or_default()
        };
        QueueingHint::queue_if(match event {
            ClusterEvent::NodeAdded(node) => open(node),
            ClusterEvent::NodeUpdated { old, new, .. } => !open(old) && open(new),
            ClusterEvent::PodUpdated { .. } => tolerates_cordon(pod),
            _ => false,
        })
    }
}

impl FilterPlugin for NodeUnschedulable {
    fn filter(&self, _state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Outcome {
        if !node.is_unschedulable() || tolerates_cordon(pod) {
            return Ok(());
        }
        Err(Status::unresolvable("node(s) were unschedulable"))
    }
}
