//! One pass over a namespace that is being deleted.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::SelectAll;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use keelson_client::{NamespacedName, Reconciled, WorkQueue};
use kube::api::PostParams;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::watcher;
use kube::{Api, Client};
use parking_lot::Mutex;

use super::conditions;
use super::content::{self, Left};
use crate::Context;
use crate::served::Served;
use crate::shared::{ReconcileError, api_error};

/// The finalizer in `spec.finalizers` that this controller takes out.
const FINALIZER: &str = "kubernetes";
/// How long to wait after a watch over the rest of the content failed.
const WATCH_FAILED: Duration = Duration::from_secs(5);

pub(super) struct Syncer {
    context: Context,
    client: Client,
    queue: WorkQueue<NamespacedName>,
    /// Namespaces whose remaining content is being watched.
    watched: Arc<Mutex<HashSet<NamespacedName>>>,
}

impl Syncer {
    pub(super) fn new(context: Context, queue: WorkQueue<NamespacedName>) -> Self {
        Self {
            client: context.client(),
            context,
            queue,
            watched: Arc::default(),
        }
    }

    pub(super) async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        // A stale cache could show a namespace that was deleted and made again.
        let Some(mut namespace) = api.get_opt(&key.name).await? else {
            return Ok(Reconciled::Done);
        };
        let finalizers = namespace
            .spec
            .as_ref()
            .and_then(|spec| spec.finalizers.clone())
            .unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none()
            || !finalizers.iter().any(|found| found == FINALIZER)
        {
            return Ok(Reconciled::Done);
        }
        let served = Served::discover(&self.client).await?;
        let (outcome, left) = content::delete_all(&self.client, &served, &key.name).await;
        let status = namespace.status.get_or_insert_default();
        status.phase = Some("Terminating".into());
        let listed = status.conditions.get_or_insert_default();
        if conditions::update(listed, &outcome, Timestamp::now()) {
            let updated = api
                .replace_status(&key.name, &PostParams::default(), &namespace)
                .await;
            match api_error::ignore_not_found(updated)? {
                Some(updated) => namespace = updated,
                None => return Ok(Reconciled::Done),
            }
        }
        if outcome.is_empty() {
            return self.finalize(&api, namespace).await;
        }
        if !outcome.failed.is_empty() || !outcome.undiscovered.is_empty() {
            return Err(ReconcileError::Retry(format!(
                "namespace {key} could not be emptied"
            )));
        }
        self.watch_rest(key.clone(), left);
        Ok(Reconciled::Done)
    }

    async fn finalize(
        &self,
        api: &Api<Namespace>,
        mut namespace: Namespace,
    ) -> Result<Reconciled, ReconcileError> {
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let replaced = api
            .replace_subresource("finalize", &name, &PostParams::default(), &namespace)
            .await;
        api_error::ignore_not_found(replaced)?;
        Ok(Reconciled::Done)
    }

    /// Queues the namespace when one of the resources has nothing left in it.
    fn watch_rest(&self, key: NamespacedName, left: Vec<Left>) {
        if !self.watched.lock().insert(key.clone()) {
            return;
        }
        let (client, queue, watched) = (self.client.clone(), self.queue.clone(), self.watched.clone());
        let shutdown = self.context.shutdown();
        self.context.spawn(async move {
            let failed = tokio::select! {
                () = shutdown.cancelled() => return,
                emptied = one_is_emptied(&client, &key.name, left) => !emptied,
            };
            watched.lock().remove(&key);
            queue.add_after(key, if failed { WATCH_FAILED } else { Duration::ZERO });
        });
    }
}

/// Returns when a resource has no objects in the namespace any more; `false` when that cannot be watched.
async fn one_is_emptied(client: &Client, namespace: &str, left: Vec<Left>) -> bool {
    let mut streams = SelectAll::new();
    for (index, (resource, _)) in left.iter().enumerate() {
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::namespaced_with(client.clone(), namespace, &resource.api);
        let events = watcher(api, watcher::Config::default());
        streams.push(Box::pin(events.map(move |event| (index, event))));
    }
    let mut objects: Vec<HashSet<String>> = vec![HashSet::new(); left.len()];
    let mut complete = vec![false; left.len()];
    while let Some((index, event)) = streams.next().await {
        let name = |object: PartialObjectMeta<DynamicObject>| object.metadata.name.unwrap_or_default();
        match event {
            Ok(watcher::Event::Init) => {
                objects[index].clear();
                complete[index] = false;
            }
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                objects[index].insert(name(object));
            }
            Ok(watcher::Event::InitDone) => complete[index] = true,
            Ok(watcher::Event::Delete(object)) => {
                objects[index].remove(&name(object));
            }
            Err(_) => return false,
        }
        if complete[index] && objects[index].is_empty() {
            return true;
        }
    }
    false
}
