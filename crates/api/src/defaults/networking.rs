//! The networking and discovery groups.

use serde_json::json;

use crate::access::{Fields, child, default_text, default_to, each, ensure, is_unset};

/// `NetworkPolicy`: protocols, and the policy types that follow from its rules.
pub(super) fn network_policy(fields: &mut Fields) {
    let spec = ensure(fields, "spec");
    for list in ["ingress", "egress"] {
        each(spec, list, |rule| {
            each(rule, "ports", |port| default_to(port, "protocol", "TCP"))
        });
    }
    if is_unset(spec, "policyTypes") {
        let types = if is_unset(spec, "egress") {
            json!(["Ingress"])
        } else {
            json!(["Ingress", "Egress"])
        };
        spec.insert("policyTypes".to_owned(), types);
    }
}

/// `IngressClass`.
pub(super) fn ingress_class(fields: &mut Fields) {
    if let Some(parameters) = child(fields, "spec").and_then(|spec| child(spec, "parameters")) {
        default_to(parameters, "scope", "Cluster");
    }
}

/// `EndpointSlice`: a port's name is empty and its protocol TCP.
pub(super) fn endpoint_slice(fields: &mut Fields) {
    each(fields, "ports", |port| {
        default_to(port, "name", "");
        default_text(port, "protocol", "TCP");
    });
}
