//! ttl-after-finished-controller: deletes finished Jobs when their `ttlSecondsAfterFinished` has passed.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::api::DeleteParams;

use crate::Context;
use crate::shared::expiry::{Expiry, delete_expired};
use crate::shared::owner::is_deleting;

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
    let rules = Expiry {
        objects: context.informer::<Job>(),
        api: Api::namespaced,
        expires: expiry,
        deletion: DeleteParams::foreground(),
    };
    delete_expired(context, WORKERS, rules).await;
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
