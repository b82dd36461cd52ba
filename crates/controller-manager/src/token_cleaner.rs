//! token-cleaner-controller: deletes bootstrap tokens when they expire.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;

use crate::Context;
use crate::shared::expiry::{Expiry, delete_expired};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
/// What of all secrets these controllers read.
pub(crate) const SELECTOR: &str = "metadata.namespace=kube-system,type=bootstrap.kubernetes.io/token";

/// When the token expires; `None`: never, or it is no token. What cannot be read counts as expired, as upstream has it.
pub(crate) fn expiry(secret: &Secret) -> Option<Timestamp> {
    let is_token =
        secret.metadata.namespace.as_deref() == Some(NAMESPACE) && secret.type_.as_deref() == Some(TYPE);
    let text = secret.data.as_ref().filter(|_| is_token)?.get("expiration")?;
    let parsed = std::str::from_utf8(&text.0)
        .ok()
        .and_then(|text| text.parse().ok());
    Some(parsed.unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let rules = Expiry {
        objects: context.informer_of::<Secret>(SELECTOR),
        api: Api::namespaced,
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
        let check = |kind: &str, namespace: &str, data: Value, expected: Option<&str>| {
            let secret =
                json!({"metadata": {"name": "s", "namespace": namespace}, "type": kind, "data": data});
            let secret: Secret = serde_json::from_value(secret).unwrap();
            assert_eq!(
                expiry(&secret),
                expected.map(|text| text.parse().unwrap()),
                "{kind} {namespace} {data}"
            );
        };
        // 2026-01-01T00:00:00Z, and what is no time.
        let end = json!({"expiration": "MjAyNi0wMS0wMVQwMDowMDowMFo="});
        check(TYPE, NAMESPACE, end.clone(), Some("2026-01-01T00:00:00Z"));
        check(
            TYPE,
            NAMESPACE,
            json!({"expiration": "c29vbg=="}),
            Some("1970-01-01T00:00:00Z"),
        );
        check(TYPE, NAMESPACE, json!({}), None);
        check("Opaque", NAMESPACE, end.clone(), None);
        check(TYPE, "default", end, None);
    }
}
