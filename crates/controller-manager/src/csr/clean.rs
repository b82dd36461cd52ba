//! certificatesigningrequest-cleaner-controller: requests that are settled or forgotten do not stay.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use keelson_client::{Informer, NamespacedName, Reconciled, WorkQueue, run_workers};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};

use crate::Context;
use crate::shared::{ReconcileError, api_error};

/// How long a request stays after it was approved, denied or failed, as upstream has it.
const SETTLED: SignedDuration = SignedDuration::from_hours(1);
/// How long a request stays that nobody has decided about.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// When the request is to be deleted.
fn expiry(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let conditions = request
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let settled =
        conditions.filter(|condition| matches!(condition.type_.as_str(), "Approved" | "Denied" | "Failed"));
    let first = settled
        .filter_map(|condition| {
            condition
                .last_update_time
                .as_ref()
                .or(condition.last_transition_time.as_ref())
        })
        .map(|time| time.0)
        .min();
    let created = request.metadata.creation_timestamp.as_ref().map(|time| time.0);
    match first {
        Some(settled) => settled.checked_add(SETTLED).ok(),
        None => created?.checked_add(PENDING).ok(),
    }
}

/// Starts the controller.
pub(crate) async fn start(context: Context) {
    let requests = context.informer::<CertificateSigningRequest>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let sink = queue.clone();
    requests.on_change(move |change| sink.add(NamespacedName::of(change.object().as_ref())));
    let state = Arc::new((context.client(), requests));
    run_workers(
        context.name(),
        queue,
        1,
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
    requests: &Informer<CertificateSigningRequest>,
    key: &NamespacedName,
) -> Result<Reconciled, ReconcileError> {
    let Some(request) = requests.get(key) else {
        return Ok(Reconciled::Done);
    };
    let Some(expiry) = expiry(&request) else {
        return Ok(Reconciled::Done);
    };
    let left = Duration::try_from(expiry.duration_since(Timestamp::now())).unwrap_or_default();
    if !left.is_zero() {
        return Ok(Reconciled::After(left));
    }
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: request.metadata.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    api_error::ignore_not_found(api.delete(&key.name, &params).await)?;
    Ok(Reconciled::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn expiries() {
        let check = |conditions: Value, expected: &str| {
            let request = json!({
                "metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"request": "", "signerName": "s"},
                "status": {"conditions": conditions}
            });
            let request = serde_json::from_value(request).unwrap();
            assert_eq!(expiry(&request), Some(expected.parse().unwrap()), "{conditions}");
        };
        let condition =
            |kind: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T02:00:00Z"}]);
        check(json!([]), "2026-01-02T00:00:00Z");
        for kind in ["Approved", "Denied", "Failed"] {
            check(condition(kind), "2026-01-01T03:00:00Z");
        }
        check(condition("Other"), "2026-01-02T00:00:00Z");
    }
}
