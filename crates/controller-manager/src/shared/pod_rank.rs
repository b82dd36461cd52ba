//! Which pods go first when there are too many (upstream's ActivePodsWithRanks).

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::owner::uid;
use super::pod::{annotation, is_active, is_ready, node_name, phase, ready_since};

/// Pods with a lower cost go first; 0 where the annotation is missing or invalid.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The first `count` of `pods` to delete. `related` are the pods of the same application: a node with more of them
/// gives pods up first.
pub fn pods_to_delete(
    mut pods: Vec<Arc<Pod>>,
    related: &[Arc<Pod>],
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    if count < pods.len() {
        let mut per_node: HashMap<&str, usize> = HashMap::new();
        for pod in related.iter().filter(|pod| is_active(pod)) {
            *per_node.entry(node_name(pod)).or_default() += 1;
        }
        let rank = |pod: &Pod| per_node.get(node_name(pod)).copied().unwrap_or_default();
        pods.sort_by(|a, b| compare(a, b, rank(a), rank(b), now));
    }
    pods.truncate(count);
    pods
}

/// Less means: goes first.
fn compare(a: &Pod, b: &Pod, rank_a: usize, rank_b: usize, now: Timestamp) -> Ordering {
    let assigned = |pod: &Pod| !node_name(pod).is_empty();
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase_order(a).cmp(&phase_order(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| rank_b.cmp(&rank_a))
        .then_with(|| {
            if is_ready(a) {
                younger_first(ready_since(a), ready_since(b), now)
            } else {
                Ordering::Equal
            }
        })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| younger_first(created(a), created(b), now))
        .then_with(|| uid(a).cmp(uid(b)))
}

fn phase_order(pod: &Pod) -> u8 {
    match phase(pod) {
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    let cost = annotation(pod, DELETION_COST).unwrap_or_default();
    // Upstream's syntax: an optional minus, no plus, no leading zeros.
    let digits = cost.strip_prefix('-').unwrap_or(cost);
    if digits.starts_with('+') || (digits.len() > 1 && digits.starts_with('0')) {
        return 0;
    }
    cost.parse().unwrap_or(0)
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// A pod without a time first, then by the order of magnitude of the age, so that pods of about the same age go at random.
fn younger_first(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let magnitude = |time: Timestamp| {
        let age = now.as_nanosecond() - time.as_nanosecond();
        u128::try_from(age)
            .ok()
            .and_then(u128::checked_ilog2)
            .map_or(-1, i64::from)
    };
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(a), Some(b)) => magnitude(a).cmp(&magnitude(b)),
    }
}

/// The highest restart count of its containers.
fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    statuses
        .into_iter()
        .flatten()
        .map(|status| status.restart_count)
        .max()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, node: &str, phase: &str, ready_since: Option<&str>, more: Value) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase}
        });
        if let Some(since) = ready_since {
            value["status"]["conditions"] =
                json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
        }
        for (key, patch) in more.as_object().unwrap() {
            for (field, patch) in patch.as_object().unwrap() {
                value[key][field] = patch.clone();
            }
        }
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn ranking() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let old = Some("2026-01-01T00:00:00Z");
        let cost = |cost: &str| json!({"metadata": {"annotations": {DELETION_COST: cost}}});
        let restarts = |count: i32| {
            let status =
                json!({"name": "c", "restartCount": count, "image": "", "imageID": "", "ready": true});
            json!({"status": {"containerStatuses": [status]}})
        };
        let pods = vec![
            pod("k-old", "n2", "Running", old, json!({})),
            pod("j-restarted", "n2", "Running", old, restarts(3)),
            pod(
                "i-young",
                "n2",
                "Running",
                Some("2026-01-01T23:59:00Z"),
                json!({}),
            ),
            pod("h-crowded", "n1", "Running", old, json!({})),
            pod("g-cheap", "n2", "Running", old, cost("-5")),
            pod("l-dear", "n2", "Running", old, cost("10")),
            pod("d-unready", "n2", "Running", None, json!({})),
            pod("b-pending", "n2", "Pending", None, json!({})),
            pod("a-unassigned", "", "Pending", None, json!({})),
        ];
        let crowd: Vec<_> = (0..9)
            .map(|i| pod(&format!("x{i}"), "n1", "Running", old, json!({})))
            .collect();
        let deleted = pods_to_delete(pods, &crowd, 8, now);
        let names: Vec<_> = deleted
            .iter()
            .map(|pod| uid(pod.as_ref()).split('-').nth(1).unwrap())
            .collect();
        let expected = [
            "unassigned",
            "pending",
            "unready",
            "cheap",
            "crowded",
            "young",
            "restarted",
            "old",
        ];
        assert_eq!(names, expected);
    }
}
