//! DaemonSet: one pod on every node that it fits.
//!
//! Pods are bound to their node by a node affinity on `metadata.name` and scheduled by the scheduler; [`node`] decides where
//! pods belong, [`manage`] what is missing or too much, [`rolling`] which of the outdated pods go next.

mod backoff;
mod manage;
mod node;
mod rolling;
mod status;
mod sync;
mod template;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use keelson_client::{Change, NamespacedName, WorkQueue};

use crate::Context;
use crate::shared::expectations::Expectations;
use crate::shared::pod_control::PodControl;
use crate::shared::selector;
use crate::shared::watch_owned::{watch_owned, watch_self};
use sync::Syncer;

/// `--concurrent-daemonset-syncs`.
const WORKERS: usize = 2;

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let sets = context.informer::<DaemonSet>();
    let pods = context.informer::<Pod>();
    let nodes = context.informer::<Node>();
    let revisions = context.informer::<ControllerRevision>();
    let queue = WorkQueue::default();
    let expectations = Arc::new(Expectations::default());
    let syncer = Arc::new(Syncer {
        pods: PodControl::new(context.client(), context.recorder("daemonset-controller")),
        sets: sets.clone(),
        nodes: nodes.clone(),
        pods_by_owner: context.by_owner::<Pod>(),
        revisions_by_owner: context.by_owner::<ControllerRevision>(),
        expectations: expectations.clone(),
        backoff: backoff::FailedPods::default(),
    });
    let of = |set: &DaemonSet| {
        set.spec
            .as_ref()
            .and_then(|spec| selector::parse(&spec.selector).ok())
    };
    watch_owned(&pods, &sets, &queue, Some(expectations.clone()), of);
    watch_owned(&revisions, &sets, &queue, None, of);
    watch_self(&sets, &queue, move |uid| expectations.forget(uid));
    {
        let (queue, sets) = (queue.clone(), sets.clone());
        nodes.on_change(move |change| {
            // The status of a node changes all the time and does not matter here; conditions come as taints.
            let matters = match change {
                Change::Updated(old, new) => {
                    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
                    old.metadata.labels != new.metadata.labels || taints(old) != taints(new)
                }
                Change::Added(_) | Change::Deleted(_) => true,
            };
            if matters {
                sets.list()
                    .iter()
                    .for_each(|set| queue.add(NamespacedName::of(set.as_ref())));
            }
        });
    }
    let synced = async {
        tokio::join!(sets.synced(), pods.synced(), nodes.synced(), revisions.synced());
    };
    context
        .work_after(synced, queue, WORKERS, syncer, |syncer, key| async move {
            syncer.sync(&key).await
        })
        .await;
}
