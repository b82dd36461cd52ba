//! endpoints-controller: for every service with a selector, the Endpoints object that older clients read.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use keelson_client::{Index, Informer, NamespacedName, Reconciled, WorkQueue};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::Context;
use crate::endpointslice::build::{
    addresses, find_port, hostname, is_headless, is_selectorless, publishes_not_ready, target,
};
use crate::endpointslice::service_of_pod::{ServicesOfPods, selects};
use crate::shared::owner::{is_deleting, name, namespace};
use crate::shared::pod::{annotation, is_finished, is_ready, label, node_name};
use crate::shared::{ReconcileError, api_error};

/// `--concurrent-endpoint-syncs`.
const WORKERS: usize = 5;
/// Most addresses of the object; of more the rest is left out, and [`OVER_CAPACITY`] says so.
const MAX: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";

type PortKey = Vec<(String, i32, String, Option<String>)>;

struct Syncer {
    client: Client,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    pods: Index<String, Pod>,
}

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let services = context.informer::<Service>();
    let pods = context.informer::<Pod>();
    let endpoints = context.informer::<Endpoints>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let syncer = Arc::new(Syncer {
        client: context.client(),
        services: services.clone(),
        endpoints: endpoints.clone(),
        pods: pods.index(|pod: &Pod| vec![namespace(pod).to_owned()]),
    });
    let (sink, of_pod) = (queue.clone(), ServicesOfPods::new(&services));
    pods.on_change(move |change| of_pod.affected(change).into_iter().for_each(|key| sink.add(key)));
    let sink = queue.clone();
    services.on_change(move |change| sink.add(NamespacedName::of(change.object().as_ref())));
    let sink = queue.clone();
    endpoints.on_change(move |change| sink.add(NamespacedName::of(change.object().as_ref())));
    let ready = async {
        tokio::join!(services.synced(), pods.synced(), endpoints.synced());
    };
    context
        .work_after(ready, queue, WORKERS, syncer, |syncer, key| async move {
            syncer.sync(&key).await
        })
        .await;
}

/// The subsets of a service, in an order that depends on nothing but them; and whether some were left out.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let all_ready = publishes_not_ready(service);
    let family = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ip_families.as_ref()?.first().cloned());
    let family = family.unwrap_or_else(|| "IPv4".into());
    let mut by_ports: BTreeMap<PortKey, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    let mut count = 0;
    let mut pods: Vec<_> = pods
        .iter()
        .filter(|pod| !is_finished(pod) && (all_ready || !is_deleting(pod.as_ref())))
        .collect();
    // Ready ones come first: they are the last to be left out.
    pods.sort_by_key(|pod| (!is_ready(pod), addresses(pod, &family)));
    for pod in pods {
        let Some(ip) = addresses(pod, &family).into_iter().next() else {
            continue;
        };
        count += 1;
        if count > MAX {
            break;
        }
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let ports: PortKey = ports
            .filter_map(|port| {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
                Some((
                    port.name.clone().unwrap_or_default(),
                    find_port(pod, port)?,
                    protocol,
                    port.app_protocol.clone(),
                ))
            })
            .collect();
        if ports.is_empty() && !is_headless(service) {
            continue;
        }
        let address = EndpointAddress {
            ip,
            hostname: hostname(pod, service),
            node_name: Some(node_name(pod).to_owned()).filter(|node| !node.is_empty()),
            target_ref: Some(target(pod)),
        };
        let subset = by_ports.entry(ports).or_default();
        if all_ready || is_ready(pod) {
            subset.0.push(address)
        } else {
            subset.1.push(address)
        }
    }
    let some = |addresses: Vec<EndpointAddress>| (!addresses.is_empty()).then_some(addresses);
    let subsets = by_ports.into_iter().map(|(ports, (ready, not_ready))| {
        let ports: Vec<EndpointPort> = ports
            .into_iter()
            .map(|(name, port, protocol, app_protocol)| EndpointPort {
                name: (!name.is_empty()).then_some(name),
                port,
                protocol: Some(protocol),
                app_protocol,
            })
            .collect();
        EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(not_ready),
            ports: (!ports.is_empty()).then_some(ports),
        }
    });
    (subsets.collect(), count > MAX)
}

impl Syncer {
    async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        let existing = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            // Only what has been a service's: others keep their own Endpoints, e.g. for leader election.
            if existing.is_some_and(|found| label(found.as_ref(), MANAGED_BY) == Some(CONTROLLER)) {
                api_error::ignore_not_found(api.delete(&key.name, &DeleteParams::default()).await)?;
            }
            return Ok(Reconciled::Done);
        };
        if is_selectorless(&service) || is_deleting(service.as_ref()) {
            return Ok(Reconciled::Done);
        }
        let mut pods = self.pods.get(namespace(service.as_ref()));
        pods.retain(|pod| selects(&service, pod));
        let (subsets, is_truncated) = subsets(&service, &pods);
        let mut labels = service.metadata.labels.clone().unwrap_or_default();
        labels.remove(HEADLESS);
        if is_headless(&service) {
            labels.insert(HEADLESS.into(), String::new());
        }
        labels.insert(MANAGED_BY.into(), CONTROLLER.into());
        let capacity = is_truncated.then_some("truncated");
        if let Some(existing) = &existing
            && existing.subsets.clone().unwrap_or_default() == subsets
            && existing.metadata.labels.as_ref() == Some(&labels)
            && annotation(existing.as_ref(), OVER_CAPACITY) == capacity
        {
            return Ok(Reconciled::Done);
        }
        let mut metadata = existing
            .as_ref()
            .map_or_else(ObjectMeta::default, |found| found.metadata.clone());
        metadata.name = Some(name(service.as_ref()).to_owned());
        metadata.labels = Some(labels);
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.remove(OVER_CAPACITY);
        annotations.extend(capacity.map(|value| (OVER_CAPACITY.to_owned(), value.to_owned())));
        let wanted = Endpoints {
            metadata,
            subsets: Some(subsets),
        };
        let params = PostParams::default();
        let written = match existing {
            Some(_) => api.replace(&key.name, &params, &wanted).await,
            None => api.create(&params, &wanted).await,
        };
        match written {
            Ok(_) => Ok(Reconciled::Done),
            Err(error)
                if api_error::is_namespace_terminating(&error) || api_error::is_already_exists(&error) =>
            {
                Ok(Reconciled::Done)
            }
            Err(error) => Err(error.into()),
        }
    }
}
