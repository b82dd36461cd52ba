//! Services that change: values that were allocated stay, values that the new type does not have go.

use serde_json::Value;

use crate::access::{Fields, each, int, is_empty, items, text};

fn needs_cluster_ip(service: &Value) -> bool {
    matches!(
        text(&service["spec"], "type"),
        "ClusterIP" | "NodePort" | "LoadBalancer"
    )
}

fn balanced(service: &Value) -> bool {
    text(&service["spec"], "type") == "LoadBalancer"
}

fn needs_node_ports(service: &Value) -> bool {
    text(&service["spec"], "type") == "NodePort"
        || (balanced(service) && service["spec"]["allocateLoadBalancerNodePorts"] != false)
}

fn needs_health_port(service: &Value) -> bool {
    balanced(service) && text(&service["spec"], "externalTrafficPolicy") == "Local"
}

fn externally_accessible(service: &Value) -> bool {
    let spec = &service["spec"];
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
        || (text(spec, "type") == "ClusterIP" && !is_empty(&spec["externalIPs"]))
}

fn node_ports(service: &Value) -> Vec<i64> {
    let mut ports: Vec<i64> = items(&service["spec"]["ports"])
        .iter()
        .map(|p| int(p, "nodePort"))
        .collect();
    ports.retain(|port| *port != 0);
    ports.sort_unstable();
    ports
}

/// Completes and clears the spec of a Service that replaces `old`.
pub(super) fn update(new: &mut Value, old: &Value) {
    keep_allocated(new, old);
    let before = &old["spec"];
    let mut unneeded: Vec<&str> = Vec::new();
    if needs_cluster_ip(old) && !needs_cluster_ip(new) {
        unneeded.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
    }
    if needs_health_port(old) && !needs_health_port(new) {
        unneeded.push("healthCheckNodePort");
    }
    if balanced(old) && !balanced(new) {
        unneeded.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if externally_accessible(old) && !externally_accessible(new) {
        unneeded.push("externalTrafficPolicy");
    }
    let drop_node_ports =
        needs_node_ports(old) && !needs_node_ports(new) && node_ports(old) == node_ports(new);
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    for field in unneeded {
        // What the client changed itself is for validation to refuse.
        if spec.get(field) == before.get(field) {
            spec.remove(field);
        }
    }
    if drop_node_ports {
        each(spec, "ports", |port| {
            port.remove("nodePort");
        });
    }
}

fn keep_allocated(new: &mut Value, old: &Value) {
    let before = &old["spec"];
    let addresses = needs_cluster_ip(old) && needs_cluster_ip(new);
    let ports = needs_node_ports(old) && needs_node_ports(new);
    let health = needs_health_port(old) && needs_health_port(new);
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    if addresses && spec.get("clusterIP").is_none_or(is_empty) && spec.get("clusterIPs").is_none_or(is_empty)
    {
        take(spec, before, "clusterIP");
        take(spec, before, "clusterIPs");
    }
    if ports {
        let mut taken: Vec<i64> = Vec::new();
        each(spec, "ports", |port| {
            taken.extend(port.get("nodePort").and_then(Value::as_i64))
        });
        each(spec, "ports", |port| {
            if port.get("nodePort").and_then(Value::as_i64).unwrap_or_default() != 0 {
                return;
            }
            let same = |known: &&Value| {
                known.get("port") == port.get("port") && known.get("protocol") == port.get("protocol")
            };
            let known = items(&before["ports"])
                .iter()
                .find(same)
                .map_or(0, |known| int(known, "nodePort"));
            if known != 0 && !taken.contains(&known) {
                port.insert("nodePort".to_owned(), Value::from(known));
            }
        });
    }
    if health
        && spec
            .get("healthCheckNodePort")
            .and_then(Value::as_i64)
            .unwrap_or_default()
            == 0
    {
        take(spec, before, "healthCheckNodePort");
    }
}

fn take(spec: &mut Fields, before: &Value, field: &str) {
    if let Some(value) = before.get(field) {
        spec.insert(field.to_owned(), value.clone());
    }
}
