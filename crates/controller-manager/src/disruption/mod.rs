//! disruption-controller: how many pods of a PodDisruptionBudget may be evicted now.
//!
//! [`budget`] is the arithmetic; the expected number of pods comes from the scale of whatever controls them.

mod budget;
mod scale;
mod sync;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use keelson_client::{Change, NamespacedName, WorkQueue};

use crate::Context;
use crate::shared::owner::{is_deleting, namespace};
use crate::shared::pod::is_ready;

const WORKERS: usize = 1;

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let budgets = context.informer::<PodDisruptionBudget>();
    let pods = context.informer::<Pod>();
    let scales = scale::Scales {
        client: context.client(),
        replica_sets: context.informer::<ReplicaSet>(),
        deployments: context.informer::<Deployment>(),
        stateful_sets: context.informer::<StatefulSet>(),
        replication_controllers: context.informer::<ReplicationController>(),
    };
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let by_namespace = budgets.index(|budget: &PodDisruptionBudget| vec![namespace(budget).to_owned()]);
    let syncer = Arc::new(sync::Syncer {
        client: context.client(),
        budgets: budgets.clone(),
        pods: pods.index(|pod: &Pod| vec![namespace(pod).to_owned()]),
        recorder: context.recorder("controllermanager"),
        scales,
    });
    {
        let queue = queue.clone();
        budgets.on_change(move |change| queue.add(NamespacedName::of(change.object().as_ref())));
    }
    {
        let (queue, by_namespace) = (queue.clone(), by_namespace.clone());
        pods.on_change(move |change| {
            if let Change::Updated(old, new) = change
                && is_ready(old) == is_ready(new)
                && is_deleting(old.as_ref()) == is_deleting(new.as_ref())
                && old.metadata.labels == new.metadata.labels
            {
                return;
            }
            for budget in by_namespace.get(namespace(change.object().as_ref())) {
                queue.add(NamespacedName::of(budget.as_ref()));
            }
        });
    }
    syncer.scales.on_change(&queue, &by_namespace);
    let ready = async {
        tokio::join!(budgets.synced(), pods.synced(), syncer.scales.synced());
    };
    if !context.before_shutdown(ready).await {
        return;
    }
    context
        .work(queue, WORKERS, syncer, |syncer, key| async move {
            syncer.sync(&key).await
        })
        .await;
}
