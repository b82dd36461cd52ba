//! What a node's conditions come to: which become Unknown, which taints follow, how fast a zone may be evicted; pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Taint of nodes whose kubelet says that they are not ready.
pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of nodes whose kubelet says nothing.
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

const WATCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The condition of that type.
pub(super) fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == kind)
}

/// The status of the condition Ready; `None` before the first report.
pub(super) fn ready(node: &Node) -> Option<&str> {
    condition(node, "Ready").map(|condition| condition.status.as_str())
}

/// The conditions that must change because the kubelet has been silent for too long.
pub(super) fn unknown_conditions(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let changed = WATCHED.iter().filter_map(|kind| match condition(node, kind) {
        Some(found) if found.status == "Unknown" => None,
        Some(found) => Some(NodeCondition {
            status: "Unknown".into(),
            reason: Some("NodeStatusUnknown".into()),
            message: Some("Kubelet stopped posting node status.".into()),
            last_transition_time: Some(Time(now)),
            ..found.clone()
        }),
        None => Some(NodeCondition {
            type_: (*kind).into(),
            status: "Unknown".into(),
            reason: Some("NodeStatusNeverUpdated".into()),
            message: Some("Kubelet never posted node status.".into()),
            last_heartbeat_time: node.metadata.creation_timestamp.clone(),
            last_transition_time: Some(Time(now)),
        }),
    });
    changed.collect()
}

/// The taints of which this controller disposes, by key and effect.
const OWNED: [(&str, &str); 9] = [
    (NOT_READY, "NoSchedule"),
    (UNREACHABLE, "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/network-unavailable", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
    (NOT_READY, "NoExecute"),
    (UNREACHABLE, "NoExecute"),
];

fn is_owned(taint: &Taint) -> bool {
    OWNED
        .iter()
        .any(|(key, effect)| *key == taint.key && *effect == taint.effect)
}

/// Keys and effects that the node should have.
fn wanted(node: &Node) -> Vec<(&'static str, &'static str)> {
    let mut wanted = Vec::new();
    let state = match ready(node) {
        Some("False") => Some(NOT_READY),
        Some("Unknown") => Some(UNREACHABLE),
        _ => None,
    };
    wanted.extend(state.map(|key| (key, "NoSchedule")));
    let pressures = [
        ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
        ("DiskPressure", "node.kubernetes.io/disk-pressure"),
        ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
        ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ];
    for (kind, key) in pressures {
        if condition(node, kind).is_some_and(|condition| condition.status == "True") {
            wanted.push((key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push(("node.kubernetes.io/unschedulable", "NoSchedule"));
    }
    wanted.extend(state.map(|key| (key, "NoExecute")));
    wanted
}

/// The taints the node should have, `None` if it has them. A taint that evicts is added only when `may_evict`, which is
/// asked at most once; one that turns from not-ready to unreachable or back evicts already and needs no permission.
pub(super) fn taints(node: &Node, now: Timestamp, may_evict: impl FnOnce() -> bool) -> Option<Vec<Taint>> {
    let have = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    // Until the kubelet reports, the taint that the node was created with stays.
    let has_reported = ready(node).is_some();
    let mut wanted = wanted(node);
    let evicts = |taint: &Taint| is_owned(taint) && taint.effect == "NoExecute";
    let is_new = !have.iter().any(evicts);
    if is_new && wanted.iter().any(|(_, effect)| *effect == "NoExecute") && !may_evict() {
        wanted.retain(|(_, effect)| *effect != "NoExecute");
    }
    let stays = |taint: &&Taint| {
        let initial = !has_reported && taint.key == NOT_READY;
        !is_owned(taint)
            || initial
            || wanted
                .iter()
                .any(|(key, effect)| *key == taint.key && *effect == taint.effect)
    };
    let mut taints: Vec<Taint> = have.iter().filter(stays).cloned().collect();
    for (key, effect) in wanted {
        if !taints
            .iter()
            .any(|taint| taint.key == key && taint.effect == effect)
        {
            taints.push(Taint {
                key: key.into(),
                effect: effect.into(),
                value: None,
                time_added: Some(Time(now)),
            });
        }
    }
    (taints != have).then_some(taints)
}

/// How upstream calls the state of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ZoneState {
    /// Most nodes are ready.
    Normal,
    /// Many are not.
    PartialDisruption,
    /// None is.
    FullDisruption,
}

/// The state of a zone by its numbers.
pub(super) fn zone_state(ready: usize, not_ready: usize, unhealthy_threshold: f32) -> ZoneState {
    #[expect(clippy::cast_precision_loss, reason = "numbers of nodes are small")]
    let share = not_ready as f32 / (ready + not_ready).max(1) as f32;
    if ready == 0 && not_ready > 0 {
        ZoneState::FullDisruption
    } else if not_ready > 2 && share >= unhealthy_threshold {
        ZoneState::PartialDisruption
    } else {
        ZoneState::Normal
    }
}

/// The limits of eviction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub(super) normal: f32,
    pub(super) secondary: f32,
    pub(super) large_cluster: usize,
}

/// How long after one node of a zone the next may be evicted; `None`: not at all.
pub(super) fn interval(
    state: ZoneState,
    zone_size: usize,
    all_disrupted: bool,
    rates: Rates,
) -> Option<Duration> {
    let rate = match state {
        // When nobody is reachable, the one who is cut off is the control plane.
        _ if all_disrupted => 0.0,
        ZoneState::Normal | ZoneState::FullDisruption => rates.normal,
        ZoneState::PartialDisruption if zone_size > rates.large_cluster => rates.secondary,
        ZoneState::PartialDisruption => 0.0,
    };
    (rate > 0.0).then(|| Duration::from_secs_f32(1.0 / rate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(conditions: Value, taints: Value, unschedulable: bool) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"taints": taints, "unschedulable": unschedulable},
            "status": {"conditions": conditions}
        }))
        .unwrap()
    }

    #[test]
    fn taints_follow_conditions() {
        let now: Timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
        let check = |node: &Node, may_evict: bool, expected: Option<&[&str]>| {
            let found = taints(node, now, || may_evict).map(|taints| {
                let text = |taint: &Taint| {
                    format!(
                        "{}:{}",
                        taint.key.replace("node.kubernetes.io/", ""),
                        taint.effect
                    )
                };
                taints.iter().map(text).collect::<Vec<_>>()
            });
            assert_eq!(
                found,
                expected.map(|texts| texts.iter().map(|text| (*text).to_owned()).collect())
            );
        };
        let is = |kind: &str, status: &str| json!({"type": kind, "status": status});
        let taint = |key: &str, effect: &str| json!({"key": key, "effect": effect});
        check(&node(json!([is("Ready", "True")]), json!([]), false), true, None);
        check(
            &node(
                json!([is("Ready", "Unknown")]),
                json!([taint("mine", "NoExecute")]),
                false,
            ),
            true,
            Some(&[
                "mine:NoExecute",
                "unreachable:NoSchedule",
                "unreachable:NoExecute",
            ]),
        );
        check(
            &node(json!([is("Ready", "False")]), json!([]), false),
            false,
            Some(&["not-ready:NoSchedule"]),
        );
        let evicting = json!([taint(NOT_READY, "NoSchedule"), taint(NOT_READY, "NoExecute")]);
        let unreachable: &[&str] = &["unreachable:NoSchedule", "unreachable:NoExecute"];
        check(
            &node(json!([is("Ready", "Unknown")]), evicting.clone(), false),
            false,
            Some(unreachable),
        );
        check(
            &node(json!([is("Ready", "True")]), evicting, false),
            false,
            Some(&[]),
        );
        // Before the first report the taint of creation stays.
        check(
            &node(json!([]), json!([taint(NOT_READY, "NoSchedule")]), false),
            true,
            None,
        );
        check(
            &node(
                json!([is("Ready", "True"), is("MemoryPressure", "True")]),
                json!([taint(NOT_READY, "NoSchedule")]),
                true,
            ),
            true,
            Some(&["memory-pressure:NoSchedule", "unschedulable:NoSchedule"]),
        );
    }

    #[test]
    fn silence_is_unknown() {
        let silent = node(
            json!([{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "Unknown"}]),
            json!([]),
            false,
        );
        let changed = unknown_conditions(&silent, Timestamp::UNIX_EPOCH);
        let texts: Vec<_> = changed
            .iter()
            .map(|condition| {
                format!(
                    "{} {} {}",
                    condition.type_,
                    condition.status,
                    condition.reason.as_deref().unwrap()
                )
            })
            .collect();
        let expected = [
            "Ready Unknown NodeStatusUnknown",
            "MemoryPressure Unknown NodeStatusNeverUpdated",
            "PIDPressure Unknown NodeStatusNeverUpdated",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn zones() {
        let rates = Rates {
            normal: 0.1,
            secondary: 0.01,
            large_cluster: 50,
        };
        let check = |ready, not_ready, all_disrupted, state, seconds: Option<u64>| {
            let found = zone_state(ready, not_ready, 0.55);
            assert_eq!(found, state, "{ready} {not_ready}");
            let found = interval(found, ready + not_ready, all_disrupted, rates);
            assert_eq!(
                found.map(|time| time.as_secs_f32().round() as u64),
                seconds,
                "{ready} {not_ready}"
            );
        };
        check(9, 1, false, ZoneState::Normal, Some(10));
        check(1, 2, false, ZoneState::Normal, Some(10));
        check(2, 3, false, ZoneState::PartialDisruption, None);
        check(40, 60, false, ZoneState::PartialDisruption, Some(100));
        check(0, 3, false, ZoneState::FullDisruption, Some(10));
        check(0, 3, true, ZoneState::FullDisruption, None);
    }
}
