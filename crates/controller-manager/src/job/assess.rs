//! The judgement over a Job and its pods: what counts, what has failed for good, whether it is over.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec};
use k8s_openapi::api::core::v1::Pod;

use super::has_finalizer;
use super::indexes::{Indexes, index_of};
use super::policy::{self, Judgement};
use super::status::condition;
use super::template::failure_count;
use crate::shared::owner::{is_deleting, uid};
use crate::shared::pod::{is_active, is_finished, is_ready, is_terminating, phase};

/// Most pods that are counted in one go.
const MAX_UNCOUNTED: usize = 500;

/// What the judgement is made of.
pub(super) struct Snapshot<'a> {
    pub(super) job: &'a Job,
    pub(super) spec: &'a JobSpec,
    pub(super) pods: &'a [Arc<Pod>],
    /// UIDs of pods whose finalizer is removed though the cache does not show it yet.
    pub(super) removed: &'a HashSet<String>,
    pub(super) now: Timestamp,
}

/// How the Job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) success: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Verdict {
    fn failure(reason: &str, message: impl Into<String>) -> Self {
        Self {
            success: false,
            reason: reason.into(),
            message: message.into(),
        }
    }

    fn of(condition: &JobCondition, success: bool) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            success,
            reason: text(&condition.reason),
            message: text(&condition.message),
        }
    }
}

/// The outcome.
#[derive(Debug, Default)]
pub(super) struct Assessment {
    pub(super) active: Vec<Arc<Pod>>,
    pub(super) ready: i32,
    pub(super) terminating: i32,
    /// Including what is not in the status yet.
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    /// For indexed Jobs.
    pub(super) succeeded_indexes: Indexes,
    /// For Jobs with `backoffLimitPerIndex`.
    pub(super) failed_indexes: Indexes,
    /// UIDs to go into `uncountedTerminatedPods`.
    pub(super) count_succeeded: Vec<String>,
    pub(super) count_failed: Vec<String>,
    /// Pods whose finalizer is to be removed when those are written.
    pub(super) release: Vec<Arc<Pod>>,
    /// The last failed pod of indexes that are to be tried again: it keeps the count until its successor exists.
    pub(super) delayed: BTreeMap<i32, Arc<Pod>>,
    pub(super) verdict: Option<Verdict>,
    /// When the deadline passes.
    pub(super) deadline_in: Option<Duration>,
}

impl Snapshot<'_> {
    pub(super) fn indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    pub(super) fn suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    /// Whether only pods in phase Failed are replaced, not those that are being deleted.
    pub(super) fn only_replace_failed(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed")
            || self.spec.pod_failure_policy.is_some()
    }

    pub(super) fn completions(&self) -> i32 {
        self.spec
            .completions
            .unwrap_or(if self.indexed() { 0 } else { 1 })
    }

    fn tracked(&self, pod: &Pod) -> bool {
        has_finalizer(pod) && !self.removed.contains(uid(pod))
    }

    fn has_failed(&self, pod: &Pod) -> bool {
        match phase(pod) {
            "Failed" => true,
            "Succeeded" => false,
            // A pod that is deleted may never get to say how it ended.
            _ => is_deleting(pod) && !self.only_replace_failed(),
        }
    }

    fn valid_index(&self, pod: &Pod) -> Option<i32> {
        index_of(pod).filter(|index| *index < self.completions())
    }

    fn judge(&self, pod: &Pod) -> Judgement {
        if phase(pod) == "Failed" {
            policy::judge(self.spec.pod_failure_policy.as_ref(), pod)
        } else {
            Judgement::Count
        }
    }
}

/// Judges.
pub(super) fn assess(seen: &Snapshot<'_>) -> Assessment {
    let status = seen.job.status.clone().unwrap_or_default();
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let known_succeeded: HashSet<_> = uncounted.succeeded.iter().flatten().cloned().collect();
    let known_failed: HashSet<_> = uncounted.failed.iter().flatten().cloned().collect();
    let mut result = Assessment {
        active: seen.pods.iter().filter(|pod| is_active(pod)).cloned().collect(),
        terminating: seen
            .pods
            .iter()
            .filter(|pod| is_terminating(pod))
            .count()
            .try_into()
            .unwrap_or(i32::MAX),
        ..Assessment::default()
    };
    result.ready = result
        .active
        .iter()
        .filter(|pod| is_ready(pod))
        .count()
        .try_into()
        .unwrap_or(i32::MAX);
    let count = |pods: usize| i32::try_from(pods).unwrap_or(i32::MAX);

    let new_succeeded: Vec<_> = seen
        .pods
        .iter()
        .filter(|pod| phase(pod) == "Succeeded" && seen.tracked(pod))
        .filter(|pod| {
            !known_failed.contains(uid(pod.as_ref())) && !known_succeeded.contains(uid(pod.as_ref()))
        })
        .collect();
    let new_failed: Vec<_> = seen
        .pods
        .iter()
        .filter(|pod| seen.has_failed(pod) && seen.tracked(pod) && !known_failed.contains(uid(pod.as_ref())))
        .filter(|pod| !seen.indexed() || seen.valid_index(pod).is_some())
        .collect();
    let counted = new_failed
        .iter()
        .filter(|pod| seen.judge(pod) != Judgement::Ignore)
        .count();
    result.failed = status.failed.unwrap_or(0) + count(known_failed.len()) + count(counted);
    if seen.indexed() {
        let text = status.completed_indexes.as_deref().unwrap_or_default();
        result.succeeded_indexes = Indexes::parse(text, seen.completions());
        let indexes = new_succeeded.iter().filter_map(|pod| seen.valid_index(pod));
        result.succeeded_indexes.0.extend(indexes);
        result.succeeded = result.succeeded_indexes.len();
    } else {
        result.succeeded =
            status.succeeded.unwrap_or(0) + count(known_succeeded.len()) + count(new_succeeded.len());
    }
    if seen.spec.backoff_limit_per_index.is_some() {
        assess_indexes(seen, &mut result);
    }
    result.verdict = verdict(seen, &mut result, &new_failed);
    select(seen, &mut result, &known_succeeded, &known_failed);
    result
}

/// Which indexes have failed for good, and which are to be tried again.
fn assess_indexes(seen: &Snapshot<'_>, result: &mut Assessment) {
    let status = seen.job.status.as_ref();
    let text = status
        .and_then(|status| status.failed_indexes.as_deref())
        .unwrap_or_default();
    result.failed_indexes = Indexes::parse(text, seen.completions());
    let limit = seen.spec.backoff_limit_per_index.unwrap_or(0);
    let failed = || {
        seen.pods
            .iter()
            .filter(|pod| seen.has_failed(pod) && seen.tracked(pod))
    };
    for pod in failed() {
        let Some(index) = seen.valid_index(pod) else {
            continue;
        };
        if result.succeeded_indexes.0.contains(&index) {
            continue;
        }
        let judgement = seen.judge(pod);
        let exhausted = judgement == Judgement::Count && failure_count(pod) >= limit;
        if exhausted || judgement == Judgement::FailIndex {
            result.failed_indexes.0.insert(index);
        }
    }
    let running: HashSet<i32> = seen
        .pods
        .iter()
        .filter(|pod| !seen.has_failed(pod) && !is_finished(pod))
        .filter_map(|pod| index_of(pod))
        .collect();
    for pod in failed() {
        let Some(index) = seen.valid_index(pod) else {
            continue;
        };
        let over = result.succeeded_indexes.0.contains(&index) || result.failed_indexes.0.contains(&index);
        if over || running.contains(&index) {
            continue;
        }
        let slot = result.delayed.entry(index).or_insert_with(|| pod.clone());
        if failure_count(pod) > failure_count(slot) {
            *slot = pod.clone();
        }
    }
}

fn verdict(seen: &Snapshot<'_>, result: &mut Assessment, new_failed: &[&Arc<Pod>]) -> Option<Verdict> {
    let status = seen.job.status.clone().unwrap_or_default();
    if let Some(found) = condition(&status, "FailureTarget") {
        return Some(Verdict::of(found, false));
    }
    if let Some(found) = condition(&status, "SuccessCriteriaMet") {
        return Some(Verdict::of(found, true));
    }
    let fail_job = new_failed.iter().find_map(|pod| match seen.judge(pod) {
        Judgement::FailJob(message) => Some(message),
        _ => None,
    });
    if let Some(message) = fail_job {
        return Some(Verdict::failure("PodFailurePolicy", message));
    }
    let limit = seen
        .spec
        .backoff_limit
        .unwrap_or(if seen.spec.backoff_limit_per_index.is_some() {
            i32::MAX
        } else {
            6
        });
    if result.failed > limit || restarts_exceed(seen, limit) {
        return Some(Verdict::failure(
            "BackoffLimitExceeded",
            "Job has reached the specified backoff limit",
        ));
    }
    if let (Some(seconds), Some(start), false) = (
        seen.spec.active_deadline_seconds,
        &status.start_time,
        seen.suspended(),
    ) {
        let left = start.0.as_millisecond() + seconds * 1000 - seen.now.as_millisecond();
        if left <= 0 {
            return Some(Verdict::failure(
                "DeadlineExceeded",
                "Job was active longer than specified deadline",
            ));
        }
        result.deadline_in = u64::try_from(left).ok().map(Duration::from_millis);
    }
    if seen.spec.backoff_limit_per_index.is_some() {
        let failed = result.failed_indexes.len();
        if seen.spec.max_failed_indexes.is_some_and(|most| failed > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Verdict::failure("MaxFailedIndexesExceeded", message));
        }
        if failed > 0 && failed + result.succeeded >= seen.completions() {
            return Some(Verdict::failure("FailedIndexes", "Job has failed indexes"));
        }
    }
    let policy = seen.spec.success_policy.as_ref().filter(|_| seen.indexed());
    if let Some(rule) =
        policy.and_then(|rules| policy::succeeded(rules, seen.completions(), &result.succeeded_indexes))
    {
        let message = format!("Matched rules at index {rule}");
        return Some(Verdict {
            success: true,
            reason: "SuccessPolicy".into(),
            message,
        });
    }
    let complete = match seen.spec.completions {
        Some(completions) => result.succeeded >= completions,
        None => result.succeeded > 0,
    };
    (complete && result.active.is_empty() && !seen.suspended()).then(|| Verdict {
        success: true,
        reason: "CompletionsReached".into(),
        message: "Reached expected number of succeeded pods".into(),
    })
}

/// With restart policy OnFailure the restarts of the running pods are failures, too.
fn restarts_exceed(seen: &Snapshot<'_>, limit: i32) -> bool {
    let policy = seen
        .spec
        .template
        .spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let restarts: i32 = seen
        .pods
        .iter()
        .filter(|pod| matches!(phase(pod), "Running" | "Pending"))
        .filter_map(|pod| pod.status.as_ref())
        .flat_map(|status| {
            status
                .container_statuses
                .iter()
                .chain(&status.init_container_statuses)
                .flatten()
        })
        .map(|container| container.restart_count)
        .sum();
    if limit == 0 {
        restarts > 0
    } else {
        restarts >= limit
    }
}

/// Which pods are to be counted and released.
fn select(
    seen: &Snapshot<'_>,
    result: &mut Assessment,
    known_succeeded: &HashSet<String>,
    known_failed: &HashSet<String>,
) {
    let ended = result.verdict.is_some() || is_deleting(seen.job);
    let failing = result.verdict.as_ref().is_some_and(|verdict| !verdict.success);
    for pod in seen.pods.iter().filter(|pod| seen.tracked(pod)) {
        let (pod_uid, failed) = (uid(pod.as_ref()), seen.has_failed(pod));
        let succeeded = phase(pod) == "Succeeded";
        let delayed = seen
            .valid_index(pod)
            .and_then(|index| result.delayed.get(&index))
            .is_some_and(|delayed| uid(delayed.as_ref()) == pod_uid);
        if !(ended || succeeded || (failed && !delayed)) {
            continue;
        }
        result.release.push(pod.clone());
        if succeeded && !known_failed.contains(pod_uid) {
            // The index itself says that an indexed pod is counted.
            if !seen.indexed() && !known_succeeded.contains(pod_uid) {
                result.count_succeeded.push(pod_uid.to_owned());
            }
        } else if (failed || failing) && !known_failed.contains(pod_uid) {
            // When the Job has failed, every pod that still runs has.
            let counts = !seen.indexed() || seen.valid_index(pod).is_some();
            if counts && seen.judge(pod) != Judgement::Ignore {
                result.count_failed.push(pod_uid.to_owned());
            }
        }
        if result.count_succeeded.len() + result.count_failed.len() >= MAX_UNCOUNTED {
            return;
        }
    }
}
