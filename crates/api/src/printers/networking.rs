//! The networking and discovery groups.

use jiff::Timestamp;
use serde_json::Value;

use super::core::load_balancer;
use super::format::{age, name, selector_or_none, texts, with_more};
use crate::access::{is_empty, items, text};
use crate::gvk::GroupResource;

/// `Ingress`.
pub(super) fn ingress(object: &Value, now: Timestamp) -> Vec<Value> {
    const SHOWN: usize = 3;
    let spec = &object["spec"];
    let rules = items(&spec["rules"]);
    let mut hosts: Vec<&str> = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= hosts.len() == SHOWN;
        let host = text(rule, "host");
        if !more && !host.is_empty() {
            hosts.push(host);
        }
    }
    let hosts = match (hosts.is_empty(), more) {
        (true, _) => "*".to_owned(),
        (false, true) => format!("{} + {} more...", hosts.join(","), rules.len() - SHOWN),
        (false, false) => hosts.join(","),
    };
    vec![
        name(object),
        Value::from(spec["ingressClassName"].as_str().unwrap_or("<none>")),
        Value::from(hosts),
        Value::from(load_balancer(&object["status"]).join(",")),
        Value::from(if is_empty(&spec["tls"]) { "80" } else { "80, 443" }),
        age(object, now),
    ]
}

/// `IngressClass`.
pub(super) fn ingress_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    let parameters = &spec["parameters"];
    let parameters = if parameters.is_object() {
        let group = parameters["apiGroup"]
            .as_str()
            .map(|group| format!(".{group}"))
            .unwrap_or_default();
        format!("{}{group}/{}", text(parameters, "kind"), text(parameters, "name"))
    } else {
        "<none>".to_owned()
    };
    vec![
        name(object),
        Value::from(text(spec, "controller")),
        Value::from(parameters),
        age(object, now),
    ]
}

/// `NetworkPolicy`.
pub(super) fn network_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        Value::from(selector_or_none(&object["spec"]["podSelector"])),
        age(object, now),
    ]
}

/// `IPAddress`.
pub(super) fn ip_address(object: &Value, _now: Timestamp) -> Vec<Value> {
    let parent = &object["spec"]["parentRef"];
    let reference = if parent.is_object() {
        let resource = GroupResource::new(
            text(parent, "group").to_owned(),
            text(parent, "resource").to_owned(),
        )
        .to_string();
        let mut reference = resource.to_lowercase();
        for part in ["namespace", "name"] {
            if !text(parent, part).is_empty() {
                reference.push('/');
                reference.push_str(text(parent, part));
            }
        }
        reference
    } else {
        "<none>".to_owned()
    };
    vec![name(object), Value::from(reference)]
}

/// `ServiceCIDR`.
pub(super) fn service_cidr(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        Value::from(texts(&object["spec"]["cidrs"]).join(",")),
        age(object, now),
    ]
}

/// `EndpointSlice`.
pub(super) fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let port = |port: &Value| match port["port"].as_i64() {
        Some(number) => number.to_string(),
        None => port["name"].as_str().unwrap_or("*").to_owned(),
    };
    let ports: Vec<String> = items(&object["ports"]).iter().map(port).collect();
    let addresses = items(&object["endpoints"])
        .iter()
        .flat_map(|endpoint| texts(&endpoint["addresses"]));
    let addresses: Vec<String> = addresses.map(str::to_owned).collect();
    vec![
        name(object),
        Value::from(text(object, "addressType")),
        Value::from(with_more(&ports, "<unset>")),
        Value::from(with_more(&addresses, "<unset>")),
        age(object, now),
    ]
}
