//! certificatesigningrequest-cleaner-controller: requests that are settled or forgotten do not stay.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::Api;
use kube::api::DeleteParams;

use crate::Context;
use crate::shared::expiry::{Expiry, delete_expired};

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
    let rules = Expiry {
        objects: context.informer::<CertificateSigningRequest>(),
        api: |client, _| Api::all(client),
        expires: expiry,
        deletion: DeleteParams::default(),
    };
    delete_expired(context, 1, rules).await;
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
