//! resourcequota-controller: counts what each quota of a namespace limits and writes `status.hard` and `status.used`.
//!
//! Admission charges a quota before an object is stored; this controller gives back what is freed and what was charged
//! for a create that failed. Pods, Services and claims are summed by [`keelson_api::quota`] from the shared caches; of
//! everything else only the number counts, and [`counts`] watches the metadata of those resources that a quota names.

mod counts;
mod sync;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use keelson_client::{Change, Index, Informer, NamespacedName, WorkQueue};
use serde_json::Value;

use crate::Context;
use crate::shared::Object;
use crate::shared::owner::namespace;

/// `--concurrent-resource-quota-syncs`.
const WORKERS: usize = 5;

/// The quotas by namespace, and the queue of those to count anew.
#[derive(Clone)]
struct Quotas {
    by_namespace: Index<String, ResourceQuota>,
    queue: WorkQueue<NamespacedName>,
}

impl Quotas {
    /// Queues the quotas of a namespace.
    fn recount(&self, namespace: &str) {
        for quota in self.by_namespace.get(namespace) {
            self.queue.add(NamespacedName::of(quota.as_ref()));
        }
    }

    /// Queues the quotas of an object's namespace when it comes, goes, or uses something else than before.
    fn follow<K: Object>(&self, objects: &Informer<K>, resource: &'static str) {
        let quotas = self.clone();
        objects.on_change(move |change| {
            let namespace = namespace(change.object().as_ref());
            if quotas.by_namespace.count(namespace) == 0 {
                return;
            }
            let usage = |object: &K| {
                let object = sync::value_of(object);
                let scoped = scoped_fields(&object);
                (keelson_api::quota::usage("", resource, &object), scoped)
            };
            let matters = match change {
                Change::Updated(old, new) => usage(old) != usage(new),
                Change::Added(_) | Change::Deleted(_) => true,
            };
            if matters {
                quotas.recount(namespace);
            }
        });
    }
}

/// The fields that can change and that decide about scopes.
fn scoped_fields(object: &Value) -> [Value; 2] {
    let spec = &object["spec"];
    [
        spec["activeDeadlineSeconds"].clone(),
        spec["volumeAttributesClassName"].clone(),
    ]
}

/// Starts the controller.
pub(crate) async fn start(context: Context) {
    let all = context.informer::<ResourceQuota>();
    let pods = context.informer::<Pod>();
    let services = context.informer::<Service>();
    let claims = context.informer::<PersistentVolumeClaim>();
    let quotas = Quotas {
        by_namespace: all.index(|quota: &ResourceQuota| vec![namespace(quota).to_owned()]),
        queue: WorkQueue::default(),
    };
    let sink = quotas.queue.clone();
    all.on_change(move |change| {
        // A change of what is used is this controller's or admission's, and both have counted. Whoever writes other limits
        // into the status than the spec has gets them back.
        let hard = |quota: &ResourceQuota| quota.spec.as_ref().and_then(|spec| spec.hard.clone());
        let shown = |quota: &ResourceQuota| quota.status.as_ref().and_then(|status| status.hard.clone());
        let matters = match change {
            Change::Updated(old, new) => hard(old) != hard(new) || hard(new) != shown(new),
            Change::Added(_) => true,
            Change::Deleted(_) => false,
        };
        if matters {
            sink.add(NamespacedName::of(change.object().as_ref()));
        }
    });
    quotas.follow(&pods, "pods");
    quotas.follow(&services, "services");
    quotas.follow(&claims, "persistentvolumeclaims");
    let syncer = Arc::new(sync::Syncer {
        client: context.client(),
        quotas: all.clone(),
        pods: pods.index(|pod: &Pod| vec![namespace(pod).to_owned()]),
        services: services.index(|service: &Service| vec![namespace(service).to_owned()]),
        claims: claims.index(|claim: &PersistentVolumeClaim| vec![namespace(claim).to_owned()]),
        counts: counts::Counts::new(context.clone(), quotas.clone()),
    });
    let ready = async {
        tokio::join!(all.synced(), pods.synced(), services.synced(), claims.synced());
    };
    context
        .work_after(ready, quotas.queue, WORKERS, syncer, |syncer, key| async move {
            syncer.sync(&key).await
        })
        .await;
}
