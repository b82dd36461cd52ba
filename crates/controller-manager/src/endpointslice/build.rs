//! From a service and its pods to the endpoints that are wanted; pure.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::plan::Group;
use crate::shared::owner::{is_deleting, name, namespace, uid};
use crate::shared::pod::{is_finished, is_ready, label, node_name};

const ZONE: &str = "topology.kubernetes.io/zone";

/// Whether the service's endpoints are somebody else's business: it has no selector, or stands for a name.
pub(crate) fn is_selectorless(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return true };
    spec.selector.as_ref().is_none_or(|selector| selector.is_empty())
        || spec.type_.as_deref() == Some("ExternalName")
}

/// Whether the service has no address of its own.
pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// Whether not-ready addresses count as ready.
pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.publish_not_ready_addresses)
        == Some(true)
}

/// The pod's addresses of a family, `IPv4` or `IPv6`.
pub(crate) fn addresses(pod: &Pod, family: &str) -> Vec<String> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut all: Vec<&str> = listed.collect();
    if all.is_empty() {
        all.extend(status.pod_ip.as_deref());
    }
    let fits = |text: &&str| {
        text.parse::<IpAddr>()
            .is_ok_and(|ip| ip.is_ipv4() == (family == "IPv4"))
    };
    all.into_iter().filter(fits).map(str::to_owned).collect()
}

/// The number of a service's port on the pod; `None` if the pod has no port of that name.
pub(crate) fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(wanted)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let ports = spec
                .containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.iter().flatten());
            let mut fitting = ports.filter(|found| {
                found.name.as_deref() == Some(wanted)
                    && found.protocol.as_deref().unwrap_or("TCP") == protocol
            });
            fitting.next().map(|found| found.container_port)
        }
    }
}

/// The host name by which DNS knows the pod below a headless service.
pub(crate) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_ref().filter(|hostname| !hostname.is_empty())?;
    let below = spec.subdomain.as_deref() == Some(name(service)) && namespace(pod) == namespace(service);
    below.then(|| hostname.clone())
}

/// The reference to a pod in an endpoint.
pub(crate) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: Some(namespace(pod).to_owned()),
        name: Some(name(pod).to_owned()),
        uid: Some(uid(pod).to_owned()),
        ..ObjectReference::default()
    }
}

fn endpoint_ports(pod: &Pod, service: &Service) -> Vec<EndpointPort> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let found = ports.filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(find_port(pod, port)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: port.app_protocol.clone(),
        })
    });
    found.collect()
}

fn hints(service: &Service, node: &str, zone: Option<&str>) -> Option<EndpointHints> {
    let distribution = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let for_zones = zone.map(|zone| {
        vec![ForZone {
            name: zone.to_owned(),
        }]
    });
    match distribution {
        "PreferClose" | "PreferSameZone" => for_zones.map(|zones| EndpointHints {
            for_zones: Some(zones),
            for_nodes: None,
        }),
        "PreferSameNode" if !node.is_empty() => Some(EndpointHints {
            for_zones,
            for_nodes: Some(vec![ForNode {
                name: node.to_owned(),
            }]),
        }),
        _ => None,
    }
}

fn endpoint(pod: &Pod, node: Option<&Node>, service: &Service, addresses: Vec<String>) -> Endpoint {
    let serving = is_ready(pod);
    let terminating = is_deleting(pod);
    let ready = publishes_not_ready(service) || (serving && !terminating);
    let zone = node.and_then(|node| label(node, ZONE));
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(pod, service),
        node_name: Some(node_name(pod).to_owned()).filter(|name| !name.is_empty()),
        zone: zone.map(str::to_owned),
        hints: if ready {
            hints(service, node_name(pod), zone)
        } else {
            None
        },
        target_ref: Some(target(pod)),
        deprecated_topology: None,
    }
}

/// The endpoints of a service per family and ports. A family without endpoints has one empty group, so that a slice says so.
pub(crate) fn groups(
    service: &Service,
    pods: &[Arc<Pod>],
    node: impl Fn(&str) -> Option<Arc<Node>>,
) -> Vec<Group> {
    let families = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ip_families.clone())
        .unwrap_or_default();
    let families = if families.is_empty() {
        vec!["IPv4".to_owned()]
    } else {
        families
    };
    let mut groups = Vec::new();
    for family in families {
        let mut of_family: Vec<Group> = Vec::new();
        for pod in pods.iter().filter(|pod| !is_finished(pod)) {
            let addresses = addresses(pod, &family);
            if addresses.is_empty() {
                continue;
            }
            let on = node_name(pod);
            let found = node(on);
            // A node that is gone takes its pods with it; the user's wish to see all goes before that.
            if !on.is_empty() && found.is_none() && !publishes_not_ready(service) {
                continue;
            }
            let ports = endpoint_ports(pod, service);
            let endpoint = endpoint(pod, found.as_deref(), service, addresses);
            match of_family.iter_mut().find(|group| group.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => of_family.push(Group {
                    address_type: family.clone(),
                    ports,
                    endpoints: vec![endpoint],
                }),
            }
        }
        if of_family.is_empty() {
            of_family.push(Group {
                address_type: family,
                ..Group::default()
            });
        }
        groups.extend(of_family);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, extra: Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name},
            "spec": {"nodeName": "n1", "containers": [
                {"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                       "conditions": [{"type": "Ready", "status": "True"}]}
        });
        json_patch::merge(&mut pod, &extra);
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "svc", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    fn check(service: &Service, pods: &[Arc<Pod>], expected: &Value) {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {ZONE: "z1"}}})).unwrap();
        let node = Arc::new(node);
        let groups = groups(service, pods, |name| (name == "n1").then(|| node.clone()));
        let found: Vec<Value> = groups
            .iter()
            .map(|group| {
                let endpoints: Vec<Value> = group
                    .endpoints
                    .iter()
                    .map(|endpoint| {
                        let conditions = endpoint.conditions.as_ref().unwrap();
                        json!([
                            endpoint.addresses[0],
                            conditions.ready,
                            conditions.serving,
                            conditions.terminating,
                            endpoint.zone,
                            endpoint.hostname
                        ])
                    })
                    .collect();
                let ports: Vec<_> = group.ports.iter().map(|port| port.port).collect();
                json!([group.address_type, ports, endpoints])
            })
            .collect();
        assert_eq!(Value::Array(found), *expected);
    }

    #[test]
    fn endpoints_of_pods() {
        let ports = json!([{"port": 80, "targetPort": "web"}, {"port": 81, "targetPort": 8081}, {"port": 82, "targetPort": "no"}]);
        let svc = service(json!({"ports": ports, "ipFamilies": ["IPv4", "IPv6"], "selector": {"a": "b"}}));
        let is = |address: &str, ready, serving, terminating| {
            json!([address, ready, serving, terminating, "z1", null])
        };
        check(
            &svc,
            &[pod("a", json!({}))],
            &json!([
                ["IPv4", [8080, 8081], [is("10.0.0.1", true, true, false)]],
                ["IPv6", [8080, 8081], [is("fd00::1", true, true, false)]]
            ]),
        );
        let plain = service(json!({"ports": [{"port": 80}], "selector": {"a": "b"}}));
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let unready = json!({"status": {"conditions": []}});
        check(
            &plain,
            &[
                pod("a", going),
                pod("b", unready.clone()),
                pod("c", json!({"status": {"phase": "Failed"}})),
                pod("d", json!({"status": {"podIPs": []}})),
                pod("e", json!({"spec": {"nodeName": "gone"}})),
            ],
            &json!([[
                "IPv4",
                [80],
                [
                    is("10.0.0.1", false, true, true),
                    is("10.0.0.1", false, false, false)
                ]
            ]]),
        );
        check(&plain, &[], &json!([["IPv4", [], []]]));
        let headless =
            service(json!({"clusterIP": "None", "publishNotReadyAddresses": true, "selector": {"a": "b"}}));
        let mut named = unready;
        named["spec"] = json!({"hostname": "db-0", "subdomain": "svc"});
        check(
            &headless,
            &[pod("a", named)],
            &json!([["IPv4", [], [["10.0.0.1", true, false, false, "z1", "db-0"]]]]),
        );
    }
}
