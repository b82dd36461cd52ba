//! The status of a DaemonSet.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};

use super::manage::{PodsByNode, Rules, is_updated};
use super::node::Fit;
use crate::shared::pod::{is_available, is_ready};

/// Counts nodes. `fits` are all nodes with what they mean to the set.
pub(super) fn compute(
    set: &DaemonSet,
    fits: &[(String, Fit)],
    pods: &PodsByNode,
    rules: &Rules<'_>,
    collision_count: Option<i32>,
    observed_generation: Option<i64>,
) -> DaemonSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let (mut desired, mut current, mut misscheduled) = (0, 0, 0);
    let (mut ready, mut available, mut updated) = (0, 0, 0);
    for (node, fit) in fits {
        let first = pods.get(node).and_then(|pods| pods.first());
        if !fit.should_run {
            misscheduled += i32::from(first.is_some());
            continue;
        }
        desired += 1;
        let Some(pod) = first else { continue };
        current += 1;
        ready += i32::from(is_ready(pod));
        available += i32::from(is_available(pod, rules.min_ready_seconds, rules.now));
        updated += i32::from(is_updated(pod, rules.hash));
    }
    let positive = |number: i32| (number > 0).then_some(number);
    DaemonSetStatus {
        desired_number_scheduled: desired,
        current_number_scheduled: current,
        number_misscheduled: misscheduled,
        number_ready: ready,
        number_available: positive(available),
        number_unavailable: positive(desired - available),
        updated_number_scheduled: positive(updated),
        observed_generation: observed_generation.or(old.observed_generation),
        collision_count,
        conditions: old.conditions,
    }
}
