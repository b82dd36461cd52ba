//! The cloud node controller: gives nodes that wait for a provider their addresses and identity.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use keelson_client::{Informer, NamespacedName, Reconciled, WorkQueue, run_workers};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{Provider, ProviderError};

/// On nodes whose kubelet runs with an external provider, until this controller has seen them.
const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot look up the instance: {0}")]
    Provider(#[from] ProviderError),
    #[error("cannot update the Node: {0}")]
    Api(#[from] kube::Error),
}

/// Runs until `shutdown`.
pub(crate) async fn run(
    provider: Arc<dyn Provider>,
    client: Client,
    nodes: Informer<Node>,
    shutdown: CancellationToken,
) {
    let queue = WorkQueue::default();
    let sink = queue.clone();
    nodes.on_change(move |change| {
        if is_uninitialized(change.object()) {
            sink.add(NamespacedName::of(change.object().as_ref()));
        }
    });
    run_workers(
        "cloud-node-controller",
        queue,
        1,
        shutdown,
        move |key: NamespacedName| {
            let (provider, nodes) = (provider.clone(), nodes.clone());
            let api = Api::<Node>::all(client.clone());
            async move {
                match nodes.get(&key) {
                    Some(node) if is_uninitialized(&node) => initialize(provider.as_ref(), &api, &node).await,
                    _ => Ok(()),
                }
                .map(|()| Reconciled::Done)
            }
        },
    )
    .await;
}

fn is_uninitialized(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.is_some_and(|taints| taints.iter().any(|taint| taint.key == UNINITIALIZED))
}

async fn initialize(provider: &dyn Provider, api: &Api<Node>, node: &Node) -> Result<(), Error> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    // The machine is gone: the node lifecycle controller's business.
    let Some(instance) = provider.instance(node).await? else {
        return Ok(());
    };
    let status = json!({"status": {"addresses": instance.addresses}});
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(status))
        .await?;
    let spec = node.spec.clone().unwrap_or_default();
    let taints: Vec<_> = spec
        .taints
        .into_iter()
        .flatten()
        .filter(|taint| taint.key != UNINITIALIZED)
        .collect();
    let mut labels = serde_json::Map::new();
    for (label, value) in [
        ("topology.kubernetes.io/zone", instance.zone),
        ("topology.kubernetes.io/region", instance.region),
    ] {
        labels.extend(value.map(|value| (label.to_owned(), value.into())));
    }
    let patch = json!({
        "metadata": {"labels": labels, "resourceVersion": node.metadata.resource_version},
        "spec": {"providerID": spec.provider_id.unwrap_or(instance.provider_id), "taints": taints},
    });
    // The status patch has changed the version; the next change of the Node brings us back here.
    match api
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error.into()),
    }
}
