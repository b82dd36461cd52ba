//! Services.

use serde_json::Value;

use super::rules::{self, invalid_all, port_or_name, required_text};
use crate::access::{int, is_empty, items, text};
use crate::field::{Error, ErrorList, Path};
use crate::names;

/// `Service`
pub(super) fn service(errors: &mut ErrorList, path: &Path, object: &Value) {
    let spec = &object["spec"];
    let kind = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None";
    let ports = items(&spec["ports"]);
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(Error::required(&path.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" if headless => {
            let why = "may not be set to 'None' for LoadBalancer services";
            errors.push(Error::invalid(&path.child("clusterIPs").index(0), "None", why));
        }
        "NodePort" if headless => {
            let why = "may not be set to 'None' for NodePort services";
            errors.push(Error::invalid(&path.child("clusterIPs").index(0), "None", why));
        }
        "ExternalName" => external_name(errors, path, spec),
        "" => errors.push(Error::required(&path.child("type"), "")),
        _ => {}
    }
    self::ports(errors, &path.child("ports"), ports, kind);
    rules::labels(errors, &path.child("selector"), &spec["selector"]);
    addresses(errors, path, spec);
    if text(spec, "sessionAffinity").is_empty() {
        errors.push(Error::required(&path.child("sessionAffinity"), ""));
    }
    if let Some(seconds) = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].as_i64()
        && !(1..=86_400).contains(&seconds)
    {
        let path = path.children(&["sessionAffinityConfig", "clientIP", "timeoutSeconds"]);
        errors.push(Error::invalid(
            &path,
            seconds,
            "must be greater than 0 and less than 86400",
        ));
    }
    only_for_types(errors, path, spec, kind);
}

fn external_name(errors: &mut ErrorList, path: &Path, spec: &Value) {
    for field in ["clusterIPs", "ipFamilies"] {
        if !is_empty(&spec[field]) {
            let why = "may not be set for ExternalName services";
            errors.push(Error::forbidden(&path.child(field), why));
        }
    }
    let name = required_text(errors, path, spec, "externalName");
    let name = name.strip_suffix('.').unwrap_or(name);
    if !name.is_empty() {
        invalid_all(
            errors,
            &path.child("externalName"),
            name,
            names::dns1123_subdomain(name),
        );
    }
}

fn ports(errors: &mut ErrorList, path: &Path, ports: &[Value], kind: &str) {
    let (mut seen_names, mut seen_ports, mut seen_nodes) = (Vec::new(), Vec::new(), Vec::new());
    for (at, port) in ports.iter().enumerate() {
        let path = path.index(at);
        let (name, protocol, number) = (text(port, "name"), text(port, "protocol"), int(port, "port"));
        if name.is_empty() {
            if ports.len() > 1 {
                errors.push(Error::required(&path.child("name"), ""));
            }
        } else {
            invalid_all(errors, &path.child("name"), name, names::dns1123_label(name));
            if seen_names.contains(&name) {
                errors.push(Error::duplicate(&path.child("name"), name));
            }
            seen_names.push(name);
        }
        for message in names::port_number(number) {
            errors.push(Error::invalid(&path.child("port"), number, message));
        }
        if protocol.is_empty() {
            errors.push(Error::required(&path.child("protocol"), ""));
        }
        port_or_name(errors, &path.child("targetPort"), &port["targetPort"]);
        if seen_ports.contains(&(protocol, number)) {
            let key = serde_json::json!({"port": number, "protocol": protocol});
            errors.push(Error::duplicate(&path, key));
        }
        seen_ports.push((protocol, number));
        let node_port = int(port, "nodePort");
        if node_port == 0 {
            continue;
        }
        if matches!(kind, "ClusterIP" | "ExternalName") {
            let why = format!("may not be used when `type` is '{kind}'");
            errors.push(Error::forbidden(&path.child("nodePort"), why));
        } else if seen_nodes.contains(&(protocol, node_port)) {
            errors.push(Error::duplicate(&path.child("nodePort"), node_port));
        }
        seen_nodes.push((protocol, node_port));
    }
}

fn addresses(errors: &mut ErrorList, path: &Path, spec: &Value) {
    for (at, ip) in items(&spec["clusterIPs"]).iter().enumerate() {
        let ip = ip.as_str().unwrap_or_default();
        if ip != "None" {
            invalid_all(
                errors,
                &path.child("clusterIPs").index(at),
                ip,
                names::ip_address(ip),
            );
        }
    }
    for (at, ip) in items(&spec["externalIPs"]).iter().enumerate() {
        let ip = ip.as_str().unwrap_or_default();
        let path = path.child("externalIPs").index(at);
        let parsed = ip.parse::<std::net::IpAddr>();
        invalid_all(errors, &path, ip, names::ip_address(ip));
        if parsed.as_ref().is_ok_and(std::net::IpAddr::is_loopback) {
            errors.push(Error::invalid(
                &path,
                ip,
                "may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ));
        }
        if parsed.is_ok_and(|ip| ip.is_unspecified()) {
            errors.push(Error::invalid(
                &path,
                ip,
                format!("may not be unspecified ({ip})"),
            ));
        }
    }
    for (at, range) in items(&spec["loadBalancerSourceRanges"]).iter().enumerate() {
        let range = range.as_str().unwrap_or_default();
        super::networking::cidr(
            errors,
            &path.child("loadBalancerSourceRanges").index(at),
            range.trim(),
        );
    }
}

fn only_for_types(errors: &mut ErrorList, path: &Path, spec: &Value, kind: &str) {
    if kind != "LoadBalancer" {
        for field in [
            "loadBalancerSourceRanges",
            "loadBalancerClass",
            "allocateLoadBalancerNodePorts",
        ] {
            if !is_empty(&spec[field]) {
                errors.push(Error::forbidden(
                    &path.child(field),
                    "may only be used when `type` is 'LoadBalancer'",
                ));
            }
        }
    }
    let external = matches!(kind, "LoadBalancer" | "NodePort")
        || (kind == "ClusterIP" && !is_empty(&spec["externalIPs"]));
    let policy = text(spec, "externalTrafficPolicy");
    if !external && !policy.is_empty() {
        let why = "may only be set for externally-accessible services";
        errors.push(Error::invalid(&path.child("externalTrafficPolicy"), policy, why));
    }
    let health = int(spec, "healthCheckNodePort");
    if health != 0 && !(kind == "LoadBalancer" && policy == "Local") {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(Error::invalid(&path.child("healthCheckNodePort"), health, why));
    }
}

/// What of a Service stays: its first cluster IP, unless it becomes or was an external name.
pub(super) fn update(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    let (spec, before) = (&new["spec"], &old["spec"]);
    let external = |spec: &Value| text(spec, "type") == "ExternalName";
    let (given, known) = (&spec["clusterIPs"][0], &before["clusterIPs"][0]);
    if !external(spec) && !external(before) && !known.is_null() && given != known {
        errors.push(Error::invalid(
            &path.child("clusterIPs").index(0),
            given.clone(),
            "may not change once set",
        ));
    }
    let class = &before["loadBalancerClass"];
    if text(spec, "type") == "LoadBalancer"
        && text(before, "type") == "LoadBalancer"
        && spec["loadBalancerClass"] != *class
    {
        let given = spec["loadBalancerClass"].clone();
        errors.push(Error::invalid(
            &path.child("loadBalancerClass"),
            given,
            "may not change once set",
        ));
    }
}
