//! The status of a StatefulSet.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::spec::Wanted;
use crate::shared::history::REVISION_HASH;
use crate::shared::owner::is_deleting;
use crate::shared::pod::{is_available, is_ready, label, phase};

/// Whether the pod runs and is ready.
pub(super) fn is_running_ready(pod: &Pod) -> bool {
    phase(pod) == "Running" && is_ready(pod)
}

/// The names of the two revisions that a set is between.
pub(super) struct Revisions<'a> {
    pub(super) current: &'a str,
    pub(super) update: &'a str,
    pub(super) collision_count: Option<i32>,
}

/// Counts pods; an update that is complete makes its revision the current one.
pub(super) fn compute(
    set: &StatefulSet,
    wanted: &Wanted,
    pods: &[Arc<Pod>],
    revisions: &Revisions<'_>,
    now: Timestamp,
) -> StatefulSetStatus {
    let count = |keep: &dyn Fn(&Pod) -> bool| {
        i32::try_from(pods.iter().filter(|pod| keep(pod)).count()).unwrap_or(i32::MAX)
    };
    let positive = |number: i32| (number > 0).then_some(number);
    let of = |revision: &str| {
        count(&|pod| {
            !phase(pod).is_empty() && !is_deleting(pod) && label(pod, REVISION_HASH) == Some(revision)
        })
    };
    let replicas = count(&|pod| !phase(pod).is_empty());
    let ready = count(&is_running_ready);
    let updated = of(revisions.update);
    let complete = wanted.rolling.is_some()
        && updated == wanted.replicas
        && ready == wanted.replicas
        && replicas == wanted.replicas;
    let (current_revision, current) = if complete {
        (revisions.update, updated)
    } else {
        (revisions.current, of(revisions.current))
    };
    StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas,
        ready_replicas: positive(ready),
        available_replicas: Some(count(&|pod| {
            is_running_ready(pod) && is_available(pod, wanted.min_ready_seconds, now)
        })),
        current_replicas: positive(current),
        updated_replicas: positive(updated),
        current_revision: Some(current_revision.to_owned()),
        update_revision: Some(revisions.update.to_owned()),
        collision_count: Some(revisions.collision_count.unwrap_or(0)),
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    }
}
