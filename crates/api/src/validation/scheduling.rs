//! Where pods may run: tolerations, affinity, spreading.

use serde_json::Value;

use super::rules::{self, invalid_all};
use crate::access::{int, is_empty, items, text};
use crate::field::{Error, ErrorList, Path};
use crate::names;

/// `tolerations`
pub(super) fn tolerations(errors: &mut ErrorList, path: &Path, tolerations: &[Value]) {
    for (at, toleration) in tolerations.iter().enumerate() {
        let path = path.index(at);
        let (key, operator, value) = (
            text(toleration, "key"),
            text(toleration, "operator"),
            text(toleration, "value"),
        );
        if !key.is_empty() {
            invalid_all(errors, &path.child("key"), key, names::qualified_name(key));
        }
        if key.is_empty() && operator != "Exists" {
            let why =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(Error::invalid(&path.child("operator"), operator, why));
        }
        if !toleration["tolerationSeconds"].is_null() && text(toleration, "effect") != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(Error::invalid(
                &path.child("effect"),
                text(toleration, "effect"),
                why,
            ));
        }
        match operator {
            "Equal" | "" => invalid_all(errors, &path.child("operator"), value, names::label_value(value)),
            "Exists" if !value.is_empty() => {
                let why = "value must be empty when `operator` is 'Exists'";
                errors.push(Error::invalid(&path.child("operator"), value, why));
            }
            _ => {}
        }
    }
}

/// `affinity`
pub(super) fn affinity(errors: &mut ErrorList, path: &Path, affinity: &Value) {
    let node = &affinity["nodeAffinity"];
    let node_path = path.child("nodeAffinity");
    let required = &node["requiredDuringSchedulingIgnoredDuringExecution"];
    if required.is_object() {
        let path = node_path
            .child("requiredDuringSchedulingIgnoredDuringExecution")
            .child("nodeSelectorTerms");
        if is_empty(&required["nodeSelectorTerms"]) {
            errors.push(Error::required(
                &path,
                "must have at least one node selector term",
            ));
        }
        for (at, term) in items(&required["nodeSelectorTerms"]).iter().enumerate() {
            node_term(errors, &path.index(at), term);
        }
    }
    for (at, preferred) in items(&node["preferredDuringSchedulingIgnoredDuringExecution"])
        .iter()
        .enumerate()
    {
        let path = node_path
            .child("preferredDuringSchedulingIgnoredDuringExecution")
            .index(at);
        weight(errors, &path, preferred);
        node_term(errors, &path.child("preference"), &preferred["preference"]);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let path = path.child(kind);
        let list = &affinity[kind]["requiredDuringSchedulingIgnoredDuringExecution"];
        for (at, term) in items(list).iter().enumerate() {
            pod_term(
                errors,
                &path
                    .child("requiredDuringSchedulingIgnoredDuringExecution")
                    .index(at),
                term,
            );
        }
        let list = &affinity[kind]["preferredDuringSchedulingIgnoredDuringExecution"];
        for (at, term) in items(list).iter().enumerate() {
            let path = path
                .child("preferredDuringSchedulingIgnoredDuringExecution")
                .index(at);
            weight(errors, &path, term);
            pod_term(errors, &path.child("podAffinityTerm"), &term["podAffinityTerm"]);
        }
    }
}

fn weight(errors: &mut ErrorList, path: &Path, term: &Value) {
    let weight = int(term, "weight");
    if !(1..=100).contains(&weight) {
        errors.push(Error::invalid(
            &path.child("weight"),
            weight,
            "must be in the range 1-100",
        ));
    }
}

/// A term of a node selector.
pub(super) fn node_term(errors: &mut ErrorList, path: &Path, term: &Value) {
    for list in ["matchExpressions", "matchFields"] {
        for (at, requirement) in items(&term[list]).iter().enumerate() {
            let path = path.child(list).index(at);
            let values = items(&requirement["values"]);
            match text(requirement, "operator") {
                "In" | "NotIn" if values.is_empty() => {
                    let why = "must be specified when `operator` is 'In' or 'NotIn'";
                    errors.push(Error::required(&path.child("values"), why));
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => {
                    let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    errors.push(Error::forbidden(&path.child("values"), why));
                }
                "Gt" | "Lt" if values.len() != 1 => {
                    let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                    errors.push(Error::required(&path.child("values"), why));
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
                other => {
                    errors.push(Error::invalid(
                        &path.child("operator"),
                        other,
                        "not a valid selector operator",
                    ));
                }
            }
            let key = text(requirement, "key");
            if list == "matchExpressions" {
                invalid_all(errors, &path.child("key"), key, names::qualified_name(key));
            } else if key != "metadata.name" {
                errors.push(Error::not_supported(&path.child("key"), key, &["metadata.name"]));
            }
        }
    }
}

fn pod_term(errors: &mut ErrorList, path: &Path, term: &Value) {
    rules::label_selector(errors, &path.child("labelSelector"), &term["labelSelector"]);
    rules::label_selector(
        errors,
        &path.child("namespaceSelector"),
        &term["namespaceSelector"],
    );
    for namespace in items(&term["namespaces"]) {
        let namespace = namespace.as_str().unwrap_or_default();
        invalid_all(
            errors,
            &path.child("namespaces"),
            namespace,
            names::dns1123_label(namespace),
        );
    }
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.push(Error::required(&path.child("topologyKey"), "can not be empty"));
    } else {
        invalid_all(
            errors,
            &path.child("topologyKey"),
            key,
            names::qualified_name(key),
        );
    }
}

/// `topologySpreadConstraints`
pub(super) fn topology_spread(errors: &mut ErrorList, path: &Path, constraints: &[Value]) {
    let mut seen = Vec::new();
    for (at, constraint) in constraints.iter().enumerate() {
        let path = path.index(at);
        rules::positive(errors, &path, constraint, "maxSkew");
        if constraint["maxSkew"].is_null() {
            errors.push(Error::invalid(
                &path.child("maxSkew"),
                0,
                "must be greater than 0",
            ));
        }
        let key = text(constraint, "topologyKey");
        if key.is_empty() {
            errors.push(Error::required(&path.child("topologyKey"), "can not be empty"));
        } else {
            invalid_all(
                errors,
                &path.child("topologyKey"),
                key,
                names::qualified_name(key),
            );
        }
        let when = text(constraint, "whenUnsatisfiable");
        if seen.contains(&(key, when)) {
            let pair = format!("{{{key}, {when}}}");
            errors.push(Error::duplicate(
                &path.child("{topologyKey, whenUnsatisfiable}"),
                pair,
            ));
        }
        seen.push((key, when));
        rules::positive(errors, &path, constraint, "minDomains");
        if !constraint["minDomains"].is_null() && when != "DoNotSchedule" {
            let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
            errors.push(Error::invalid(
                &path.child("minDomains"),
                constraint["minDomains"].clone(),
                why,
            ));
        }
        rules::label_selector(errors, &path.child("labelSelector"), &constraint["labelSelector"]);
    }
}
