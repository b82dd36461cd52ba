//! Roles and bindings.

use serde_json::Value;

use super::rules::{invalid_all, label_selector};
use crate::access::{is_empty, items, text};
use crate::field::{Error, ErrorList, Path};
use crate::names;

const GROUP: &str = "rbac.authorization.k8s.io";

/// `Role` and `ClusterRole`
pub(super) fn role(errors: &mut ErrorList, _spec: &Path, object: &Value) {
    let namespaced = text(object, "kind") == "Role";
    for (at, rule) in items(&object["rules"]).iter().enumerate() {
        let path = Path::new("rules").index(at);
        if is_empty(&rule["verbs"]) {
            errors.push(Error::required(
                &path.child("verbs"),
                "verbs must contain at least one value",
            ));
        }
        if !is_empty(&rule["nonResourceURLs"]) {
            let urls = rule["nonResourceURLs"].clone();
            let path = path.child("nonResourceURLs");
            if namespaced {
                let why = "namespaced rules cannot apply to non-resource URLs";
                errors.push(Error::invalid(&path, urls.clone(), why));
            }
            let resources = ["apiGroups", "resources", "resourceNames"]
                .iter()
                .any(|field| !is_empty(&rule[*field]));
            if resources {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(Error::invalid(&path, urls, why));
            }
            continue;
        }
        if is_empty(&rule["apiGroups"]) {
            let why = "resource rules must supply at least one api group";
            errors.push(Error::required(&path.child("apiGroups"), why));
        }
        if is_empty(&rule["resources"]) {
            let why = "resource rules must supply at least one resource";
            errors.push(Error::required(&path.child("resources"), why));
        }
    }
    let aggregation = &object["aggregationRule"];
    if aggregation.is_object() {
        let path = Path::new("aggregationRule").child("clusterRoleSelectors");
        if is_empty(&aggregation["clusterRoleSelectors"]) {
            let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(Error::required(&path, why));
        }
        for (at, selector) in items(&aggregation["clusterRoleSelectors"]).iter().enumerate() {
            label_selector(errors, &path.index(at), selector);
        }
    }
}

/// `RoleBinding` and `ClusterRoleBinding`
pub(super) fn binding(errors: &mut ErrorList, _spec: &Path, object: &Value) {
    let role = &object["roleRef"];
    let path = Path::new("roleRef");
    let cluster = text(object, "kind") == "ClusterRoleBinding";
    if text(role, "apiGroup") != GROUP {
        errors.push(Error::not_supported(
            &path.child("apiGroup"),
            text(role, "apiGroup"),
            &[GROUP],
        ));
    }
    let kinds: &[&str] = if cluster {
        &["ClusterRole"]
    } else {
        &["ClusterRole", "Role"]
    };
    if !kinds.contains(&text(role, "kind")) {
        errors.push(Error::not_supported(
            &path.child("kind"),
            text(role, "kind"),
            kinds,
        ));
    }
    match text(role, "name") {
        "" => errors.push(Error::required(&path.child("name"), "")),
        name => invalid_all(errors, &path.child("name"), name, names::path_segment_name(name)),
    }
    for (at, subject) in items(&object["subjects"]).iter().enumerate() {
        let path = Path::new("subjects").index(at);
        let (kind, name, group) = (
            text(subject, "kind"),
            text(subject, "name"),
            text(subject, "apiGroup"),
        );
        if name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        }
        let wanted = match kind {
            "ServiceAccount" => {
                if !name.is_empty() {
                    invalid_all(errors, &path.child("name"), name, names::dns1123_subdomain(name));
                }
                if cluster && text(subject, "namespace").is_empty() {
                    errors.push(Error::required(&path.child("namespace"), ""));
                }
                ""
            }
            "User" | "Group" => GROUP,
            other => {
                errors.push(Error::not_supported(
                    &path.child("kind"),
                    other,
                    &["Group", "ServiceAccount", "User"],
                ));
                continue;
            }
        };
        if group != wanted {
            errors.push(Error::not_supported(&path.child("apiGroup"), group, &[wanted]));
        }
    }
}

/// The role of a binding stays.
pub(super) fn binding_update(errors: &mut ErrorList, _spec: &Path, new: &Value, old: &Value) {
    if new["roleRef"] != old["roleRef"] {
        errors.push(Error::invalid(
            &Path::new("roleRef"),
            new["roleRef"].clone(),
            "cannot change roleRef",
        ));
    }
}
