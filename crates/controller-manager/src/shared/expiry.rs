//! Controllers that delete objects when their time has come.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keelson_client::{Informer, NamespacedName, Reconciled, WorkQueue};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use super::{ReconcileError, api_error};
use crate::Context;

/// What is deleted, and when.
pub(crate) struct Expiry<K> {
    /// The objects.
    pub(crate) objects: Informer<K>,
    /// How they are reached: `Api::namespaced`, or `Api::all` for kinds of the whole cluster.
    pub(crate) api: fn(Client, &str) -> Api<K>,
    /// When an object is to be deleted; `None`: not by this controller.
    pub(crate) expires: fn(&K) -> Option<Timestamp>,
    /// How it is deleted.
    pub(crate) deletion: DeleteParams,
}

/// Deletes objects when they expire, until the controller must end.
pub(crate) async fn delete_expired<K>(context: Context, workers: usize, rules: Expiry<K>)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let (sink, expires) = (queue.clone(), rules.expires);
    rules.objects.on_change(move |change| {
        if expires(change.object()).is_some() {
            sink.add(NamespacedName::of(change.object().as_ref()));
        }
    });
    let state = Arc::new((context.client(), rules));
    context
        .work(queue, workers, state, |state, key| async move {
            reconcile(&state.0, &state.1, &key).await
        })
        .await;
}

async fn reconcile<K>(
    client: &Client,
    rules: &Expiry<K>,
    key: &NamespacedName,
) -> Result<Reconciled, ReconcileError>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let left = |object: &K| {
        let left = (rules.expires)(object)?.duration_since(Timestamp::now());
        Some(Duration::try_from(left).unwrap_or_default())
    };
    let after = |left: Option<Duration>| match left {
        None => Some(Reconciled::Done),
        Some(left) if !left.is_zero() => Some(Reconciled::After(left)),
        Some(_) => None,
    };
    if let Some(not_yet) = after(rules.objects.get(key).and_then(|object| left(&object))) {
        return Ok(not_yet);
    }
    // Somebody may have given it more time meanwhile.
    let api = (rules.api)(client.clone(), &key.namespace);
    let object = api.get_opt(&key.name).await?;
    if let Some(not_yet) = after(object.as_ref().and_then(left)) {
        return Ok(not_yet);
    }
    let meta = object.as_ref().map(Resource::meta);
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: meta.and_then(|meta| meta.uid.clone()),
            resource_version: meta.and_then(|meta| meta.resource_version.clone()),
        }),
        ..rules.deletion.clone()
    };
    api_error::ignore_not_found(api.delete(&key.name, &params).await)?;
    Ok(Reconciled::Done)
}
