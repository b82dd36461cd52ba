//! node-lifecycle-controller and taint-eviction-controller: nodes whose kubelet falls silent become Unknown and tainted,
//! and pods that do not tolerate a taint go.
//!
//! A kubelet is heard through its Lease and the heartbeats of its status. Each sign of life moves a deadline; the node is
//! looked at when the deadline has passed, not from time to time. [`health`] is the pure part, [`evict`] the second
//! controller.

mod evict;
mod health;
mod sync;

pub(crate) use evict::start as start_eviction;

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use keelson_client::{Change, NamespacedName, WorkQueue};

use crate::Context;
use crate::shared::pod::node_name;

const WORKERS: usize = 8;
/// Where the nodes' leases are.
const LEASES: &str = "kube-node-lease";

/// Runs the node lifecycle controller.
pub(crate) async fn start(context: Context) {
    let nodes = context.informer::<Node>();
    let pods = context.informer::<Pod>();
    let leases = context.informer::<Lease>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let pods_by_node = pods.index(|pod: &Pod| vec![node_name(pod).to_owned()]);
    let syncer = Arc::new(sync::Syncer::new(
        &context,
        nodes.clone(),
        pods_by_node,
        queue.clone(),
    ));
    {
        let syncer = syncer.clone();
        leases.on_change(move |change| {
            let lease = change.object().as_ref();
            if lease.metadata.namespace.as_deref() != Some(LEASES) || matches!(change, Change::Deleted(_)) {
                return;
            }
            let renewed = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
            if !matches!(change, Change::Updated(old, new) if renewed(old) == renewed(new)) {
                syncer.heard(lease.metadata.name.as_deref().unwrap_or_default());
            }
        });
    }
    {
        let (syncer, queue) = (syncer.clone(), queue.clone());
        nodes.on_change(move |change| {
            syncer.observe(change);
            queue.add(NamespacedName::of(change.object().as_ref()));
        });
    }
    let ready = async {
        tokio::join!(nodes.synced(), pods.synced(), leases.synced());
    };
    context
        .work_after(ready, queue, WORKERS, syncer, |syncer, key| async move {
            syncer.sync(&key).await
        })
        .await;
}
