//! The core group besides pods, workloads and storage.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::format::{age, condition, labels, name, or, or_none, since, size, texts};
use crate::access::{entries, flag, int, items, text};

/// `Node`.
pub(super) fn node(node: &Value, now: Timestamp) -> Vec<Value> {
    let (status, info) = (&node["status"], &node["status"]["nodeInfo"]);
    let mut state = match condition(node, "Ready") {
        Some(ready) if ready["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if flag(&node["spec"], "unschedulable") {
        state.push_str(",SchedulingDisabled");
    }
    let mut roles = BTreeSet::new();
    for (key, value) in entries(&node["metadata"]["labels"]) {
        if let Some(role) = key
            .strip_prefix("node-role.kubernetes.io/")
            .filter(|role| !role.is_empty())
        {
            roles.insert(role);
        } else if key == "kubernetes.io/role" {
            roles.extend(value.as_str().filter(|role| !role.is_empty()));
        }
    }
    let roles: Vec<&str> = roles.into_iter().collect();
    let address = |kind: &str| {
        let found = items(&status["addresses"]).iter().find(|a| a["type"] == kind);
        Value::from(found.map_or("<none>", |a| text(a, "address")))
    };
    let known = |field: &str| Value::from(or(text(info, field), "<unknown>"));
    vec![
        name(node),
        Value::from(state),
        or_none(&roles.join(",")),
        age(node, now),
        Value::from(text(info, "kubeletVersion")),
        address("InternalIP"),
        address("ExternalIP"),
        known("osImage"),
        known("kernelVersion"),
        known("containerRuntimeVersion"),
    ]
}

/// `Namespace`.
pub(super) fn namespace(namespace: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(namespace),
        Value::from(text(&namespace["status"], "phase")),
        age(namespace, now),
    ]
}

/// Addresses or host names of a load balancer, sorted.
pub(super) fn load_balancer(status: &Value) -> Vec<&str> {
    let found: BTreeSet<&str> = items(&status["loadBalancer"]["ingress"])
        .iter()
        .map(|ingress| or(text(ingress, "ip"), text(ingress, "hostname")))
        .filter(|text| !text.is_empty())
        .collect();
    found.into_iter().collect()
}

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let mut external = texts(&spec["externalIPs"]);
    match text(spec, "type") {
        "ClusterIP" | "NodePort" => or(&external.join(","), "<none>").to_owned(),
        "LoadBalancer" => {
            let mut all = load_balancer(&service["status"]);
            all.append(&mut external);
            or(&all.join(","), "<pending>").to_owned()
        }
        "ExternalName" => text(spec, "externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// `Service`.
pub(super) fn service(service: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &service["spec"];
    let ports: Vec<String> = items(&spec["ports"])
        .iter()
        .map(|port| match int(port, "nodePort") {
            0 => format!("{}/{}", int(port, "port"), text(port, "protocol")),
            node_port => format!("{}:{node_port}/{}", int(port, "port"), text(port, "protocol")),
        })
        .collect();
    vec![
        name(service),
        Value::from(text(spec, "type")),
        Value::from(spec["clusterIPs"][0].as_str().unwrap_or("<none>")),
        Value::from(external_ip(service)),
        or_none(&ports.join(",")),
        age(service, now),
        Value::from(labels(&spec["selector"])),
    ]
}

/// A host and a port; IPv6 addresses stand in brackets.
fn host_port(host: &str, port: i64) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// `Endpoints`.
pub(super) fn endpoints(endpoints: &Value, now: Timestamp) -> Vec<Value> {
    let mut list = Vec::new();
    for subset in items(&endpoints["subsets"]) {
        let ips = || {
            items(&subset["addresses"])
                .iter()
                .map(|address| text(address, "ip"))
        };
        let ports = items(&subset["ports"]);
        if ports.is_empty() {
            list.extend(ips().map(str::to_owned));
        }
        for port in ports {
            list.extend(ips().map(|ip| host_port(ip, int(port, "port"))));
        }
    }
    let none = if items(&endpoints["subsets"]).is_empty() {
        "<none>"
    } else {
        ""
    };
    vec![
        name(endpoints),
        Value::from(super::format::with_more(&list, none)),
        age(endpoints, now),
    ]
}

/// `Event` of both groups.
pub(super) fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    // events.k8s.io calls the fields otherwise.
    let either = |core: &str, other: &str| {
        if event[core].is_null() {
            &event[other]
        } else {
            &event[core]
        }
    };
    let object = either("involvedObject", "regarding");
    let mut first = since(either("firstTimestamp", "deprecatedFirstTimestamp"), now);
    if first == "<unknown>" {
        first = since(&event["eventTime"], now);
    }
    let mut last = since(either("lastTimestamp", "deprecatedLastTimestamp"), now);
    if last == "<unknown>" {
        last.clone_from(&first);
    }
    let mut count = either("count", "deprecatedCount").as_i64().unwrap_or_default();
    if event["series"].is_object() {
        last = since(&event["series"]["lastObservedTime"], now);
        count = int(&event["series"], "count");
    } else if count == 0 {
        count = 1;
    }
    let kind = text(object, "kind").to_lowercase();
    let target = match text(object, "name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source = either("source", "deprecatedSource");
    let reporting = either("reportingComponent", "reportingController")
        .as_str()
        .unwrap_or_default();
    let component = or(text(source, "component"), reporting);
    let source = match or(text(source, "host"), text(event, "reportingInstance")) {
        "" => component.to_owned(),
        instance => format!("{component}, {instance}"),
    };
    let message = either("message", "note").as_str().unwrap_or_default();
    vec![
        Value::from(last),
        Value::from(text(event, "type")),
        Value::from(text(event, "reason")),
        Value::from(target),
        Value::from(text(object, "fieldPath")),
        Value::from(source),
        Value::from(message.trim()),
        Value::from(first),
        Value::from(count),
        name(event),
    ]
}

/// `Secret`.
pub(super) fn secret(secret: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(secret),
        Value::from(text(secret, "type")),
        size(&secret["data"]),
        age(secret, now),
    ]
}

/// `ConfigMap`.
pub(super) fn config_map(map: &Value, now: Timestamp) -> Vec<Value> {
    let count = entries(&map["data"]).count() + entries(&map["binaryData"]).count();
    vec![name(map), Value::from(count), age(map, now)]
}

/// `ServiceAccount`.
pub(super) fn service_account(account: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(account), age(account, now)]
}

/// `ResourceQuota`: used and hard, requests and limits apart.
pub(super) fn resource_quota(quota: &Value, now: Timestamp) -> Vec<Value> {
    let status = &quota["status"];
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in entries(&status["hard"]) {
        let used = status["used"][&**resource].as_str().unwrap_or("0");
        let cell = format!("{resource}: {used}/{}", hard.as_str().unwrap_or("0"));
        if resource.starts_with("limits.") {
            limits.push(cell)
        } else {
            requests.push(cell)
        }
    }
    requests.sort_unstable();
    limits.sort_unstable();
    vec![
        name(quota),
        Value::from(requests.join(", ")),
        Value::from(limits.join(", ")),
        age(quota, now),
    ]
}

/// `ComponentStatus`.
pub(super) fn component_status(component: &Value, _now: Timestamp) -> Vec<Value> {
    let (mut status, mut message, mut error) = ("Unknown", "", "");
    for condition in items(&component["conditions"])
        .iter()
        .filter(|c| c["type"] == "Healthy")
    {
        status = if condition["status"] == "True" {
            "Healthy"
        } else {
            "Unhealthy"
        };
        message = text(condition, "message");
        error = match text(condition, "error") {
            "nil" => "",
            error => error,
        };
    }
    vec![
        name(component),
        Value::from(status),
        Value::from(message),
        Value::from(error),
    ]
}
