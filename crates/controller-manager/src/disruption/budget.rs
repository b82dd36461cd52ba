//! The arithmetic of a budget; pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudgetSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::shared::owner::{is_deleting, name};
use crate::shared::pod::is_ready;

/// How long an eviction that the API server granted may take to show as a deletion.
const EVICTION_SHOWS: SignedDuration = SignedDuration::from_mins(2);

/// A part of `total`, rounded up; `None` where the text is no percentage.
pub(super) fn scaled(value: &IntOrString, total: i32) -> Option<i32> {
    match value {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
            i32::try_from((percent * i64::from(total) + 99).div_euclid(100)).ok()
        }
    }
}

/// Whether the budget needs to know how many pods their controllers want.
pub(super) fn needs_scale(spec: &PodDisruptionBudgetSpec) -> bool {
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// The number of pods that must be healthy, of `expected`; `None` where the specification is not valid.
pub(super) fn desired_healthy(spec: &PodDisruptionBudgetSpec, expected: i32) -> Option<i32> {
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(value), _) => Some((expected - scaled(value, expected)?).max(0)),
        (None, Some(value)) => scaled(value, expected),
        (None, None) => Some(0),
    }
}

/// The evictions that have been granted and do not show yet, and when the first of them is given up.
pub(super) fn pending_evictions(
    granted: &BTreeMap<String, Time>,
    pods: &[&Pod],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let mut pending = BTreeMap::new();
    let mut recheck: Option<Duration> = None;
    for (pod, at) in granted {
        let waits = pods
            .iter()
            .any(|found| name(*found) == pod && !is_deleting(*found));
        let Ok(left) = Duration::try_from(
            at.0.saturating_add(EVICTION_SHOWS)
                .unwrap_or(at.0)
                .duration_since(now),
        ) else {
            continue;
        };
        if waits && !left.is_zero() {
            pending.insert(pod.clone(), at.clone());
            recheck = Some(recheck.map_or(left, |earlier| earlier.min(left)));
        }
    }
    (pending, recheck)
}

/// How many pods are ready and neither being deleted nor about to be.
pub(super) fn current_healthy(pods: &[&Pod], pending: &BTreeMap<String, Time>) -> i32 {
    let healthy = |pod: &&&Pod| !is_deleting(**pod) && !pending.contains_key(name(**pod)) && is_ready(pod);
    i32::try_from(pods.iter().filter(healthy).count()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn desired_numbers() {
        let check = |spec: Value, expected: i32, healthy: Option<i32>| {
            let spec: PodDisruptionBudgetSpec = serde_json::from_value(spec).unwrap();
            assert_eq!(desired_healthy(&spec, expected), healthy, "{spec:?}");
        };
        check(json!({"minAvailable": 2}), 5, Some(2));
        check(json!({"minAvailable": "50%"}), 5, Some(3));
        check(json!({"maxUnavailable": 1}), 5, Some(4));
        check(json!({"maxUnavailable": "30%"}), 7, Some(4));
        check(json!({"maxUnavailable": 9}), 5, Some(0));
        check(json!({"minAvailable": "half"}), 5, None);
        check(json!({}), 5, Some(0));
    }

    #[test]
    fn granted_evictions_count_until_they_show_or_fail() {
        let pod = |name: &str, deleting: bool| -> Pod {
            let mut pod = json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
            if deleting {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            serde_json::from_value(pod).unwrap()
        };
        let pods = [
            pod("fresh", false),
            pod("old", false),
            pod("going", true),
            pod("free", false),
        ];
        let pods: Vec<&Pod> = pods.iter().collect();
        let at = |text: &str| Time(text.parse().unwrap());
        let granted = BTreeMap::from([
            ("fresh".to_owned(), at("2026-01-01T00:09:00Z")),
            ("old".to_owned(), at("2026-01-01T00:01:00Z")),
            ("going".to_owned(), at("2026-01-01T00:09:00Z")),
            ("gone".to_owned(), at("2026-01-01T00:09:00Z")),
        ]);
        let (pending, recheck) = pending_evictions(&granted, &pods, "2026-01-01T00:10:00Z".parse().unwrap());
        assert_eq!(pending.keys().collect::<Vec<_>>(), ["fresh"]);
        assert_eq!(recheck, Some(Duration::from_secs(60)));
        assert_eq!(current_healthy(&pods, &pending), 2);
    }
}
