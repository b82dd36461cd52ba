//! ReplicaSet and ReplicationController: as many pods of a template as asked for. One core serves both kinds.
//!
//! Pods are created in growing batches and deleted by upstream's ranking; expectations keep a lagging cache from making
//! either happen twice.

mod kind;
mod status;
mod sync;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use keelson_client::WorkQueue;

use crate::Context;
use crate::shared::expectations::Expectations;
use crate::shared::pod_control::PodControl;
use crate::shared::watch_owned::{watch_owned, watch_self};
use kind::Replicated;
use sync::Syncer;

/// `--concurrent-replicaset-syncs` and `--concurrent-rc-syncs`.
const WORKERS: usize = 5;

/// Runs the ReplicaSet controller.
pub(crate) async fn start(context: Context) {
    start_kind::<ReplicaSet>(context, "replicaset-controller").await;
}

/// Runs the ReplicationController controller.
pub(crate) async fn start_replication(context: Context) {
    start_kind::<ReplicationController>(context, "replication-controller").await;
}

async fn start_kind<O: Replicated>(context: Context, component: &str) {
    let sets = context.informer::<O>();
    let pods = context.informer::<Pod>();
    let queue = WorkQueue::default();
    let expectations = Arc::new(Expectations::default());
    let syncer = Arc::new(Syncer {
        pods: PodControl::new(context.client(), context.recorder(component)),
        sets: sets.clone(),
        sets_by_owner: context.by_owner::<O>(),
        pods_by_owner: context.by_owner::<Pod>(),
        expectations: expectations.clone(),
    });
    watch_owned(&pods, &sets, &queue, Some(expectations.clone()), |set: &O| {
        set.selector().ok()
    });
    watch_self(&sets, &queue, move |uid| expectations.forget(uid));
    let synced = async {
        tokio::join!(sets.synced(), pods.synced());
    };
    context
        .work_after(synced, queue, WORKERS, syncer, |syncer, key| async move {
            syncer.sync(&key).await
        })
        .await;
}
