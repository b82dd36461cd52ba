//! Counts and conditions of a Deployment.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::spec::{Wanted, actual, available, replicas};
use crate::shared::owner::name;

pub(super) const AVAILABLE: &str = "Available";
pub(super) const PROGRESSING: &str = "Progressing";
pub(super) const REPLICA_FAILURE: &str = "ReplicaFailure";
pub(super) const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
pub(super) const TIMED_OUT: &str = "ProgressDeadlineExceeded";
pub(super) const PAUSED: &str = "DeploymentPaused";

/// The condition of that type.
pub(super) fn condition<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == type_)
}

/// A condition of now.
pub(super) fn new_condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: impl Into<String>,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// Sets a condition; one of the same status and reason stays as it is, and the time of transition changes only with the
/// status.
pub(super) fn set_condition(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions.iter().position(|old| old.type_ == condition.type_);
    if let Some(old) = old.map(|index| &conditions[index]) {
        if old.status == condition.status && old.reason == condition.reason {
            return;
        }
        if old.status == condition.status {
            condition
                .last_transition_time
                .clone_from(&old.last_transition_time);
        }
    }
    conditions.retain(|old| old.type_ != condition.type_);
    conditions.push(condition);
}

/// Takes a condition away.
pub(super) fn remove_condition(status: &mut DeploymentStatus, type_: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != type_);
    }
}

/// Counts over all sets, and the Available condition.
pub(super) fn calculate(
    deployment: &Deployment,
    wanted: &Wanted,
    all: &[ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let positive = |number: i32| (number > 0).then_some(number);
    let sum = |count: &dyn Fn(&ReplicaSet) -> i32| all.iter().map(count).sum::<i32>();
    let available = sum(&available);
    let ready = |set: &ReplicaSet| {
        set.status
            .as_ref()
            .and_then(|status| status.ready_replicas)
            .unwrap_or(0)
    };
    let terminating = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.terminating_replicas);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: positive(sum(&actual)),
        updated_replicas: positive(new.map_or(0, actual)),
        ready_replicas: positive(sum(&ready)),
        available_replicas: positive(available),
        unavailable_replicas: positive((sum(&replicas) - available).max(0)),
        terminating_replicas: all.iter().filter_map(terminating).reduce(|a, b| a + b),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let condition = if available >= wanted.min_available() {
        let message = "Deployment has minimum availability.";
        new_condition(AVAILABLE, "True", "MinimumReplicasAvailable", message, now)
    } else {
        let message = "Deployment does not have minimum availability.";
        new_condition(AVAILABLE, "False", "MinimumReplicasUnavailable", message, now)
    };
    set_condition(&mut status, condition);
    status
}

/// Whether every pod is of the newest revision and available.
pub(super) fn complete(deployment: &Deployment, wanted: &Wanted, status: &DeploymentStatus) -> bool {
    let all = |count: Option<i32>| count.unwrap_or(0) == wanted.replicas;
    all(status.updated_replicas)
        && all(status.replicas)
        && all(status.available_replicas)
        && status.observed_generation >= deployment.metadata.generation
}

fn progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let count = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(new.updated_replicas) > count(old.updated_replicas)
        || outdated(new) < outdated(old)
        || count(new.ready_replicas) > count(old.ready_replicas)
        || count(new.available_replicas) > count(old.available_replicas)
}

/// When the deadline passes: negative if it has.
fn deadline_in_ms(condition: &DeploymentCondition, seconds: i32, now: Timestamp) -> i64 {
    let since = condition.last_update_time.as_ref().map_or(now, |time| time.0);
    since.as_millisecond() + i64::from(seconds) * 1000 - now.as_millisecond()
}

fn timed_out(wanted: &Wanted, status: &DeploymentStatus, now: Timestamp) -> bool {
    let (Some(seconds), Some(condition)) = (wanted.progress_deadline_seconds, condition(status, PROGRESSING))
    else {
        return false;
    };
    match condition.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => deadline_in_ms(condition, seconds, now) < 0,
    }
}

/// How long until somebody must look whether the deadline has passed; `None` if it does not run.
pub(super) fn next_check(
    deployment: &Deployment,
    wanted: &Wanted,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let seconds = wanted.progress_deadline_seconds?;
    let current = condition(status, PROGRESSING)?;
    if complete(deployment, wanted, status) || current.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let left = u64::try_from(deadline_in_ms(current, seconds, now)).unwrap_or(0);
    Some(Duration::from_millis(left) + Duration::from_secs(1))
}

/// The status during a rollout: counts, and whether it gets on.
pub(super) fn rollout(
    deployment: &Deployment,
    wanted: &Wanted,
    all: &[ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let mut status = calculate(deployment, wanted, all, new, now);
    if wanted.progress_deadline_seconds.is_none() {
        remove_condition(&mut status, PROGRESSING);
    }
    let current = condition(&old, PROGRESSING).cloned();
    let was_complete = status.replicas == status.updated_replicas
        && current
            .as_ref()
            .is_some_and(|current| current.reason.as_deref() == Some(NEW_SET_AVAILABLE));
    if wanted.progress_deadline_seconds.is_some() && !was_complete {
        let subject = match new {
            Some(set) => format!("ReplicaSet \"{}\"", name(set)),
            None => format!("Deployment \"{}\"", name(deployment)),
        };
        if complete(deployment, wanted, &status) {
            let message = format!("{subject} has successfully progressed.");
            set_condition(
                &mut status,
                new_condition(PROGRESSING, "True", NEW_SET_AVAILABLE, message, now),
            );
        } else if progressing(&old, &status) {
            let message = format!("{subject} is progressing.");
            let mut condition = new_condition(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
            // Every step counts: the deadline runs from the last one.
            if let Some(current) = current.filter(|current| current.status == "True") {
                condition.last_transition_time = current.last_transition_time;
            }
            remove_condition(&mut status, PROGRESSING);
            set_condition(&mut status, condition);
        } else if timed_out(wanted, &status, now) {
            let message = format!("{subject} has timed out progressing.");
            set_condition(
                &mut status,
                new_condition(PROGRESSING, "False", TIMED_OUT, message, now),
            );
        }
    }
    match replica_failure(all, new) {
        Some(failure) => set_condition(&mut status, failure),
        None => remove_condition(&mut status, REPLICA_FAILURE),
    }
    status
}

/// The failure of the new set, or of any.
fn replica_failure(all: &[ReplicaSet], new: Option<&ReplicaSet>) -> Option<DeploymentCondition> {
    let failure = |set: &ReplicaSet| -> Option<ReplicaSetCondition> {
        let conditions = set.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions
            .into_iter()
            .flatten()
            .find(|condition| condition.type_ == REPLICA_FAILURE)
            .cloned()
    };
    let found = new.and_then(failure).or_else(|| all.iter().find_map(failure))?;
    Some(DeploymentCondition {
        type_: REPLICA_FAILURE.into(),
        status: found.status,
        reason: found.reason,
        message: found.message,
        last_update_time: found.last_transition_time.clone(),
        last_transition_time: found.last_transition_time,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(status: serde_json::Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "generation": 2},
            "spec": {"replicas": 4, "selector": {}, "template": {}, "progressDeadlineSeconds": 60},
            "status": status
        }))
        .unwrap()
    }

    fn set(name: &str, replicas: i32, available: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {}},
            "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available}
        }))
        .unwrap()
    }

    #[test]
    fn progress() {
        let check = |before: serde_json::Value, available: i32, at: &str, expected: (&str, &str, &str)| {
            let deployment = deployment(before);
            let new = set("web-1", 4, available);
            let all = [new.clone()];
            let wanted = Wanted::of(&deployment);
            let status = rollout(&deployment, &wanted, &all, Some(&new), at.parse().unwrap());
            let progressing = condition(&status, PROGRESSING);
            let found = progressing.map_or(("", "", ""), |found| {
                (
                    found.status.as_str(),
                    found.reason.as_deref().unwrap(),
                    found.message.as_deref().unwrap(),
                )
            });
            assert_eq!(found, expected);
        };
        let condition = |status: &str, reason: &str| {
            json!({"type": "Progressing", "status": status, "reason": reason, "message": "m",
                   "lastUpdateTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let stuck = json!({"replicas": 4, "updatedReplicas": 4, "readyReplicas": 1, "availableReplicas": 1,
                           "conditions": [condition("True", "NewReplicaSetCreated")]});
        let moves = (
            "True",
            "ReplicaSetUpdated",
            "ReplicaSet \"web-1\" is progressing.",
        );
        check(json!({}), 1, "2026-01-01T00:00:00Z", moves);
        check(stuck.clone(), 2, "2026-01-01T00:00:30Z", moves);
        check(
            stuck.clone(),
            1,
            "2026-01-01T00:00:30Z",
            ("True", "NewReplicaSetCreated", "m"),
        );
        let late = (
            "False",
            "ProgressDeadlineExceeded",
            "ReplicaSet \"web-1\" has timed out progressing.",
        );
        check(stuck.clone(), 1, "2026-01-01T00:01:30Z", late);
        let done = (
            "True",
            "NewReplicaSetAvailable",
            "ReplicaSet \"web-1\" has successfully progressed.",
        );
        check(stuck, 4, "2026-01-01T00:01:30Z", done);
        let was = json!({"replicas": 4, "updatedReplicas": 4, "conditions": [condition("True", "NewReplicaSetAvailable")]});
        check(
            was,
            1,
            "2026-01-01T01:00:00Z",
            ("True", "NewReplicaSetAvailable", "m"),
        );
    }

    #[test]
    fn availability() {
        let deployment = deployment(json!({}));
        let wanted = Wanted::of(&deployment);
        assert_eq!((wanted.max_surge, wanted.max_unavailable), (1, 1));
        let at = "2026-01-01T00:00:00Z".parse().unwrap();
        for (available, expected) in [(2, "MinimumReplicasUnavailable"), (3, "MinimumReplicasAvailable")] {
            let status = calculate(&deployment, &wanted, &[set("web-1", 4, available)], None, at);
            assert_eq!(
                condition(&status, AVAILABLE).unwrap().reason.as_deref(),
                Some(expected)
            );
            assert_eq!(status.unavailable_replicas, Some(4 - available));
        }
    }
}
