//! endpointslice-controller: for every service with a selector, slices of at most 100 endpoints.
//!
//! [`build`] says what endpoints there are, [`plan`] how to get there with few writes: a pod that changes is one slice
//! written. [`writer`] writes, and knows what of it the cache has not shown yet, so that nothing is made twice.

pub(crate) mod build;
pub(crate) mod plan;
pub(crate) mod service_of_pod;
mod sync;
pub(crate) mod writer;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_client::{Change, NamespacedName, WorkQueue};

use crate::Context;
use crate::shared::pod::label;

/// `--concurrent-service-endpoint-syncs`.
const WORKERS: usize = 5;
/// The value of the label that says whose slices these are.
const CONTROLLER: &str = "endpointslice-controller.k8s.io";

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let services = context.informer::<Service>();
    let pods = context.informer::<Pod>();
    let nodes = context.informer::<Node>();
    let slices = context.informer::<EndpointSlice>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let pods_by_namespace = pods.index(|pod: &Pod| vec![pod.metadata.namespace.clone().unwrap_or_default()]);
    let writer = Arc::new(writer::Writer::new(context.client(), &slices, CONTROLLER));
    let syncer = Arc::new(sync::Syncer {
        services: services.clone(),
        pods_by_namespace,
        nodes: nodes.clone(),
        writer: writer.clone(),
        recorder: context.recorder(context.name()),
        triggers: sync::Triggers::default(),
    });
    let of_pod = Arc::new(service_of_pod::ServicesOfPods::new(&services));
    {
        let (queue, of_pod) = (queue.clone(), of_pod.clone());
        pods.on_change(move |change| of_pod.affected(change).into_iter().for_each(|key| queue.add(key)));
    }
    {
        let queue = queue.clone();
        services.on_change(move |change| queue.add(NamespacedName::of(change.object().as_ref())));
    }
    {
        let (queue, writer) = (queue.clone(), writer.clone());
        slices.on_change(move |change| {
            if let Some(key) = writer.observe(change) {
                queue.add(key);
            }
        });
    }
    {
        let (queue, of_pod, pods) = (queue.clone(), of_pod.clone(), pods.clone());
        let by_node = pods.index(|pod: &Pod| vec![crate::shared::pod::node_name(pod).to_owned()]);
        nodes.on_change(move |change| {
            let zone = |node: &Node| label(node, "topology.kubernetes.io/zone").map(str::to_owned);
            let matters = match change {
                Change::Updated(old, new) => zone(old) != zone(new),
                Change::Added(_) | Change::Deleted(_) => true,
            };
            let name = change.object().metadata.name.clone().unwrap_or_default();
            if matters {
                for pod in by_node.get(&name) {
                    of_pod.of(&pod).into_iter().for_each(|key| queue.add(key));
                }
            }
        });
    }
    let ready = async {
        tokio::join!(services.synced(), pods.synced(), nodes.synced(), slices.synced());
    };
    context
        .work_after(ready, queue, WORKERS, syncer, |syncer, key| async move {
            syncer.sync(&key).await
        })
        .await;
}
