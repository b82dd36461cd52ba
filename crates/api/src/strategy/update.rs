//! What is reset and set when an object is changed.

use serde_json::{Value, json};

use super::create::{raise_generation, raise_template_generation};
use super::kinds::{Generation, raises_generation, rule_of};
use crate::access::{Fields, ensure, int, is_empty, items, text};
use crate::gvk::GroupVersionKind;

/// Takes from `old` what a write to the object itself or to `subresource` cannot change, and raises the generation where the
/// kind says so. `now` is a `metav1.Time`.
pub fn prepare_for_update(
    gvk: &GroupVersionKind,
    subresource: &str,
    new: &mut Value,
    old: &Value,
    now: &str,
) {
    let rule = rule_of(gvk);
    match (&*gvk.group, &*gvk.kind, subresource) {
        (_, _, "status") => return prepare_for_status_update(gvk, new, old, now),
        // The binding sets both the node and the condition; nothing of it is the client's.
        ("", "Pod", "binding" | "eviction") => {}
        ("", "Pod", "ephemeralcontainers") => only_ephemeral_containers(new, old),
        ("", "Pod", "resize") => only_resources(new, old),
        ("", "Namespace", "finalize") => copy(new, old, "status"),
        ("certificates.k8s.io", "CertificateSigningRequest", "approval") => approval(new, old, now),
        _ => main_resource(gvk, rule.resets_status, new, old),
    }
    if raises_generation(rule.generation, new, old) {
        raise_generation(new, old);
    } else if rule.generation != Generation::None {
        keep_metadata(new, old, &["generation"]);
    }
}

fn main_resource(gvk: &GroupVersionKind, resets_status: bool, new: &mut Value, old: &Value) {
    if resets_status || (gvk.group.is_empty() && gvk.kind == "Node") {
        copy(new, old, "status");
    }
    match (&*gvk.group, &*gvk.kind) {
        ("", "Namespace") => match old["spec"].get("finalizers") {
            Some(finalizers) => new["spec"]["finalizers"] = finalizers.clone(),
            None => {
                new["spec"].as_object_mut().map(|spec| spec.remove("finalizers"));
            }
        },
        ("certificates.k8s.io", "CertificateSigningRequest") => copy(new, old, "spec"),
        ("apps", "DaemonSet") => raise_template_generation(new, old),
        ("", "Service") => super::service::update(new, old),
        _ => {}
    }
}

/// Takes everything but the status (and metadata that status updates may change) from `old`. `now` is a `metav1.Time`.
pub fn prepare_for_status_update(gvk: &GroupVersionKind, new: &mut Value, old: &Value, now: &str) {
    keep_metadata(new, old, rule_of(gvk).status_keeps);
    keep_metadata(new, old, &["generation"]);
    if let Some(fields) = new.as_object_mut() {
        fields.retain(|name, _| matches!(&**name, "apiVersion" | "kind" | "metadata" | "status"));
        for (name, value) in old.as_object().into_iter().flatten() {
            if !matches!(&**name, "apiVersion" | "kind" | "metadata" | "status") {
                fields.insert(name.clone(), value.clone());
            }
        }
    }
    match (&*gvk.group, &*gvk.kind) {
        ("", "Pod") => pod_status(new, old),
        ("", "PersistentVolume") => {
            let phase = |volume: &Value| text(&volume["status"], "phase").to_owned();
            if phase(new) != phase(old)
                && new["status"]["lastPhaseTransitionTime"] == old["status"]["lastPhaseTransitionTime"]
            {
                new["status"]["lastPhaseTransitionTime"] = Value::from(now);
            }
        }
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            keep_approval(new, old);
            condition_times(new, old, now);
        }
        _ => {}
    }
}

fn pod_status(new: &mut Value, old: &Value) {
    let Some(status) = new.as_object_mut().map(|pod| ensure(pod, "status")) else {
        return;
    };
    let before = &old["status"];
    if status.get("qosClass").is_none_or(is_empty) && !before["qosClass"].is_null() {
        status.insert("qosClass".to_owned(), before["qosClass"].clone());
    }
    if status
        .get("observedGeneration")
        .and_then(Value::as_i64)
        .unwrap_or_default()
        == 0
        && int(before, "observedGeneration") != 0
    {
        status.insert(
            "observedGeneration".to_owned(),
            before["observedGeneration"].clone(),
        );
    }
    let Some(Value::Array(conditions)) = status.get_mut("conditions") else {
        return;
    };
    for condition in conditions {
        let known = items(&before["conditions"])
            .iter()
            .find(|c| c["type"] == condition["type"]);
        let generation = known.map_or(0, |c| int(c, "observedGeneration"));
        if int(condition, "observedGeneration") == 0 && generation != 0 {
            condition["observedGeneration"] = Value::from(generation);
        }
    }
}

fn copy(new: &mut Value, old: &Value, field: &str) {
    let Some(fields) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => fields.insert(field.to_owned(), value.clone()),
        None => fields.remove(field),
    };
}

/// Makes fields of the metadata what they were.
pub(super) fn keep_metadata(new: &mut Value, old: &Value, names: &[&str]) {
    if names.is_empty() {
        return;
    }
    let Some(metadata) = new.as_object_mut().map(|fields| ensure(fields, "metadata")) else {
        return;
    };
    for name in names {
        match old["metadata"].get(name) {
            Some(value) => metadata.insert((*name).to_owned(), value.clone()),
            None => metadata.remove(*name),
        };
    }
}

const KEPT: &[&str] = &[
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "deletionTimestamp",
];

fn only_ephemeral_containers(new: &mut Value, old: &Value) {
    let containers = new["spec"]["ephemeralContainers"].take();
    copy(new, old, "spec");
    copy(new, old, "status");
    keep_metadata(new, old, KEPT);
    if let Some(spec) = new["spec"].as_object_mut() {
        if containers.is_null() {
            spec.remove("ephemeralContainers");
        } else {
            spec.insert("ephemeralContainers".to_owned(), containers);
        }
    }
}

fn only_resources(new: &mut Value, old: &Value) {
    let mut spec = old["spec"].clone();
    for list in ["containers", "initContainers"] {
        let (given, known) = (items(&new["spec"][list]), items(&old["spec"][list]));
        let same = given.len() == known.len() && given.iter().zip(known).all(|(a, b)| a["name"] == b["name"]);
        if !same {
            // Validation refuses the change of containers.
            spec[list] = new["spec"][list].clone();
            continue;
        }
        let Some(Value::Array(containers)) = spec.get_mut(list) else {
            continue;
        };
        for (container, given) in containers.iter_mut().filter_map(Value::as_object_mut).zip(given) {
            take(container, given, "resources");
            take(container, given, "resizePolicy");
        }
    }
    if let Some(spec) = spec.as_object_mut() {
        take(spec, &new["spec"], "resources");
    }
    new["spec"] = spec;
    copy(new, old, "status");
    keep_metadata(new, old, KEPT);
}

fn take(fields: &mut Fields, from: &Value, name: &str) {
    match from.get(name) {
        Some(value) => fields.insert(name.to_owned(), value.clone()),
        None => fields.remove(name),
    };
}

/// An approval changes the conditions alone.
fn approval(new: &mut Value, old: &Value, now: &str) {
    let conditions = new["status"]["conditions"].take();
    copy(new, old, "spec");
    copy(new, old, "status");
    if let Some(fields) = new.as_object_mut() {
        let status = ensure(fields, "status");
        if conditions.is_null() {
            status.remove("conditions");
        } else {
            status.insert("conditions".to_owned(), conditions);
        }
    }
    condition_times(new, old, now);
}

fn is_approval(condition: &Value) -> bool {
    matches!(text(condition, "type"), "Approved" | "Denied")
}

/// A status update of a certificate request leaves approvals and denials as they were.
fn keep_approval(new: &mut Value, old: &Value) {
    let kept = items(&old["status"]["conditions"])
        .iter()
        .filter(|c| is_approval(c))
        .cloned();
    let others = items(&new["status"]["conditions"])
        .iter()
        .filter(|c| !is_approval(c))
        .cloned();
    let conditions: Vec<Value> = kept.chain(others).collect();
    if !conditions.is_empty() {
        new["status"]["conditions"] = json!(conditions);
    } else if let Some(status) = new["status"].as_object_mut() {
        status.remove("conditions");
    }
}

/// New conditions get the time of the write.
fn condition_times(new: &mut Value, old: &Value, now: &str) {
    let Some(Value::Array(conditions)) = new.get_mut("status").and_then(|s| s.get_mut("conditions")) else {
        return;
    };
    for condition in conditions {
        let known = items(&old["status"]["conditions"])
            .iter()
            .find(|c| c["type"] == condition["type"]);
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = Value::from(now);
        }
        if condition["lastTransitionTime"].is_null() {
            let same =
                known.filter(|c| c["status"] == condition["status"] && !c["lastTransitionTime"].is_null());
            condition["lastTransitionTime"] =
                same.map_or_else(|| Value::from(now), |c| c["lastTransitionTime"].clone());
        }
    }
}
