//! `status.observedGeneration` and `status.typeChecking` of validating policies.

use keelson_api::status::Status;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::types::warnings;
use crate::admission::Notes;
use crate::registry::{Context, Kind, Registry, Update, metadata};
use crate::user::UserInfo;

const GROUP: &str = "admissionregistration.k8s.io";
const RESOURCE: &str = "validatingadmissionpolicies";

/// Whose status it is, as upstream's controller.
const ACCOUNT: &str = "system:serviceaccount:kube-system:validatingadmissionpolicy-status-controller";

/// Follows changes of policies until `shutdown`.
pub(crate) async fn watch_policies(registry: Registry, shutdown: CancellationToken) {
    let mut changes = registry.resources().resource(GROUP, RESOURCE).changes();
    loop {
        check_policies(&registry).await;
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = changes.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Checks the policies whose newest generation is not checked yet.
async fn check_policies(registry: &Registry) {
    let Some(kind) = registry.kind(GROUP, "v1", RESOURCE) else {
        return;
    };
    for object in registry.resources().resource(GROUP, RESOURCE).list(None) {
        if !is_stale(object.value()) {
            continue;
        }
        if let Err(error) = check_policy(registry, &kind, object.name()).await
            && error.code != 404
        {
            tracing::warn!(policy = object.name(), %error, "the status of a policy could not be written");
        }
    }
}

fn is_stale(policy: &Value) -> bool {
    let observed = policy["status"]["observedGeneration"].as_i64().unwrap_or(0);
    metadata::number(policy, "generation").unwrap_or(0) > observed
}

async fn check_policy(registry: &Registry, kind: &Kind, name: &str) -> Result<(), Status> {
    let user = UserInfo::new(
        ACCOUNT,
        &["system:serviceaccounts", "system:serviceaccounts:kube-system"],
    );
    let notes = Notes::default();
    let cx = Context::internal(&user, &notes);
    let update = Update {
        namespace: "",
        name,
        subresource: "status",
        may_create: false,
        apply: false,
    };
    let kinds = registry.kinds();
    let written = registry.update(&cx, kind, &update, |old| {
        let mut policy = old.cloned().unwrap_or_default();
        if is_stale(&policy) {
            let generation = metadata::number(&policy, "generation").unwrap_or(0);
            let warnings = warnings(&kinds, &policy);
            let checked = if warnings.is_empty() {
                json!({})
            } else {
                json!({"expressionWarnings": warnings})
            };
            policy["status"]["observedGeneration"] = json!(generation);
            policy["status"]["typeChecking"] = checked;
        }
        Ok(policy)
    });
    written.await.map(|_| ())
}
