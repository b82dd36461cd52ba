//! The node's heartbeat: a Lease in `kube-node-lease`, renewed four times within its duration.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::time::sleep;

use crate::kubelet::Kubelet;

const NAMESPACE: &str = "kube-node-lease";
/// Waits between attempts while a lease cannot be written.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(7));

/// Renews until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>) {
    let api = Api::<Lease>::namespaced(kubelet.client.clone(), NAMESPACE);
    let period = kubelet.config.node_lease_duration / 4;
    let mut known: Option<Lease> = None;
    let mut retry = RETRY.0;
    loop {
        let wait = tokio::select! {
            () = kubelet.shutdown.cancelled() => return,
            result = renew(&kubelet, &api, known.take()) => match result {
                Ok(lease) => {
                    known = Some(lease);
                    retry = RETRY.0;
                    period
                }
                Err(error) => {
                    tracing::debug!(%error, "node lease not renewed; trying again");
                    let wait = retry;
                    retry = (retry * 2).min(RETRY.1);
                    wait
                }
            },
        };
        tokio::select! {
            () = kubelet.shutdown.cancelled() => return,
            () = sleep(wait) => {}
        }
    }
}

async fn renew(kubelet: &Kubelet, api: &Api<Lease>, known: Option<Lease>) -> Result<Lease, kube::Error> {
    let name = &kubelet.config.node_name;
    let lease = match known {
        Some(lease) => Some(lease),
        None => api.get_opt(name).await?,
    };
    let new = make(kubelet, lease.as_ref());
    match lease {
        Some(_) => api.replace(name, &PostParams::default(), &new).await,
        None => api.create(&PostParams::default(), &new).await,
    }
}

fn make(kubelet: &Kubelet, old: Option<&Lease>) -> Lease {
    let name = kubelet.config.node_name.clone();
    let mut lease = old.cloned().unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(NAMESPACE.into()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    lease.metadata.managed_fields = None;
    // Goes with its node. The node may be registered only after the first lease.
    if lease.metadata.owner_references.as_ref().is_none_or(Vec::is_empty)
        && let Some(uid) = kubelet.node().and_then(|node| node.metadata.uid.clone())
    {
        lease.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.clone(),
            uid,
            controller: None,
            block_owner_deletion: None,
        }]);
    }
    let seconds = i32::try_from(kubelet.config.node_lease_duration.as_secs()).unwrap_or(i32::MAX);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(name),
        lease_duration_seconds: Some(seconds),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    });
    lease
}
