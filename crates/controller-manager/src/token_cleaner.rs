//! token-cleaner-controller: deletes bootstrap tokens when they expire.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use keelson_client::{Informer, NamespacedName, Reconciled, WorkQueue, run_workers};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};

use crate::Context;
use crate::shared::{ReconcileError, api_error};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// When the token expires; `None`: never, or it is no token. What cannot be read counts as expired, as upstream has it.
fn expiry(secret: &Secret) -> Option<Timestamp> {
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
    let secrets = context.informer::<Secret>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let sink = queue.clone();
    secrets.on_change(move |change| {
        if expiry(change.object()).is_some() {
            sink.add(NamespacedName::of(change.object().as_ref()));
        }
    });
    let state = Arc::new((context.client(), secrets));
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
    secrets: &Informer<Secret>,
    key: &NamespacedName,
) -> Result<Reconciled, ReconcileError> {
    let Some(secret) = secrets.get(key) else {
        return Ok(Reconciled::Done);
    };
    let Some(expiry) = expiry(&secret) else {
        return Ok(Reconciled::Done);
    };
    let left = Duration::try_from(expiry.duration_since(Timestamp::now())).unwrap_or_default();
    if !left.is_zero() {
        return Ok(Reconciled::After(left));
    }
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: secret.metadata.uid.clone(),
            resource_version: secret.metadata.resource_version.clone(),
        }),
        ..DeleteParams::default()
    };
    let api: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
    api_error::ignore_not_found(api.delete(&key.name, &params).await)?;
    Ok(Reconciled::Done)
}
