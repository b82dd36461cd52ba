//! Keeps the pod network in step with Node objects.

use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use keelson_client::{
    Informer, InformerOptions, NamespacedName, RateLimit, Reconciled, WorkQueue, run_workers,
};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use crate::config::NodeInfo;
use crate::error::Error;
use crate::pod_network::PodNetwork;
use crate::policy;

impl NodeInfo {
    /// What a Node object says: its `InternalIP` addresses and pod ranges. Values that do not parse are left out.
    pub fn of(node: &Node) -> Self {
        let addresses = node
            .status
            .iter()
            .flat_map(|s| s.addresses.iter().flatten())
            .filter(|a| a.type_ == "InternalIP")
            .filter_map(|a| a.address.parse().ok())
            .collect();
        let spec = node.spec.as_ref();
        let mut pod_cidrs: Vec<IpNet> = spec
            .iter()
            .flat_map(|s| s.pod_cidrs.iter().flatten())
            .filter_map(|c| c.parse().ok())
            .collect();
        if pod_cidrs.is_empty() {
            pod_cidrs.extend(
                spec.and_then(|s| s.pod_cidr.as_ref())
                    .and_then(|c| c.parse::<IpNet>().ok()),
            );
        }
        NodeInfo { addresses, pod_cidrs }
    }
}

/// Follows Node objects until `shutdown`: configures this node once it has a pod range, and the overlay to the others; beside it,
/// network policies. What the kernel holds stays when it returns, so that pods keep their network while keelson restarts.
pub async fn run(network: Arc<PodNetwork>, client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    let policies = tokio::spawn(policy::run(network.clone(), client.clone(), shutdown.clone()));
    let (nodes, task) = Informer::<Node>::new(Api::all(client), InformerOptions::default());
    let queue: WorkQueue<NamespacedName> = WorkQueue::new(RateLimit::default());
    let handler_queue = queue.clone();
    nodes.on_change(move |change| handler_queue.add(NamespacedName::of(change.object().as_ref())));
    let informer = tokio::spawn(task.run(shutdown.clone()));
    tokio::select! {
        () = nodes.synced() => {}
        () = shutdown.cancelled() => {}
    }
    for node in nodes.list() {
        let key = NamespacedName::of(node.as_ref());
        if let Err(error) = reconcile(network.clone(), key.clone(), Some(node)).await {
            tracing::warn!(node = %key, %error, "programming the pod network failed; trying again");
            queue.add_rate_limited(key);
        }
    }
    if !shutdown.is_cancelled() {
        let stale = network.clone();
        blocking(move || stale.remove_stale_peers()).await?;
    }
    run_workers("pod-network", queue, 1, shutdown, move |key: NamespacedName| {
        let (network, nodes) = (network.clone(), nodes.clone());
        async move {
            let node = nodes.get(&key);
            reconcile(network, key, node).await.map(|()| Reconciled::Done)
        }
    })
    .await;
    for task in [informer, policies] {
        task.await.map_err(|source| Error::Namespace {
            path: "worker task".into(),
            source: std::io::Error::other(source),
        })?;
    }
    Ok(())
}

async fn reconcile(
    network: Arc<PodNetwork>,
    key: NamespacedName,
    node: Option<Arc<Node>>,
) -> Result<(), Error> {
    let info = node.as_deref().map(NodeInfo::of);
    blocking(move || {
        if *key.name != *network.config().node_name {
            return network.set_peer(&key.name, info);
        }
        match info {
            // A node without a range waits for the next change of its object.
            Some(info) if !info.pod_cidrs.is_empty() => network.configure(&info),
            _ => Ok(()),
        }
    })
    .await
}

pub(crate) async fn blocking(f: impl FnOnce() -> Result<(), Error> + Send + 'static) -> Result<(), Error> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(e) => Err(Error::Namespace {
            path: "worker thread".into(),
            source: std::io::Error::other(e),
        }),
    }
}
