//! How many objects of a resource a namespace has: watches over metadata, each started when the first quota names its
//! resource.

use std::collections::HashMap;
use std::time::Duration;

use keelson_api::gvk::GroupResource;
use keelson_client::{Change, Index, Informer, InformerOptions};
use kube::Api;
use kube::core::{DynamicObject, PartialObjectMeta};
use parking_lot::Mutex;

use super::Quotas;
use crate::Context;
use crate::served::Served;
use crate::shared::ReconcileError;

/// How long the first list may take; a server that does not answer must not hold up other quotas for ever.
const PATIENCE: Duration = Duration::from_secs(10);

type Meta = PartialObjectMeta<DynamicObject>;

/// A watch over one resource.
#[derive(Clone)]
struct Watched {
    objects: Informer<Meta>,
    by_namespace: Index<String, Meta>,
}

/// See the module.
pub(super) struct Counts {
    context: Context,
    quotas: Quotas,
    watched: Mutex<HashMap<GroupResource, Watched>>,
}

impl Counts {
    pub(super) fn new(context: Context, quotas: Quotas) -> Self {
        Self {
            context,
            quotas,
            watched: Mutex::default(),
        }
    }

    /// How many objects the namespace has; `None`: nothing of that name is served that can be counted.
    pub(super) async fn count(
        &self,
        resource: &GroupResource,
        namespace: &str,
    ) -> Result<Option<usize>, ReconcileError> {
        let Some(watched) = self.watched(resource).await? else {
            return Ok(None);
        };
        let listed = tokio::time::timeout(PATIENCE, watched.objects.synced());
        if !self.context.before_shutdown(async { drop(listed.await) }).await || !watched.objects.has_synced()
        {
            return Err(ReconcileError::Retry(format!("{resource} cannot be listed")));
        }
        Ok(Some(watched.by_namespace.count(namespace)))
    }

    async fn watched(&self, resource: &GroupResource) -> Result<Option<Watched>, ReconcileError> {
        if let Some(watched) = self.watched.lock().get(resource) {
            return Ok(Some(watched.clone()));
        }
        let client = self.context.config().informer_client.clone();
        let served = Served::discover(&client).await?;
        let found = served.preferred.iter().find(|served| {
            let same = *served.api.group == *resource.group && *served.api.plural == *resource.resource;
            same && served.namespaced && served.can(&["create", "list", "watch", "delete"])
        });
        let Some(found) = found else { return Ok(None) };
        let mut all = self.watched.lock();
        // Another worker may have been faster.
        let watched = all.entry(resource.clone()).or_insert_with(|| {
            let api: Api<Meta> = Api::all_with(client, &found.api);
            let (objects, task) = Informer::new(api, InformerOptions::default());
            let by_namespace =
                objects.index(|object: &Meta| vec![object.metadata.namespace.clone().unwrap_or_default()]);
            let quotas = self.quotas.clone();
            objects.on_change(move |change| {
                if !matches!(change, Change::Updated(..)) {
                    quotas.recount(change.object().metadata.namespace.as_deref().unwrap_or_default());
                }
            });
            self.context.spawn(task.run(self.context.shutdown()));
            Watched {
                objects,
                by_namespace,
            }
        });
        Ok(Some(watched.clone()))
    }
}
