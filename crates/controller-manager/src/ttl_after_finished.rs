//! ttl-after-finished-controller: deletes finished Jobs when their `ttlSecondsAfterFinished` has passed.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use keelson_client::{Informer, NamespacedName, Reconciled, WorkQueue, run_workers};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};

use crate::Context;
use crate::shared::owner::is_deleting;
use crate::shared::{ReconcileError, api_error};

/// `--concurrent-ttl-after-finished-syncs`.
const WORKERS: usize = 5;

/// When the Job is to be deleted; `None`: not by this controller.
fn expiry(job: &Job) -> Option<Timestamp> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let finished = conditions.iter().find(|condition| {
        matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
    })?;
    let since = finished.last_transition_time.as_ref()?.0;
    since
        .checked_add(SignedDuration::from_secs(ttl.into()))
        .ok()
        .filter(|_| !is_deleting(job))
}

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let jobs = context.informer::<Job>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let sink = queue.clone();
    jobs.on_change(move |change| {
        if expiry(change.object()).is_some() {
            sink.add(NamespacedName::of(change.object().as_ref()));
        }
    });
    let state = Arc::new((context.client(), jobs));
    run_workers(
        context.name(),
        queue,
        WORKERS,
        context.shutdown(),
        move |key: NamespacedName| {
            let state = state.clone();
            async move { reconcile(&state.0, &state.1, &key).await }
        },
    )
    .await;
}

async fn reconcile(
    client: &Client,
    jobs: &Informer<Job>,
    key: &NamespacedName,
) -> Result<Reconciled, ReconcileError> {
    let left = |job: &Job| {
        let left = expiry(job)?.duration_since(Timestamp::now());
        Some(Duration::try_from(left).unwrap_or_default())
    };
    match jobs.get(key).and_then(|job| left(&job)) {
        None => return Ok(Reconciled::Done),
        Some(wait) if !wait.is_zero() => return Ok(Reconciled::After(wait)),
        Some(_) => {}
    }
    // Somebody may have given it more time meanwhile.
    let api: Api<Job> = Api::namespaced(client.clone(), &key.namespace);
    let Some(job) = api.get_opt(&key.name).await? else {
        return Ok(Reconciled::Done);
    };
    match left(&job) {
        Some(wait) if wait.is_zero() => {}
        Some(wait) => return Ok(Reconciled::After(wait)),
        None => return Ok(Reconciled::Done),
    }
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: job.metadata.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::foreground()
    };
    api_error::ignore_not_found(api.delete(&key.name, &params).await)?;
    Ok(Reconciled::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn expiries() {
        let check = |spec: Value, conditions: Value, expected: Option<&str>| {
            let job: Job =
                serde_json::from_value(json!({"spec": spec, "status": {"conditions": conditions}})).unwrap();
            assert_eq!(expiry(&job), expected.map(|text| text.parse().unwrap()));
        };
        let template = json!({});
        let spec = json!({"ttlSecondsAfterFinished": 30, "template": template});
        let condition = |kind: &str, status: &str| json!([{"type": kind, "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        check(
            spec.clone(),
            condition("Complete", "True"),
            Some("2026-01-01T00:00:30Z"),
        );
        check(
            spec.clone(),
            condition("Failed", "True"),
            Some("2026-01-01T00:00:30Z"),
        );
        check(spec.clone(), condition("Failed", "False"), None);
        check(spec, condition("FailureTarget", "True"), None);
        check(json!({"template": template}), condition("Complete", "True"), None);
    }
}
