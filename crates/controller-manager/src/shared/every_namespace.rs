//! Controllers that keep one object of a fixed name in every namespace that is not going away.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use keelson_client::{Informer, NamespacedName, Reconciled, WorkQueue};
use kube::api::PostParams;
use kube::{Api, Client};

use super::object::Object;
use super::owner::{name, namespace};
use crate::Context;

const WORKERS: usize = 1;

struct State<K, F> {
    client: Client,
    namespaces: Informer<Namespace>,
    objects: Informer<K>,
    name: &'static str,
    wanted: F,
}

/// Keeps `name` in every namespace until the controller must end. `wanted` says what to write over what is there, or what
/// to create when nothing is; `None`: it is as it should be. `objects` may show other objects, too.
pub(crate) async fn keep_in_every_namespace<K, F>(
    context: Context,
    objects: Informer<K>,
    object_name: &'static str,
    wanted: F,
) where
    K: Object,
    F: Fn(Option<&K>) -> Option<K> + Send + Sync + 'static,
{
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let namespaces = context.informer::<Namespace>();
    let sink = queue.clone();
    namespaces.on_change(move |change| sink.add(NamespacedName::of(change.object().as_ref())));
    let sink = queue.clone();
    objects.on_change(move |change| {
        let object = change.object().as_ref();
        if name(object) == object_name {
            sink.add(NamespacedName::new("", namespace(object)));
        }
    });
    let ready = async {
        tokio::join!(namespaces.synced(), objects.synced());
    };
    if !context.before_shutdown(ready).await {
        return;
    }
    let state = Arc::new(State {
        client: context.client(),
        namespaces,
        objects,
        name: object_name,
        wanted,
    });
    context
        .work(queue, WORKERS, state, |state, key| async move {
            state.reconcile(&key).await
        })
        .await;
}

impl<K: Object, F: Fn(Option<&K>) -> Option<K>> State<K, F> {
    async fn reconcile(&self, key: &NamespacedName) -> Result<Reconciled, kube::Error> {
        let active = self
            .namespaces
            .get(key)
            .is_some_and(|namespace| is_active(&namespace));
        let existing = self.objects.get(&NamespacedName::new(&key.name, self.name));
        let wanted = if active {
            (self.wanted)(existing.as_deref())
        } else {
            None
        };
        let Some(wanted) = wanted else {
            return Ok(Reconciled::Done);
        };
        let api = Api::<K>::namespaced(self.client.clone(), &key.name);
        let params = PostParams::default();
        let written = match existing {
            None => api.create(&params, &wanted).await,
            Some(_) => api.replace(self.name, &params, &wanted).await,
        };
        match written {
            Ok(_) => Ok(Reconciled::Done),
            // The change that got in between brings the key back; or the namespace goes away.
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404 | 409) => Ok(Reconciled::Done),
            Err(error) => Err(error),
        }
    }
}

/// Whether objects can be created in the namespace.
fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}
