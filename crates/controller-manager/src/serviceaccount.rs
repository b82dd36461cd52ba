//! serviceaccount-controller: every namespace that is not going away has the ServiceAccount `default`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use keelson_client::{Informer, NamespacedName, Reconciled, WorkQueue, run_workers};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::Context;

/// Name of the account.
const DEFAULT: &str = "default";
const WORKERS: usize = 1;

/// Starts the controller.
pub(crate) async fn start(context: Context) {
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let namespaces = context.informer::<Namespace>();
    let accounts = context.informer::<ServiceAccount>();
    let sink = queue.clone();
    namespaces.on_change(move |change| sink.add(NamespacedName::of(change.object().as_ref())));
    let sink = queue.clone();
    accounts.on_change(move |change| {
        let meta = &change.object().metadata;
        if meta.name.as_deref() == Some(DEFAULT) {
            sink.add(NamespacedName::new(
                "",
                meta.namespace.as_deref().unwrap_or_default(),
            ));
        }
    });
    if !context
        .before_shutdown(async {
            tokio::join!(namespaces.synced(), accounts.synced());
        })
        .await
    {
        return;
    }
    let state = Arc::new((context.client(), namespaces, accounts));
    run_workers(
        context.name(),
        queue,
        WORKERS,
        context.shutdown(),
        move |key: NamespacedName| {
            let state = state.clone();
            async move {
                let (client, namespaces, accounts) = state.as_ref();
                reconcile(client, namespaces, accounts, &key).await
            }
        },
    )
    .await;
}

async fn reconcile(
    client: &Client,
    namespaces: &Informer<Namespace>,
    accounts: &Informer<ServiceAccount>,
    key: &NamespacedName,
) -> Result<Reconciled, kube::Error> {
    let exists = accounts.get(&NamespacedName::new(&key.name, DEFAULT)).is_some();
    if exists || !namespaces.get(key).is_some_and(|namespace| is_active(&namespace)) {
        return Ok(Reconciled::Done);
    }
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(DEFAULT.into()),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    };
    let api = Api::<ServiceAccount>::namespaced(client.clone(), &key.name);
    match api.create(&PostParams::default(), &account).await {
        Ok(_) => Ok(Reconciled::Done),
        // Somebody was faster, or the namespace goes away.
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404 | 409) => Ok(Reconciled::Done),
        Err(error) => Err(error),
    }
}

/// Whether objects can be created in the namespace.
pub(crate) fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}
