//! Keeps the policies of a node in step with the API's objects.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use keelson_client::{Informer, InformerOptions, RateLimit, Reconciled, WorkQueue, run_workers};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::snapshot::Snapshot;
use crate::pod_network::PodNetwork;

/// The only key: whatever changed, one look at everything; changes that come meanwhile are one more look.
const KEY: &str = "all";

/// Follows pods, namespaces and policies until `shutdown`. The rules stay when it returns.
pub async fn run(network: Arc<PodNetwork>, client: Client, shutdown: CancellationToken) {
    let tracker = TaskTracker::new();
    let options = InformerOptions::default;
    let pods = Informer::<Pod>::spawn(Api::all(client.clone()), options(), &tracker, &shutdown);
    let namespaces = Informer::<Namespace>::spawn(Api::all(client.clone()), options(), &tracker, &shutdown);
    let policies = Informer::<NetworkPolicy>::spawn(Api::all(client), options(), &tracker, &shutdown);
    let queue: WorkQueue<&'static str> = WorkQueue::new(RateLimit::default());
    let add = || {
        let queue = queue.clone();
        move || queue.add(KEY)
    };
    let (on_pod, on_namespace, on_policy) = (add(), add(), add());
    pods.on_change(move |_| on_pod());
    namespaces.on_change(move |_| on_namespace());
    policies.on_change(move |_| on_policy());
    let synced = async {
        pods.synced().await;
        namespaces.synced().await;
        policies.synced().await;
    };
    tokio::select! {
        () = synced => {}
        () = shutdown.cancelled() => {}
    }
    queue.add(KEY);
    run_workers("network-policy", queue, 1, shutdown, move |_| {
        let node = network.config().node_name.clone();
        let snapshot = Snapshot::of(&node, &pods.list(), &namespaces.list(), policies.list());
        let network = network.clone();
        async move {
            let work = move || network.set_policies(snapshot);
            super::super::run::blocking(work).await.map(|()| Reconciled::Done)
        }
    })
    .await;
    tracker.close();
    tracker.wait().await;
}
