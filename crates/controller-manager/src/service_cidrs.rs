//! service-cidr-controller: a ServiceCIDR says that it is ready, and outlives its deletion while an address of it is in use
//! that no other ServiceCIDR contains.
//!
//! In use is what IPAddress objects of the allocator name, and every cluster IP of a Service.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use keelson_client::{
    Change, EventRecorder, EventType, Informer, NamespacedName, Reconciled, WorkQueue, object_reference,
};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::Context;
use crate::shared::owner::{is_deleting, name};
use crate::shared::pod::label;
use crate::shared::{ReconcileError, api_error};

const WORKERS: usize = 5;
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
/// So long after its deletion allocators may not have heard of it.
const GRACE: Duration = Duration::from_secs(10);
const READY: &str = "Kubernetes Service CIDR is ready";
const BLOCKED: &str =
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";

struct Syncer {
    client: Client,
    recorder: EventRecorder,
    manager: &'static str,
    cidrs: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
    services: Informer<Service>,
}

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let cidrs = context.informer::<ServiceCIDR>();
    let addresses = context.informer::<IPAddress>();
    let services = context.informer::<Service>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let (sink, all) = (queue.clone(), cidrs.clone());
    cidrs.on_change(move |change| {
        sink.add(NamespacedName::of(change.object().as_ref()));
        // One that comes or goes decides whether others may go.
        if !matches!(change, Change::Updated(..)) {
            requeue_deleted(&all, &sink);
        }
    });
    let (sink, all) = (queue.clone(), cidrs.clone());
    addresses.on_change(move |change| {
        if matches!(change, Change::Deleted(_)) {
            requeue_deleted(&all, &sink);
        }
    });
    let (sink, all) = (queue.clone(), cidrs.clone());
    services.on_change(move |change| {
        if matches!(change, Change::Deleted(_)) {
            requeue_deleted(&all, &sink);
        }
    });
    let syncer = Arc::new(Syncer {
        client: context.client(),
        recorder: context.recorder(context.name()),
        manager: context.name(),
        cidrs: cidrs.clone(),
        addresses: addresses.clone(),
        services: services.clone(),
    });
    let ready = async {
        tokio::join!(cidrs.synced(), addresses.synced(), services.synced());
    };
    context
        .work_after(ready, queue, WORKERS, syncer, |syncer, key| async move {
            syncer.sync(&key).await
        })
        .await;
}

/// Queues those that wait for their end.
fn requeue_deleted(cidrs: &Informer<ServiceCIDR>, queue: &WorkQueue<NamespacedName>) {
    for cidr in cidrs.list_where(is_deleting) {
        queue.add(NamespacedName::of(cidr.as_ref()));
    }
}

/// The networks of a ServiceCIDR.
fn networks(cidr: &ServiceCIDR) -> Vec<IpNet> {
    let texts = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// Whether nothing is lost when `cidr` goes: others contain it, or all of `used` that it contains.
fn can_go(cidr: &[IpNet], others: &[IpNet], used: &BTreeSet<IpAddr>) -> bool {
    let contained = |network: &IpNet| others.iter().any(|other| other.contains(network));
    if cidr.iter().all(contained) {
        return true;
    }
    let orphan = |address: &&IpAddr| {
        cidr.iter().any(|network| network.contains(*address))
            && !others.iter().any(|network| network.contains(*address))
    };
    !used.iter().any(|address| orphan(&address))
}

impl Syncer {
    async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let Some(cidr) = self.cidrs.get(key) else {
            return Ok(Reconciled::Done);
        };
        if !is_deleting(cidr.as_ref()) {
            if !has_finalizer(&cidr) {
                self.patch(key, json!({"finalizers": [FINALIZER]})).await?;
            }
            let ready = self.set_ready(&cidr, "True", None, READY).await;
            if ready.is_err() {
                self.recorder.event(
                    &object_reference(cidr.as_ref()),
                    EventType::Warning,
                    "KubernetesServiceCIDRError",
                    "The ServiceCIDR Status can not be set to Ready=True".to_owned(),
                );
            }
            return ready;
        }
        if !has_finalizer(&cidr) {
            return Ok(Reconciled::Done);
        }
        let others: Vec<IpNet> = self
            .cidrs
            .list_where(|other| name(other) != name(cidr.as_ref()))
            .iter()
            .flat_map(|other| networks(other))
            .collect();
        if !can_go(&networks(&cidr), &others, &self.used()) {
            return self.set_ready(&cidr, "False", Some("Terminating"), BLOCKED).await;
        }
        let since = cidr.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        let passed = since.and_then(|since| Duration::try_from(Timestamp::now().duration_since(since)).ok());
        let left = GRACE.saturating_sub(passed.unwrap_or_default());
        if !left.is_zero() {
            return Ok(Reconciled::After(left));
        }
        self.patch(key, json!({"$deleteFromPrimitiveList/finalizers": [FINALIZER]}))
            .await
    }

    /// Addresses that services have.
    fn used(&self) -> BTreeSet<IpAddr> {
        let allocated = self.addresses.list();
        let allocated = allocated
            .iter()
            .filter(|address| label(address.as_ref(), MANAGED_BY) == Some(ALLOCATOR))
            .filter_map(|address| name(address.as_ref()).parse().ok());
        let mut used: BTreeSet<IpAddr> = allocated.collect();
        for service in self.services.list() {
            let spec = service.spec.as_ref();
            let addresses = spec
                .and_then(|spec| spec.cluster_ips.as_ref())
                .into_iter()
                .flatten();
            used.extend(addresses.filter_map(|address| address.parse::<IpAddr>().ok()));
        }
        used
    }

    async fn patch(&self, key: &NamespacedName, metadata: Value) -> Result<Reconciled, ReconcileError> {
        let api: Api<ServiceCIDR> = Api::all(self.client.clone());
        let patch = Patch::Strategic(json!({ "metadata": metadata }));
        api_error::ignore_not_found(api.patch(&key.name, &PatchParams::default(), &patch).await)?;
        Ok(Reconciled::Done)
    }

    async fn set_ready(
        &self,
        cidr: &ServiceCIDR,
        status: &str,
        reason: Option<&str>,
        message: &str,
    ) -> Result<Reconciled, ReconcileError> {
        let conditions = cidr
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let same = |found: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            found.type_ == "Ready" && found.status == status && found.message == message
        };
        if conditions.into_iter().any(same) {
            return Ok(Reconciled::Done);
        }
        let now = Timestamp::now();
        let mut condition = json!({"type": "Ready", "status": status, "message": message,
                                   "lastTransitionTime": format!("{now:.0}")});
        if let Some(reason) = reason {
            condition["reason"] = json!(reason);
        }
        let patch = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                           "metadata": {"name": name(cidr)}, "status": {"conditions": [condition]}});
        let api: Api<ServiceCIDR> = Api::all(self.client.clone());
        let params = PatchParams::apply(self.manager).force();
        let written = api.patch_status(name(cidr), &params, &Patch::Apply(patch)).await;
        api_error::ignore_not_found(written)?;
        Ok(Reconciled::Done)
    }
}

fn has_finalizer(cidr: &ServiceCIDR) -> bool {
    let mut finalizers = cidr.metadata.finalizers.iter().flatten();
    finalizers.any(|finalizer| finalizer == FINALIZER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_go() {
        let check = |cidr: &str, others: &str, used: &str, expected: bool| {
            let networks = |text: &str| -> Vec<IpNet> {
                text.split_whitespace()
                    .map(|part| part.parse().unwrap())
                    .collect()
            };
            let used = used
                .split_whitespace()
                .map(|part| part.parse().unwrap())
                .collect();
            let found = can_go(&networks(cidr), &networks(others), &used);
            assert_eq!(found, expected, "{cidr} | {others} | {used:?}");
        };
        check("10.0.0.0/24", "", "", true);
        check("10.0.0.0/24", "", "10.0.1.1", true);
        check("10.0.0.0/24", "", "10.0.0.1", false);
        check("10.0.0.0/24", "10.0.0.0/16", "10.0.0.1", true);
        check("10.0.0.0/24", "10.0.0.0/24", "10.0.0.1", true);
        check("10.0.0.0/24", "10.0.0.0/28", "10.0.0.1", true);
        check("10.0.0.0/24", "10.0.0.0/28", "10.0.0.99", false);
        check("10.0.0.0/24 fd00::/112", "10.0.0.0/16", "fd00::1", false);
    }
}
