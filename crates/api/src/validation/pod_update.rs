//! What of a pod may change, and through which subresource.

use serde_json::Value;

use super::container::{self, ContainerKind, Scope};

use crate::access::{Fields, int, items, text};
use crate::field::{Error, ErrorList, Path};

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Judges a change of a pod.
pub(super) fn update(errors: &mut ErrorList, subresource: &str, new: &Value, old: &Value) {
    let path = Path::new("spec");
    match subresource {
        "ephemeralcontainers" => ephemeral(errors, &path, new, old),
        "resize" => resize(errors, &path, new, old),
        // The server's own change: it sets the node.
        "binding" | "eviction" => {}
        _ => spec(errors, &path, &new["spec"], &old["spec"]),
    }
}

fn spec(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    let lists = ["containers", "initContainers"];
    for list in lists {
        if items(&new[list]).len() != items(&old[list]).len() {
            let why = "pod updates may not add or remove containers";
            errors.push(Error::forbidden(&path.child(list), why));
            return;
        }
    }
    for list in lists {
        for (at, container) in items(&new[list]).iter().enumerate() {
            let image = path.child(list).index(at).child("image");
            let given = text(container, "image");
            if given.is_empty() {
                errors.push(Error::required(&image, ""));
            } else if given.trim() != given {
                errors.push(Error::invalid(
                    &image,
                    given,
                    "must not have leading or trailing whitespace",
                ));
            }
        }
    }
    let deadline_path = path.child("activeDeadlineSeconds");
    match (
        old["activeDeadlineSeconds"].as_i64(),
        new["activeDeadlineSeconds"].as_i64(),
    ) {
        (_, Some(given)) if given < 0 => {
            errors.push(Error::invalid(
                &deadline_path,
                given,
                "must be between 0 and 2147483647, inclusive",
            ));
        }
        (Some(known), Some(given)) if given > known => {
            let why = "must be less than or equal to previous value";
            errors.push(Error::invalid(&deadline_path, given, why));
        }
        (Some(_), None) => {
            errors.push(Error::invalid(
                &deadline_path,
                Value::Null,
                "must not update from a positive integer to nil value",
            ));
        }
        _ => {}
    }
    if !errors.is_empty() {
        return;
    }
    if mutable_removed(new, old, path, errors) != mutable_removed(old, old, path, &mut ErrorList::new()) {
        errors.push(Error::forbidden(path, MAY_CHANGE));
    }
}

/// The spec without what may change; says so where a change goes too far.
fn mutable_removed(spec: &Value, old: &Value, path: &Path, errors: &mut ErrorList) -> Value {
    let mut copy = spec.clone();
    let Some(fields) = copy.as_object_mut() else {
        return copy;
    };
    for list in ["containers", "initContainers"] {
        crate::access::each(fields, list, |container| {
            container.remove("image");
        });
    }
    fields.remove("activeDeadlineSeconds");
    if int(old, "terminationGracePeriodSeconds") < 0 && int(spec, "terminationGracePeriodSeconds") == 1 {
        fields.insert(
            "terminationGracePeriodSeconds".to_owned(),
            old["terminationGracePeriodSeconds"].clone(),
        );
    }
    tolerations(fields, spec, old, path, errors);
    if !items(&old["schedulingGates"]).is_empty() {
        // Gates may be removed, and a gated pod's node selector and affinity may be narrowed.
        let known = items(&old["schedulingGates"]);
        let added = items(&spec["schedulingGates"])
            .iter()
            .any(|gate| !known.contains(gate));
        if added {
            let why = "only deletion is allowed, but found new scheduling gate";
            errors.push(Error::forbidden(&path.child("schedulingGates"), why));
        }
        fields.remove("schedulingGates");
        fields.remove("nodeSelector");
        fields.remove("affinity");
    }
    copy
}

fn tolerations(fields: &mut Fields, spec: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let given = items(&spec["tolerations"]);
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.as_object_mut().map(|t| t.remove("tolerationSeconds"));
        toleration
    };
    let removed = items(&old["tolerations"])
        .iter()
        .any(|known| !given.iter().any(|t| without_seconds(t) == without_seconds(known)));
    if removed {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(Error::forbidden(&path.child("tolerations"), why));
    }
    super::scheduling::tolerations(errors, &path.child("tolerations"), given);
    fields.remove("tolerations");
}

fn ephemeral(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    let path = path.child("ephemeralContainers");
    let (given, known) = (
        &new["spec"]["ephemeralContainers"],
        items(&old["spec"]["ephemeralContainers"]),
    );
    for container in known {
        let name = text(container, "name");
        match items(given).iter().find(|c| text(c, "name") == name) {
            None => {
                let why = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.push(Error::forbidden(&path, why));
            }
            Some(now) if now != container => {
                let why = format!("existing ephemeral containers {name:?} may not be changed\n");
                errors.push(Error::forbidden(&path, why));
            }
            Some(_) => {}
        }
    }
    let volumes: Vec<&str> = items(&new["spec"]["volumes"])
        .iter()
        .map(|v| text(v, "name"))
        .collect();
    let scope = Scope {
        volumes: &volumes,
        host_network: false,
    };
    let mut names: Vec<&str> = Vec::new();
    for list in ["containers", "initContainers"] {
        names.extend(items(&new["spec"][list]).iter().map(|c| text(c, "name")));
    }
    let targets = names.clone();
    container::list(errors, &path, given, ContainerKind::Ephemeral, &scope, &mut names);
    for (at, container) in items(given).iter().enumerate() {
        let path = path.index(at);
        for field in ["ports", "resources"] {
            if !crate::access::is_empty(&container[field]) {
                errors.push(Error::forbidden(
                    &path.child(field),
                    "cannot be set for an Ephemeral Container",
                ));
            }
        }
        let target = text(container, "targetContainerName");
        if !target.is_empty() && !targets.contains(&target) {
            errors.push(Error::not_found(&path.child("targetContainerName"), target));
        }
    }
}

fn resize(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    let qos = |pod: &Value| crate::strategy::pod_resources::qos_class(&pod["spec"]);
    if qos(new) != qos(old) {
        errors.push(Error::invalid(
            path,
            qos(new),
            "Pod QOS Class may not change as a result of resizing",
        ));
    }
    for list in ["containers", "initContainers"] {
        if items(&new["spec"][list]).len() != items(&old["spec"][list]).len() {
            let why = format!("{list} may not be added or removed on resize");
            errors.push(Error::forbidden(&path.child(list), why));
            continue;
        }
        for (at, container) in items(&new["spec"][list]).iter().enumerate() {
            let path = path.child(list).index(at).child("resources");
            container::resources(errors, &path, &container["resources"]);
        }
    }
}
