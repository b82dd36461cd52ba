//! Deployment: a ReplicaSet per revision of the template, and the way from one to the next.
//!
//! The decisions (how far to scale what) are pure: [`rolling`] for the steps of a rolling update, [`proportional`] for a
//! change of size in the midst of one, [`status`] for counts and conditions. [`sync`] carries them out; a stale cache cannot
//! do harm: names of ReplicaSets are functions of the template, and updates carry the version that they were decided on.

mod proportional;
mod revision;
mod rolling;
mod rollout;
mod spec;
mod status;
mod sync;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use keelson_client::{Change, NamespacedName, WorkQueue};

use crate::Context;
use crate::shared::owner::{controller_of, namespace, uid};
use crate::shared::selector;
use crate::shared::watch_owned::{watch_owned, watch_self};
use sync::Syncer;

/// `--concurrent-deployment-syncs`.
const WORKERS: usize = 5;

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let deployments = context.informer::<Deployment>();
    let sets = context.informer::<ReplicaSet>();
    let pods = context.informer::<Pod>();
    let queue = WorkQueue::default();
    let syncer = Arc::new(Syncer {
        client: context.client(),
        recorder: context.recorder("deployment-controller"),
        deployments: deployments.clone(),
        sets_by_owner: context.by_owner::<ReplicaSet>(),
        pods_by_owner: context.by_owner::<Pod>(),
    });
    watch_owned(&sets, &deployments, &queue, None, |deployment: &Deployment| {
        deployment
            .spec
            .as_ref()
            .and_then(|spec| selector::parse(&spec.selector).ok())
    });
    watch_self(&deployments, &queue, |_| {});
    // Recreate waits for the last old pod to be gone.
    {
        let (queue, sets, deployments) = (queue.clone(), sets.clone(), deployments.clone());
        pods.on_change(move |change| {
            let Change::Deleted(pod) = change else { return };
            let Some(owner) = controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet") else {
                return;
            };
            let namespace = namespace(pod.as_ref());
            let Some(set) = sets.get(&NamespacedName::new(namespace, &owner.name)) else {
                return;
            };
            let Some(owner) = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment") else {
                return;
            };
            let key = NamespacedName::new(namespace, &owner.name);
            if deployments
                .get(&key)
                .is_some_and(|found| uid(found.as_ref()) == owner.uid)
            {
                queue.add(key);
            }
        });
    }
    let synced = async {
        tokio::join!(deployments.synced(), sets.synced(), pods.synced());
    };
    context
        .work_after(synced, queue, WORKERS, syncer, |syncer, key| async move {
            syncer.sync(&key).await
        })
        .await;
}
