//! SchedulingGates: a pod with gates does not enter the queue.

use std::sync::Arc;

use crate::cache::PodInfo;
use crate::framework::{ClusterEvent, Framework, Outcome, Plugin, PreEnqueuePlugin, QueueingHint, Status};

struct SchedulingGates;

pub(super) fn register(framework: &mut Framework) {
    framework.pre_enqueue(&Arc::new(SchedulingGates));
}

fn gates(pod: &PodInfo) -> Vec<&str> {
    let gates = pod
        .spec()
        .and_then(|spec| spec.scheduling_gates.as_deref())
        .unwrap_or_default();
    gates.iter().map(|gate| gate.name.as_str()).collect()
}

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn queueing_hint(&self, _pod: &PodInfo, event: &ClusterEvent) -> QueueingHint {
        let opened = matches!(event, ClusterEvent::PodUpdated { new, .. } if gates(new).is_empty());
        QueueingHint::queue_if(opened)
    }
}

impl PreEnqueuePlugin for SchedulingGates {
    fn pre_enqueue(&self, pod: &PodInfo) -> Outcome {
        let gates = gates(pod);
        if gates.is_empty() {
            return Ok(());
        }
        Err(Status::unresolvable(format!(
            "waiting for scheduling gates: [{}]",
            gates.join(" ")
        )))
    }
}
