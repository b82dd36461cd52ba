//! The status of a set, computed from its pods.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::shared::pod::{is_active, is_available, is_ready, is_terminating};

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// What went wrong when pods were to be created (`FailedCreate`) or deleted (`FailedDelete`).
pub(super) struct Failure {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What the status is computed from.
pub(super) struct Observation<'a> {
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) template: Option<&'a PodTemplateSpec>,
    pub(super) min_ready_seconds: i32,
    pub(super) generation: Option<i64>,
    pub(super) failure: Option<Failure>,
    pub(super) now: Timestamp,
}

/// The new status. Zero counts are absent but for `replicas`, as in upstream's JSON.
pub(super) fn compute(old: &ReplicaSetStatus, seen: &Observation<'_>) -> ReplicaSetStatus {
    let template = seen.template.and_then(|template| template.metadata.as_ref());
    let template_labels = template.and_then(|meta| meta.labels.as_ref());
    let fully_labeled = |pod: &Pod| {
        template_labels.into_iter().flatten().all(|(key, value)| {
            pod.metadata.labels.as_ref().and_then(|labels| labels.get(key)) == Some(value)
        })
    };
    let count = |keep: &dyn Fn(&Pod) -> bool| {
        i32::try_from(seen.pods.iter().filter(|pod| keep(pod)).count()).unwrap_or(i32::MAX)
    };
    let active = |keep: &dyn Fn(&Pod) -> bool| count(&|pod| is_active(pod) && keep(pod));
    let positive = |number: i32| (number > 0).then_some(number);
    ReplicaSetStatus {
        replicas: active(&|_| true),
        fully_labeled_replicas: positive(active(&fully_labeled)),
        ready_replicas: positive(active(&is_ready)),
        available_replicas: positive(active(&|pod| is_available(pod, seen.min_ready_seconds, seen.now))),
        terminating_replicas: Some(count(&is_terminating)),
        observed_generation: seen.generation,
        conditions: conditions(old.conditions.clone().unwrap_or_default(), seen),
    }
}

fn conditions(
    mut conditions: Vec<ReplicaSetCondition>,
    seen: &Observation<'_>,
) -> Option<Vec<ReplicaSetCondition>> {
    let present = conditions
        .iter()
        .any(|condition| condition.type_ == REPLICA_FAILURE);
    match &seen.failure {
        // The first failure stays until there is none.
        Some(failure) if !present => conditions.push(ReplicaSetCondition {
            type_: REPLICA_FAILURE.into(),
            status: "True".into(),
            reason: Some(failure.reason.into()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(Time(seen.now)),
        }),
        Some(_) => {}
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
    }
    (!conditions.is_empty()).then_some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counts_and_failure() {
        let pod = |phase: &str, ready: &str, labels: serde_json::Value, deleting: bool| {
            let mut value = json!({
                "metadata": {"name": "p", "labels": labels},
                "status": {"phase": phase, "conditions": [
                    {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
            });
            if deleting {
                value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            Arc::new(serde_json::from_value::<Pod>(value).unwrap())
        };
        let template: PodTemplateSpec =
            serde_json::from_value(json!({"metadata": {"labels": {"app": "a", "v": "1"}}})).unwrap();
        let full = json!({"app": "a", "v": "1"});
        let pods = [
            pod("Running", "True", full.clone(), false),
            pod("Running", "False", json!({"app": "a"}), false),
            pod("Failed", "True", full.clone(), false),
            pod("Running", "True", full, true),
        ];
        let mut seen = Observation {
            pods: &pods,
            template: Some(&template),
            min_ready_seconds: 0,
            generation: Some(3),
            failure: Some(Failure {
                reason: "FailedCreate",
                message: "quota".into(),
            }),
            now: "2026-01-01T00:01:00Z".parse().unwrap(),
        };
        let status = compute(&ReplicaSetStatus::default(), &seen);
        assert_eq!(status.replicas, 2);
        assert_eq!(status.fully_labeled_replicas, Some(1));
        assert_eq!(status.ready_replicas, Some(1));
        assert_eq!(status.available_replicas, Some(1));
        assert_eq!(status.terminating_replicas, Some(1));
        assert_eq!(
            status.conditions.as_ref().unwrap()[0].reason.as_deref(),
            Some("FailedCreate")
        );
        seen.failure = None;
        assert_eq!(compute(&status, &seen).conditions, None);
    }
}
