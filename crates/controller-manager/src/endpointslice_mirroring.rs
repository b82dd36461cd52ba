//! endpointslice-mirroring-controller: Endpoints that somebody keeps by hand for a service without a selector appear as
//! EndpointSlices, which is all that proxies read.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use keelson_client::{
    Change, EventRecorder, EventType, Informer, NamespacedName, Reconciled, WorkQueue, object_reference,
};

use crate::Context;
use crate::endpointslice::plan::{Common, Group, MANAGED_BY, SERVICE_NAME, TRIGGER_TIME, plan};
use crate::endpointslice::writer::Writer;
use crate::shared::ReconcileError;
use crate::shared::owner::{controller_reference, is_deleting, name, namespace};
use crate::shared::pod::{annotation, label};

/// `--mirroring-concurrent-service-endpoint-syncs`.
const WORKERS: usize = 5;
/// `--mirroring-max-endpoints-per-subset`.
const MAX: usize = 1000;
/// The value of the label that says whose slices these are.
const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Source of the events.
const COMPONENT: &str = "endpoint-slice-mirroring-controller";

struct Syncer {
    endpoints: Informer<Endpoints>,
    services: Informer<Service>,
    writer: Arc<Writer>,
    recorder: EventRecorder,
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    label(endpoints, SKIP) != Some("true") && annotation(endpoints, LEADER).is_none()
}

fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.selector.is_some())
}

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let endpoints = context.informer::<Endpoints>();
    let services = context.informer::<Service>();
    let slices = context.informer::<EndpointSlice>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let writer = Arc::new(Writer::new(context.client(), &slices, CONTROLLER));
    let syncer = Arc::new(Syncer {
        endpoints: endpoints.clone(),
        services: services.clone(),
        writer: writer.clone(),
        recorder: context.recorder(COMPONENT),
    });
    let sink = queue.clone();
    endpoints.on_change(move |change| {
        let before = matches!(change, Change::Updated(old, _) if is_mirrored(old));
        if before || is_mirrored(change.object()) {
            sink.add(NamespacedName::of(change.object().as_ref()));
        }
    });
    let sink = queue.clone();
    services.on_change(move |change| {
        let matters = match change {
            Change::Updated(old, new) => has_selector(old) != has_selector(new),
            Change::Added(service) | Change::Deleted(service) => !has_selector(service),
        };
        if matters {
            sink.add(NamespacedName::of(change.object().as_ref()));
        }
    });
    let sink = queue.clone();
    slices.on_change(move |change| {
        if let Some(key) = writer.observe(change) {
            sink.add(key);
        }
    });
    let ready = async {
        tokio::join!(endpoints.synced(), services.synced(), slices.synced());
    };
    context
        .work_after(ready, queue, WORKERS, syncer, |syncer, key| async move {
            syncer.sync(&key).await
        })
        .await;
}

impl Syncer {
    async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let Some(slices) = self.writer.slices(key) else {
            return Ok(Reconciled::Done);
        };
        let service = self.services.get(key).filter(|service| !has_selector(service));
        let endpoints = self
            .endpoints
            .get(key)
            .filter(|endpoints| service.is_some() && is_mirrored(endpoints));
        let Some(endpoints) = endpoints else {
            if !slices.is_empty() {
                let nothing = Common::default();
                self.writer
                    .write(key, plan(&slices, Vec::new(), &nothing))
                    .await?;
            }
            self.writer.forget(key);
            return Ok(Reconciled::Done);
        };
        let mirror = mirror(endpoints.subsets.as_deref().unwrap_or_default());
        self.report(&endpoints, &mirror);
        let mut plan = plan(&slices, mirror.groups, &common(&endpoints));
        if is_deleting(endpoints.as_ref()) {
            plan.create.clear();
        }
        self.writer.write(key, plan).await?;
        Ok(Reconciled::Done)
    }

    fn report(&self, endpoints: &Endpoints, mirror: &Mirror) {
        let reference = object_reference(endpoints);
        if mirror.invalid > 0 {
            let message = format!(
                "Skipped {} invalid IP addresses when mirroring to EndpointSlices",
                mirror.invalid
            );
            self.recorder
                .event(&reference, EventType::Warning, "InvalidIPAddress", message);
        }
        if mirror.skipped > mirror.invalid {
            let message = format!(
                "A max of {MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
                mirror.skipped
            );
            self.recorder.event(
                &reference,
                EventType::Warning,
                "TooManyAddressesToMirror",
                message,
            );
        }
    }
}

/// What slices are to hold.
#[derive(Debug, Default)]
struct Mirror {
    groups: Vec<Group>,
    invalid: usize,
    /// Those that are invalid, and those that are too many.
    skipped: usize,
}

fn mirror(subsets: &[EndpointSubset]) -> Mirror {
    let mut mirror = Mirror::default();
    for subset in subsets {
        let ports = ports(subset);
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let rest = subset
            .not_ready_addresses
            .iter()
            .flatten()
            .map(|address| (address, false));
        let mut taken = 0;
        for (address, ready) in ready.chain(rest) {
            let ip: Option<IpAddr> = address.ip.parse().ok();
            if taken >= MAX || ip.is_none() {
                mirror.skipped += 1;
                mirror.invalid += usize::from(taken < MAX);
                continue;
            }
            taken += 1;
            let family = if ip.is_some_and(|ip| ip.is_ipv6()) {
                "IPv6"
            } else {
                "IPv4"
            };
            let group = group(&mut mirror.groups, family, &ports);
            group.endpoints.push(endpoint(address, ip, ready));
        }
    }
    for group in &mut mirror.groups {
        // The same address ready and not ready: what comes first counts.
        let mut seen = HashSet::new();
        group
            .endpoints
            .retain(|endpoint| seen.insert(endpoint.addresses.clone()));
    }
    mirror
}

/// The group of this family and these ports, made where it is missing.
fn group<'a>(groups: &'a mut Vec<Group>, family: &str, ports: &[EndpointPort]) -> &'a mut Group {
    let is = |group: &Group| group.address_type == family && group.ports == ports;
    let at = groups.iter().position(is).unwrap_or_else(|| {
        groups.push(Group {
            address_type: family.to_owned(),
            ports: ports.to_vec(),
            endpoints: Vec::new(),
        });
        groups.len() - 1
    });
    &mut groups[at]
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: port.protocol.clone(),
        app_protocol: port.app_protocol.clone(),
    });
    ports.collect()
}

fn endpoint(address: &EndpointAddress, ip: Option<IpAddr>, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.map_or_else(|| address.ip.clone(), |ip| ip.to_string())],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn common(endpoints: &Endpoints) -> Common {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), name(endpoints).into());
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    let mut annotations: BTreeMap<_, _> = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| key != TRIGGER_TIME && key != LAST_APPLIED);
    Common {
        namespace: namespace(endpoints).to_owned(),
        name: name(endpoints).to_owned(),
        labels,
        annotations,
        only_these_annotations: true,
        owner: controller_reference(endpoints),
        max: MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(subsets: Value, expected: &[&str], (invalid, skipped): (usize, usize)) {
        let subsets: Vec<EndpointSubset> = serde_json::from_value(subsets).unwrap();
        let found = mirror(&subsets);
        let shown = |group: &Group| {
            let ports: Vec<_> = group
                .ports
                .iter()
                .map(|port| port.port.unwrap().to_string())
                .collect();
            let endpoints = group.endpoints.iter().map(|endpoint| {
                let ready = endpoint.conditions.as_ref().unwrap().ready == Some(true);
                format!("{}{}", endpoint.addresses[0], if ready { "" } else { "!" })
            });
            format!(
                "{} {}: {}",
                group.address_type,
                ports.join(","),
                endpoints.collect::<Vec<_>>().join(" ")
            )
        };
        assert_eq!(found.groups.iter().map(shown).collect::<Vec<_>>(), expected);
        assert_eq!((found.invalid, found.skipped), (invalid, skipped));
    }

    #[test]
    fn subsets_become_groups() {
        let port = |port: i32| json!([{"port": port, "protocol": "TCP"}]);
        let ip = |ip: &str| json!({"ip": ip});
        check(json!([]), &[], (0, 0));
        check(
            json!([{"addresses": [ip("10.0.0.1"), ip("fd00::1")], "notReadyAddresses": [ip("10.0.0.2")], "ports": port(80)},
                   {"addresses": [ip("10.0.0.3")], "ports": port(81)}, {"addresses": [ip("10.0.0.4")], "ports": port(80)}]),
            &[
                "IPv4 80: 10.0.0.1 10.0.0.2! 10.0.0.4",
                "IPv6 80: fd00::1",
                "IPv4 81: 10.0.0.3",
            ],
            (0, 0),
        );
        check(
            json!([{"addresses": [ip("here"), ip("10.0.0.1"), ip("10.0.0.1")]}]),
            &["IPv4 : 10.0.0.1"],
            (1, 1),
        );
        let many: Vec<Value> = (0..1003)
            .map(|i| ip(&format!("10.0.{}.{}", i / 250, i % 250)))
            .collect();
        let found = mirror(&serde_json::from_value::<Vec<_>>(json!([{"addresses": many}])).unwrap());
        assert_eq!(
            (found.groups[0].endpoints.len(), found.invalid, found.skipped),
            (MAX, 0, 3)
        );
    }
}
