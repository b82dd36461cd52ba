//! The counts and conditions of a Job.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::assess::{Assessment, Snapshot, Verdict};

/// The condition of that type, if it is true.
pub(super) fn condition<'a>(status: &'a JobStatus, type_: &str) -> Option<&'a JobCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == type_ && condition.status == "True")
}

/// Whether the Job is over.
pub(super) fn is_finished(status: &JobStatus) -> bool {
    condition(status, "Complete")
        .or_else(|| condition(status, "Failed"))
        .is_some()
}

/// Sets a condition; whether its status changed.
pub(super) fn set_condition(
    status: &mut JobStatus,
    type_: &str,
    value: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> bool {
    let text = if value { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    let new = JobCondition {
        type_: type_.into(),
        status: text.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == type_) {
        Some(old) if old.status == text => false,
        Some(old) => {
            *old = new;
            true
        }
        // A condition that never held need not be denied.
        None if !value => false,
        None => {
            conditions.push(new);
            true
        }
    }
}

fn positive(number: i32) -> Option<i32> {
    (number > 0).then_some(number)
}

/// The status with what is to be counted noted, before any finalizer is removed.
pub(super) fn note(
    seen: &Snapshot<'_>,
    found: &Assessment,
    before: JobStatus,
    active: i32,
    terminating: i32,
) -> JobStatus {
    let mut status = before;
    status.active = positive(active);
    status.ready = Some(found.ready.min(active));
    status.terminating = Some(terminating);
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    if !found.count_succeeded.is_empty() {
        uncounted
            .succeeded
            .get_or_insert_default()
            .extend(found.count_succeeded.iter().cloned());
    }
    if !found.count_failed.is_empty() {
        uncounted
            .failed
            .get_or_insert_default()
            .extend(found.count_failed.iter().cloned());
    }
    if seen.indexed() {
        status.completed_indexes = Some(found.succeeded_indexes.to_string()).filter(|text| !text.is_empty());
        status.succeeded = positive(found.succeeded);
    }
    if seen.spec.backoff_limit_per_index.is_some() {
        status.failed_indexes = Some(found.failed_indexes.to_string());
    }
    if let Some(verdict) = &found.verdict {
        let type_ = if verdict.success {
            "SuccessCriteriaMet"
        } else {
            "FailureTarget"
        };
        set_condition(
            &mut status,
            type_,
            true,
            &verdict.reason,
            &verdict.message,
            seen.now,
        );
    }
    status
}

/// Turns noted UIDs whose pods have no finalizer any more into counts.
pub(super) fn settle(status: &mut JobStatus, tracked: &HashSet<String>) {
    let Some(uncounted) = status.uncounted_terminated_pods.as_mut() else {
        return;
    };
    let take = |uids: &mut Option<Vec<String>>| {
        let before = uids.as_ref().map_or(0, Vec::len);
        if let Some(uids) = uids.as_mut() {
            uids.retain(|uid| tracked.contains(uid));
        }
        let after = uids.as_ref().map_or(0, Vec::len);
        if after == 0 {
            *uids = None;
        }
        i32::try_from(before - after).unwrap_or(i32::MAX)
    };
    let (succeeded, failed) = (take(&mut uncounted.succeeded), take(&mut uncounted.failed));
    if succeeded > 0 {
        status.succeeded = Some(status.succeeded.unwrap_or(0) + succeeded);
    }
    if failed > 0 {
        status.failed = Some(status.failed.unwrap_or(0) + failed);
    }
}

/// Ends the Job if everything is counted and no pod is left; whether it did.
pub(super) fn finish(status: &mut JobStatus, verdict: Option<&Verdict>, now: Timestamp) -> bool {
    let Some(verdict) = verdict else { return false };
    let empty = status
        .uncounted_terminated_pods
        .as_ref()
        .is_none_or(|pods| *pods == UncountedTerminatedPods::default());
    let running = status.active.unwrap_or(0) + status.terminating.unwrap_or(0);
    if !empty || running > 0 {
        return false;
    }
    let type_ = if verdict.success { "Complete" } else { "Failed" };
    set_condition(status, type_, true, &verdict.reason, &verdict.message, now);
    if verdict.success {
        status.completion_time = Some(Time(now));
    }
    true
}
