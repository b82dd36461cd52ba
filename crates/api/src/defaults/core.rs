//! The core group besides pods.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{pod, volume};
use crate::access::{Fields, child, default_text, default_to, each, ensure, is_nil, is_unset, str_of};

/// `Service`: what depends on no cluster range; addresses and families are the registry's.
pub(super) fn service(fields: &mut Fields) {
    let spec = ensure(fields, "spec");
    default_text(spec, "sessionAffinity", "None");
    match str_of(spec, "sessionAffinity") {
        "None" => {
            spec.remove("sessionAffinityConfig");
        }
        "ClientIP" => {
            let config = ensure(ensure(spec, "sessionAffinityConfig"), "clientIP");
            default_to(config, "timeoutSeconds", 10_800);
        }
        _ => {}
    }
    default_text(spec, "type", "ClusterIP");
    each(spec, "ports", |port| {
        default_text(port, "protocol", "TCP");
        let target = port.get("targetPort");
        if target.is_none_or(|t| t.is_null() || t.as_i64() == Some(0) || t.as_str() == Some("")) {
            let number = port.get("port").cloned().unwrap_or_else(|| Value::from(0));
            port.insert("targetPort".to_owned(), number);
        }
    });
    let load_balanced = str_of(spec, "type") == "LoadBalancer";
    let node_ports = load_balanced || str_of(spec, "type") == "NodePort";
    let external_ips = str_of(spec, "type") == "ClusterIP" && !is_unset(spec, "externalIPs");
    if node_ports || external_ips {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if node_ports || str_of(spec, "type") == "ClusterIP" {
        default_to(spec, "internalTrafficPolicy", "Cluster");
    }
    if load_balanced {
        default_to(spec, "allocateLoadBalancerNodePorts", true);
        if let Some(balancer) = child(fields, "status").and_then(|status| child(status, "loadBalancer")) {
            each(balancer, "ingress", |ingress| {
                if !is_unset(ingress, "ip") {
                    default_to(ingress, "ipMode", "VIP");
                }
            });
        }
    }
}

/// `Endpoints`.
pub(super) fn endpoints(fields: &mut Fields) {
    each(fields, "subsets", |subset| {
        each(subset, "ports", |port| default_text(port, "protocol", "TCP"))
    });
}

/// `Secret`: its type, and `stringData` written into `data`.
pub(super) fn secret(fields: &mut Fields) {
    default_text(fields, "type", "Opaque");
    if let Some(Value::Object(texts)) = fields.remove("stringData")
        && !texts.is_empty()
    {
        let data = ensure(fields, "data");
        for (key, value) in texts {
            data.insert(
                key,
                Value::from(STANDARD.encode(value.as_str().unwrap_or_default())),
            );
        }
    }
}

/// `Namespace`: the label that carries its name, and the phase.
pub(super) fn namespace(fields: &mut Fields) {
    const LABEL: &str = "kubernetes.io/metadata.name";
    let metadata = ensure(fields, "metadata");
    let name = str_of(metadata, "name").to_owned();
    if !name.is_empty() {
        let labels = ensure(metadata, "labels");
        if str_of(labels, LABEL) != name {
            labels.insert(LABEL.to_owned(), Value::from(name));
        }
    }
    default_text(ensure(fields, "status"), "phase", "Active");
}

/// `Node`: allocatable is the capacity when nothing is said.
pub(super) fn node(fields: &mut Fields) {
    if let Some(spec) = child(fields, "spec") {
        same_cidrs(spec);
    }
    if let Some(status) = child(fields, "status") {
        for list in ["capacity", "allocatable"] {
            if let Some(list) = child(status, list) {
                pod::round_up(list);
            }
        }
        if is_nil(status, "allocatable")
            && let Some(capacity) = status.get("capacity").cloned()
        {
            status.insert("allocatable".to_owned(), capacity);
        }
    }
}

/// `podCIDR` and the first of `podCIDRs` are the same.
fn same_cidrs(spec: &mut Fields) {
    let single = str_of(spec, "podCIDR").to_owned();
    let first = spec
        .get("podCIDRs")
        .and_then(|list| list[0].as_str())
        .unwrap_or_default()
        .to_owned();
    if single.is_empty() && !first.is_empty() {
        spec.insert("podCIDR".to_owned(), Value::from(first));
    } else if !single.is_empty() && single != first {
        spec.insert("podCIDRs".to_owned(), json!([single]));
    }
}

/// `PersistentVolume`.
pub(super) fn persistent_volume(fields: &mut Fields) {
    default_text(ensure(fields, "status"), "phase", "Pending");
    let spec = ensure(fields, "spec");
    default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
    default_to(spec, "volumeMode", "Filesystem");
    if let Some(capacity) = child(spec, "capacity") {
        pod::round_up(capacity);
    }
    volume::source(spec);
}

/// `PersistentVolumeClaim`, stored or in a template.
pub(super) fn persistent_volume_claim(fields: &mut Fields) {
    default_text(ensure(fields, "status"), "phase", "Pending");
    claim_spec(ensure(fields, "spec"));
}

/// `PersistentVolumeClaimSpec`.
pub(super) fn claim_spec(spec: &mut Fields) {
    default_to(spec, "volumeMode", "Filesystem");
    if let Some(resources) = child(spec, "resources") {
        pod::round_resources(resources);
    }
}

/// `LimitRange`: defaults of containers follow from max, default and min.
pub(super) fn limit_range(fields: &mut Fields) {
    let Some(spec) = child(fields, "spec") else { return };
    each(spec, "limits", |item| {
        for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            if let Some(list) = child(item, list) {
                pod::round_up(list);
            }
        }
        if str_of(item, "type") == "Container" {
            fill(item, "max", "default");
            fill(item, "default", "defaultRequest");
            fill(item, "min", "defaultRequest");
        }
    });
}

/// Copies the entries of `from` that `to` lacks.
fn fill(item: &mut Fields, from: &str, to: &str) {
    let Some(Value::Object(source)) = item.get(from) else {
        return;
    };
    let known = item.get(to).and_then(Value::as_object);
    let missing: Map<String, Value> = source
        .iter()
        .filter(|(name, _)| known.is_none_or(|k| !k.contains_key(*name)))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !missing.is_empty() {
        ensure(item, to).extend(missing);
    }
}

/// `ResourceQuota`.
pub(super) fn resource_quota(fields: &mut Fields) {
    for (part, lists) in [("spec", &["hard"][..]), ("status", &["hard", "used"])] {
        let Some(part) = child(fields, part) else { continue };
        for list in lists {
            if let Some(list) = child(part, list) {
                pod::round_up(list);
            }
        }
    }
}
