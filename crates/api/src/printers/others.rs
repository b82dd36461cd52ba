//! The remaining groups.

use jiff::Timestamp;
use serde_json::Value;

use super::format::{age, condition, human_duration, is_deleting, name, or_none};
use crate::access::{flag, int, is_empty, items, text};

/// Kinds that show nothing else.
pub(super) fn name_and_age(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

/// `CertificateSigningRequest`.
pub(super) fn certificate_request(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let mut state = match () {
        () if condition(object, "Denied").is_some() => "Denied",
        () if condition(object, "Approved").is_some() => "Approved",
        () => "Pending",
    }
    .to_owned();
    if condition(object, "Failed").is_some() {
        state.push_str(",Failed");
    }
    if !is_empty(&status["certificate"]) {
        state.push_str(",Issued");
    }
    let duration = spec["expirationSeconds"].as_i64().map(human_duration);
    vec![
        name(object),
        age(object, now),
        or_none(text(spec, "signerName")),
        Value::from(text(spec, "username")),
        Value::from(duration.unwrap_or_else(|| "<none>".to_owned())),
        Value::from(state),
    ]
}

/// `RoleBinding` and `ClusterRoleBinding`.
pub(super) fn role_binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let role = &object["roleRef"];
    let subjects = |kind: &str| {
        let of_kind = items(&object["subjects"])
            .iter()
            .filter(|subject| subject["kind"] == kind);
        let names: Vec<String> = of_kind
            .map(|subject| match kind {
                "ServiceAccount" => format!("{}/{}", text(subject, "namespace"), text(subject, "name")),
                _ => text(subject, "name").to_owned(),
            })
            .collect();
        Value::from(names.join(", "))
    };
    vec![
        name(object),
        Value::from(format!("{}/{}", text(role, "kind"), text(role, "name"))),
        age(object, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

/// `Lease`.
pub(super) fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        Value::from(text(&object["spec"], "holderIdentity")),
        age(object, now),
    ]
}

/// `RuntimeClass`.
pub(super) fn runtime_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        Value::from(text(object, "handler")),
        age(object, now),
    ]
}

/// `PriorityClass`.
pub(super) fn priority_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        Value::from(int(object, "value")),
        Value::from(flag(object, "globalDefault")),
        age(object, now),
        Value::from(text(object, "preemptionPolicy")),
    ]
}

/// `APIService`.
pub(super) fn api_service(object: &Value, now: Timestamp) -> Vec<Value> {
    let service = &object["spec"]["service"];
    let service = if service.is_object() {
        format!("{}/{}", text(service, "namespace"), text(service, "name"))
    } else {
        "Local".to_owned()
    };
    let available = condition(object, "Available").map_or_else(
        || "Unknown".to_owned(),
        |condition| match (text(condition, "status"), text(condition, "reason")) {
            (status, reason) if status != "True" && !reason.is_empty() => format!("{status} ({reason})"),
            (status, _) => status.to_owned(),
        },
    );
    vec![
        name(object),
        Value::from(service),
        Value::from(available),
        age(object, now),
    ]
}

/// `FlowSchema`.
pub(super) fn flow_schema(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    let method = &spec["distinguisherMethod"];
    vec![
        name(object),
        Value::from(text(&spec["priorityLevelConfiguration"], "name")),
        Value::from(int(spec, "matchingPrecedence")),
        Value::from(method["type"].as_str().unwrap_or("<none>")),
        age(object, now),
        Value::from(condition(object, "Dangling").map_or("?", |c| text(c, "status"))),
    ]
}

/// `PriorityLevelConfiguration`.
pub(super) fn priority_level(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    let limited = &spec["limited"];
    let queuing = &limited["limitResponse"]["queuing"];
    let number = |value: &Value| {
        if value.is_null() {
            Value::from("<none>")
        } else {
            value.clone()
        }
    };
    vec![
        name(object),
        Value::from(text(spec, "type")),
        number(&limited["nominalConcurrencyShares"]),
        number(&queuing["queues"]),
        number(&queuing["handSize"]),
        number(&queuing["queueLengthLimit"]),
        age(object, now),
    ]
}

/// `ResourceClaim`.
pub(super) fn resource_claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = &object["status"];
    let mut states = Vec::new();
    if is_deleting(object) {
        states.push("deleted");
    }
    if status["allocation"].is_object() {
        states.push("allocated");
        if !is_empty(&status["reservedFor"]) {
            states.push("reserved");
        }
    } else if !is_deleting(object) {
        states.push("pending");
    }
    vec![name(object), Value::from(states.join(",")), age(object, now)]
}

/// `ResourceSlice`.
pub(super) fn resource_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    vec![
        name(object),
        Value::from(text(spec, "nodeName")),
        Value::from(text(spec, "driver")),
        Value::from(text(&spec["pool"], "name")),
        age(object, now),
    ]
}

/// `ValidatingWebhookConfiguration` and `MutatingWebhookConfiguration`.
pub(super) fn webhooks(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        Value::from(items(&object["webhooks"]).len()),
        age(object, now),
    ]
}

fn policy(object: &Value, now: Timestamp, list: &str) -> Vec<Value> {
    let spec = &object["spec"];
    let parameters = &spec["paramKind"];
    let parameters = if parameters.is_object() {
        format!("{}/{}", text(parameters, "apiVersion"), text(parameters, "kind"))
    } else {
        "<unset>".to_owned()
    };
    vec![
        name(object),
        Value::from(items(&spec[list]).len()),
        Value::from(parameters),
        age(object, now),
    ]
}

/// `ValidatingAdmissionPolicy`.
pub(super) fn validating_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    policy(object, now, "validations")
}

/// `MutatingAdmissionPolicy`.
pub(super) fn mutating_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    policy(object, now, "mutations")
}

/// `ValidatingAdmissionPolicyBinding` and `MutatingAdmissionPolicyBinding`.
pub(super) fn policy_binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    let parameters = &spec["paramRef"];
    let reference = match (text(parameters, "namespace"), text(parameters, "name")) {
        _ if !parameters.is_object() => "<unset>".to_owned(),
        ("", "") => "*".to_owned(),
        ("", name) => name.to_owned(),
        (namespace, "") => format!("{namespace}/*"),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    vec![
        name(object),
        Value::from(text(spec, "policyName")),
        Value::from(reference),
        age(object, now),
    ]
}
