//! Which pods to make or delete.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::assess::{Assessment, Snapshot};
use super::indexes::index_of;
use super::template::absolute_failure_count;
use crate::shared::pod::{condition, phase};
use crate::shared::pod_rank::pods_to_delete;

/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// Most pods that one reconciliation makes or deletes.
const MOST: usize = 500;

/// The decision.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Scale {
    pub(super) delete: Vec<Arc<Pod>>,
    /// One pod each; the index for indexed Jobs.
    pub(super) create: Vec<Option<i32>>,
    /// When more may be made.
    pub(super) wait: Option<Duration>,
}

/// Decides for a Job that is not over.
pub(super) fn scale(seen: &Snapshot<'_>, found: &Assessment) -> Scale {
    let active = found.active.len();
    if seen.suspended() {
        return Scale {
            delete: found.active.clone(),
            ..Scale::default()
        };
    }
    let parallelism = usize::try_from(seen.spec.parallelism.unwrap_or(1)).unwrap_or(0);
    let wanted = match seen.spec.completions {
        None if found.succeeded > 0 => active,
        None => parallelism,
        Some(completions) => {
            let failed = found.failed_indexes.len();
            usize::try_from(completions - found.succeeded - failed)
                .unwrap_or(0)
                .min(parallelism)
        }
    };
    let delete = surplus(seen, found, active.saturating_sub(wanted));
    if !delete.is_empty() {
        return Scale {
            delete,
            ..Scale::default()
        };
    }
    let terminating = if seen.only_replace_failed() {
        usize::try_from(found.terminating).unwrap_or(0)
    } else {
        0
    };
    let missing = wanted.saturating_sub(terminating + active).min(MOST);
    if missing == 0 {
        return Scale::default();
    }
    if seen.spec.backoff_limit_per_index.is_some() {
        return per_index(seen, found, missing);
    }
    if let Some(wait) = backoff(seen) {
        return Scale {
            wait: Some(wait),
            ..Scale::default()
        };
    }
    let create = if seen.indexed() {
        pending_indexes(seen, found)
            .into_iter()
            .take(missing)
            .map(Some)
            .collect()
    } else {
        vec![None; missing]
    };
    Scale {
        create,
        ..Scale::default()
    }
}

/// Indexes that have neither a pod nor a result, in order.
fn pending_indexes(seen: &Snapshot<'_>, found: &Assessment) -> Vec<i32> {
    let mut taken: HashSet<i32> = found.active.iter().filter_map(|pod| index_of(pod)).collect();
    if seen.only_replace_failed() {
        let running = seen
            .pods
            .iter()
            .filter(|pod| !matches!(phase(pod), "Failed" | "Succeeded"));
        taken.extend(running.filter_map(|pod| index_of(pod)));
    }
    let done =
        |index: &i32| found.succeeded_indexes.0.contains(index) || found.failed_indexes.0.contains(index);
    (0..seen.completions())
        .filter(|index| !taken.contains(index) && !done(index))
        .collect()
}

/// Every index has its own backoff.
fn per_index(seen: &Snapshot<'_>, found: &Assessment, missing: usize) -> Scale {
    let mut scale = Scale::default();
    for index in pending_indexes(seen, found) {
        if scale.create.len() == missing {
            break;
        }
        let wait = found
            .delayed
            .get(&index)
            .and_then(|pod| remaining(absolute_failure_count(pod), finished_at(pod)?, seen.now));
        match wait {
            Some(wait) => scale.wait = Some(scale.wait.map_or(wait, |other| other.min(wait))),
            None => scale.create.push(Some(index)),
        }
    }
    scale
}

/// Pods that must go: of indexes that are done, out of range or doubled, then as many as are too many.
fn surplus(seen: &Snapshot<'_>, found: &Assessment, at_least: usize) -> Vec<Arc<Pod>> {
    let (mut delete, mut rest) = (Vec::new(), Vec::new());
    if seen.indexed() {
        let mut held = BTreeSet::new();
        let mut oldest_first = found.active.clone();
        oldest_first.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        for pod in oldest_first {
            let valid = index_of(&pod)
                .filter(|index| *index < seen.completions() && !found.succeeded_indexes.0.contains(index));
            match valid {
                Some(index) if held.insert(index) => rest.push(pod),
                _ => delete.push(pod),
            }
        }
    } else {
        rest.clone_from(&found.active);
    }
    let more = at_least.saturating_sub(delete.len());
    delete.extend(pods_to_delete(rest, &[], more, seen.now));
    delete.truncate(MOST);
    delete
}

/// How long no pod is made after failures in a row.
fn backoff(seen: &Snapshot<'_>) -> Option<Duration> {
    let ended = |wanted: &'static str| {
        seen.pods
            .iter()
            .filter(move |pod| phase(pod) == wanted)
            .filter_map(|pod| finished_at(pod))
    };
    let last_success = ended("Succeeded").max();
    let failures: Vec<_> = ended("Failed")
        .filter(|at| last_success.is_none_or(|success| *at > success))
        .collect();
    remaining(
        i32::try_from(failures.len()).unwrap_or(i32::MAX),
        failures.into_iter().max()?,
        seen.now,
    )
}

/// What is left of the wait after that many failures, the last one at `last`.
fn remaining(failures: i32, last: Timestamp, now: Timestamp) -> Option<Duration> {
    let doublings = u32::try_from(failures.checked_sub(1)?).ok()?.min(16);
    let delay = (BACKOFF.0 * 2_u32.pow(doublings)).min(BACKOFF.1);
    let due = last.as_millisecond() + i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
    u64::try_from(due - now.as_millisecond())
        .ok()
        .filter(|left| *left > 0)
        .map(Duration::from_millis)
}

/// When the last container ended; failing that, when the pod stopped being ready, or was deleted or created.
pub(super) fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default();
    let ended = |status: &k8s_openapi::api::core::v1::ContainerStatus| {
        Some(
            status
                .state
                .as_ref()?
                .terminated
                .as_ref()?
                .finished_at
                .as_ref()?
                .0,
        )
    };
    let ready = || {
        condition(pod, "Ready")?
            .last_transition_time
            .as_ref()
            .map(|time| time.0)
    };
    let meta = &pod.metadata;
    let known = meta
        .deletion_timestamp
        .as_ref()
        .or(meta.creation_timestamp.as_ref());
    statuses
        .iter()
        .filter_map(ended)
        .max()
        .or_else(ready)
        .or_else(|| known.map(|time| time.0))
}
