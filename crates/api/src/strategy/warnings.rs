//! Texts of `Warning` headers: what is legal but likely a mistake, and kinds that are deprecated.

use std::collections::HashSet;

use serde_json::Value;

use crate::access::{int, items, text};
use crate::field::Path;
use crate::gvk::GroupVersionKind;
use crate::names;
use crate::quantity::Quantity;

/// The deprecation that every request for a kind is told of.
pub fn deprecation(gvk: &GroupVersionKind) -> Option<&'static str> {
    match (&*gvk.group, &*gvk.version, &*gvk.kind) {
        ("", "v1", "ComponentStatus") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        ("", "v1", "Endpoints") => {
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        }
        _ => None,
    }
}

/// What the author of a new object should know.
pub fn warnings_on_create(gvk: &GroupVersionKind, object: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let spec = Path::new("spec");
    match (&*gvk.group, &*gvk.kind) {
        ("", "Pod") => {
            let problems = names::dns1123_label(text(&object["metadata"], "name"));
            if !problems.is_empty() {
                warnings.push(format!(
                    "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; \
                     a DNS label is recommended: [{}]",
                    problems.join(" ")
                ));
            }
            pod_spec(&spec, &object["spec"], &mut warnings);
        }
        ("apps", _) | ("", "ReplicationController") | ("batch", "Job") => {
            let path = spec.children(&["template", "spec"]);
            pod_spec(&path, &object["spec"]["template"]["spec"], &mut warnings);
        }
        ("batch", "CronJob") => {
            let path = spec.children(&["jobTemplate", "spec", "template", "spec"]);
            pod_spec(
                &path,
                &object["spec"]["jobTemplate"]["spec"]["template"]["spec"],
                &mut warnings,
            );
        }
        ("networking.k8s.io", "Ingress")
            if !object["metadata"]["annotations"]["kubernetes.io/ingress.class"].is_null() =>
        {
            let why = "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' \
                       instead";
            warnings.push(why.to_owned());
        }
        _ => {}
    }
    warnings
}

const OLD_NODE_LABELS: [(&str, &str); 5] = [
    (
        "beta.kubernetes.io/arch",
        "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
    ),
    (
        "beta.kubernetes.io/os",
        "deprecated since v1.14; use \"kubernetes.io/os\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
];

fn pod_spec(path: &Path, spec: &Value, warnings: &mut Vec<String>) {
    for (label, why) in OLD_NODE_LABELS {
        if !spec["nodeSelector"][label].is_null() {
            warnings.push(format!("{}: {why}", path.child("nodeSelector").key(label)));
        }
    }
    if int(spec, "terminationGracePeriodSeconds") < 0 {
        warnings.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            path.child("terminationGracePeriodSeconds")
        ));
    }
    for list in ["initContainers", "containers"] {
        for (at, container) in items(&spec[list]).iter().enumerate() {
            container_warnings(&path.child(list).index(at), container, warnings);
        }
    }
    duplicate_ports(path, spec, warnings);
}

fn container_warnings(path: &Path, container: &Value, warnings: &mut Vec<String>) {
    for list in ["limits", "requests"] {
        let resources = &container["resources"][list];
        for name in ["memory", "ephemeral-storage"] {
            let Some(given) = resources[name].as_str() else {
                continue;
            };
            let whole = Quantity::parse(given).is_ok_and(|q| q.nanos() % 1_000_000_000 == 0);
            if !whole {
                warnings.push(format!(
                    "{}: fractional byte value {given:?} is invalid, must be an integer",
                    path.children(&["resources", list]).key(name)
                ));
            }
        }
    }
    let mut seen: HashSet<&str> = HashSet::new();
    for (at, env) in items(&container["env"]).iter().enumerate() {
        let name = text(env, "name");
        if !seen.insert(name) && !name.is_empty() {
            warnings.push(format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                path.child("env").index(at)
            ));
        }
    }
}

fn duplicate_ports(path: &Path, spec: &Value, warnings: &mut Vec<String>) {
    for (at, container) in items(&spec["containers"]).iter().enumerate() {
        let ports = path.child("containers").index(at).child("ports");
        let list = items(&container["ports"]);
        for (index, port) in list.iter().enumerate() {
            let same = |other: &&Value| {
                ["containerPort", "protocol", "hostPort", "hostIP"]
                    .iter()
                    .all(|field| other[*field] == port[*field])
            };
            if let Some(first) = list[..index].iter().position(|other| same(&other)) {
                warnings.push(format!(
                    "{}: duplicate port definition with {}",
                    ports.index(index),
                    ports.index(first)
                ));
            }
        }
    }
}
