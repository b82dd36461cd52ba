//! NodeResourcesFit: a node must have what the pod requests; nodes with more left are better (LeastAllocated).

use std::sync::Arc;

use crate::cache::{NodeInfo, PodInfo, Resource, Snapshot};
use crate::framework::{
    ClusterEvent, Code, CycleState, FilterPlugin, Framework, MAX_NODE_SCORE, Outcome, Plugin, QueueingHint,
    ScorePlugin, Status,
};

struct Fit;

pub(super) fn register(framework: &mut Framework, weight: i64) {
    let plugin = Arc::new(Fit);
    framework.filter(&plugin).score(&plugin, weight);
}

/// Names and amounts (requested, used, allocatable) of the resources that the pod requests.
fn demands<'a>(
    pod: &'a Resource,
    used: &'a Resource,
    allocatable: &'a Resource,
) -> impl Iterator<Item = (&'a str, i64, i64, i64)> {
    let names = ["cpu", "memory", "ephemeral-storage"]
        .into_iter()
        .chain(pod.scalar.keys().map(String::as_str));
    names
        .map(|name| (name, pod.get(name), used.get(name), allocatable.get(name)))
        .filter(|(_, wanted, ..)| *wanted > 0)
}

fn fits_alone(pod: &PodInfo, allocatable: &Resource) -> bool {
    allocatable.pods > 0
        && demands(&pod.requests, &Resource::default(), allocatable).all(|(_, wanted, _, all)| wanted <= all)
}

impl Plugin for Fit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn queueing_hint(&self, pod: &PodInfo, event: &ClusterEvent) -> QueueingHint {
        let allocatable = |node: &k8s_openapi::api::core::v1::Node| {
            let list = node
                .status
                .as_ref()
                .and_then(|status| status.allocatable.as_ref());
            list.map(Resource::of).unwrap_or_default()
        };
        QueueingHint::queue_if(match event {
            ClusterEvent::NodeAdded(node) => fits_alone(pod, &allocatable(node)),
            ClusterEvent::NodeUpdated { new, change, .. } => {
                change.allocatable && fits_alone(pod, &allocatable(new))
            }
            ClusterEvent::AssignedPodDeleted(_) => true,
            ClusterEvent::AssignedPodUpdated { old, new } => {
                demands(&old.requests, &new.requests, &new.requests).any(|(_, before, now, _)| before > now)
            }
            ClusterEvent::PodUpdated { old, new } => old.requests != new.requests,
            _ => false,
        })
    }
}

impl FilterPlugin for Fit {
    fn filter(&self, _state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Outcome {
        let mut refusal: Option<Status> = None;
        let mut refuse = |reason: std::borrow::Cow<'static, str>, hopeless: bool| {
            let status = refusal.get_or_insert_with(|| Status {
                code: Code::Unschedulable,
                reasons: Vec::new(),
                plugin: "",
            });
            status.reasons.push(reason);
            if hopeless {
                status.code = Code::UnschedulableAndUnresolvable;
            }
        };
        if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= node.allocatable.pods {
            refuse("Too many pods".into(), false);
        }
        for (name, wanted, used, all) in demands(&pod.requests, &node.requested, &node.allocatable) {
            if wanted > all - used {
                let reason = match name {
                    "cpu" => "Insufficient cpu".into(),
                    "memory" => "Insufficient memory".into(),
                    other => format!("Insufficient {other}").into(),
                };
                refuse(reason, wanted > all);
            }
        }
        refusal.map_or(Ok(()), Err)
    }
}

fn least_requested(requested: i64, capacity: i64) -> i64 {
    if requested > capacity {
        0
    } else {
        (capacity - requested) * MAX_NODE_SCORE / capacity
    }
}

impl ScorePlugin for Fit {
    fn score(&self, _state: &CycleState, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        let all = &node.allocatable;
        let cpu = (node.non_zero_requested.0 + pod.non_zero.0, all.milli_cpu);
        let memory = (node.non_zero_requested.1 + pod.non_zero.1, all.memory);
        let counted: Vec<i64> = [cpu, memory]
            .into_iter()
            .filter(|(_, capacity)| *capacity > 0)
            .map(|(requested, capacity)| least_requested(requested, capacity))
            .collect();
        let count = i64::try_from(counted.len()).unwrap_or(1).max(1);
        counted.iter().sum::<i64>() / count
    }
}
