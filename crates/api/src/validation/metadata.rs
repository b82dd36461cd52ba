//! `metadata`: names, labels, annotations, finalizers, owners.

use serde_json::Value;

use super::rules::{self, IMMUTABLE, NEGATIVE, invalid_all};
use crate::access::{entries, int, items, text};
use crate::field::{Error, ErrorList, Path};
use crate::gvk::{GroupVersion, GroupVersionKind};
use crate::names;

/// Largest sum of an object's annotations.
const ANNOTATIONS_MAX: usize = 256 * 1024;

type NameCheck = fn(&str) -> Vec<String>;

/// What the names of a kind must be.
fn name_check(gvk: &GroupVersionKind) -> NameCheck {
    match (&*gvk.group, &*gvk.kind) {
        ("", "Service") => names::dns1035_label,
        ("", "Namespace") => names::dns1123_label,
        ("rbac.authorization.k8s.io", _) => names::path_segment_name,
        // Checked against the spec, or the name of what they are about.
        ("apiextensions.k8s.io" | "apiregistration.k8s.io", _) => names::path_segment_name,
        ("networking.k8s.io", "IPAddress") => names::ip_address,
        _ => names::dns1123_subdomain,
    }
}

/// Judges the metadata of a new object of a built-in kind.
pub fn validate_metadata(gvk: &GroupVersionKind, namespaced: bool, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("metadata");
    let metadata = &object["metadata"];
    let check = name_check(gvk);
    let prefix = text(metadata, "generateName");
    if !prefix.is_empty() {
        let messages = check(&names::mask_trailing_dash(prefix));
        invalid_all(&mut errors, &path.child("generateName"), prefix, messages);
    }
    let name = text(metadata, "name");
    if name.is_empty() {
        errors.push(Error::required(
            &path.child("name"),
            "name or generateName is required",
        ));
    } else {
        invalid_all(&mut errors, &path.child("name"), name, check(name));
    }
    let namespace = text(metadata, "namespace");
    let namespace_path = path.child("namespace");
    match (namespaced, namespace) {
        (true, "") => errors.push(Error::required(&namespace_path, "")),
        (true, namespace) => {
            invalid_all(
                &mut errors,
                &namespace_path,
                namespace,
                names::dns1123_label(namespace),
            );
        }
        (false, "") => {}
        (false, _) => errors.push(Error::forbidden(&namespace_path, "not allowed on this type")),
    }
    if int(metadata, "generation") < 0 {
        errors.push(Error::invalid(
            &path.child("generation"),
            int(metadata, "generation"),
            NEGATIVE,
        ));
    }
    common(&mut errors, &path, metadata, has_standard_finalizers(gvk));
    errors
}

/// Judges changed metadata of an object of any kind.
pub fn validate_metadata_update(gvk: &GroupVersionKind, new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("metadata");
    let (metadata, before) = (&new["metadata"], &old["metadata"]);
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        if metadata[field] != before[field] {
            errors.push(Error::invalid(
                &path.child(field),
                metadata[field].clone(),
                IMMUTABLE,
            ));
        }
    }
    if !before["deletionTimestamp"].is_null() {
        let known = finalizers(before);
        let added: Vec<&str> = finalizers(metadata)
            .into_iter()
            .filter(|f| !known.contains(f))
            .collect();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|f| crate::field::quote(f)).collect();
            errors.push(Error::forbidden(
                &path.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers \
                     []string{{{}}}",
                    list.join(", ")
                ),
            ));
        }
    }
    if int(metadata, "generation") < int(before, "generation") {
        let generation = int(metadata, "generation");
        errors.push(Error::invalid(
            &path.child("generation"),
            generation,
            "must not be decremented",
        ));
    }
    common(&mut errors, &path, metadata, has_standard_finalizers(gvk));
    errors
}

fn finalizers(metadata: &Value) -> Vec<&str> {
    items(&metadata["finalizers"])
        .iter()
        .filter_map(Value::as_str)
        .collect()
}

/// Whether finalizers without a domain must be standard ones. Upstream asks that of its own kinds, but not of those that the
/// extension servers keep.
fn has_standard_finalizers(gvk: &GroupVersionKind) -> bool {
    !matches!(&*gvk.group, "apiextensions.k8s.io" | "apiregistration.k8s.io")
        && crate::resources::by_gvk(&gvk.group, &gvk.version, &gvk.kind).is_some()
}

/// What holds of new and changed metadata, and of the metadata of templates.
fn common(errors: &mut ErrorList, path: &Path, metadata: &Value, standard_finalizers: bool) {
    rules::labels(errors, &path.child("labels"), &metadata["labels"]);
    annotations(errors, &path.child("annotations"), &metadata["annotations"]);
    owners(
        errors,
        &path.child("ownerReferences"),
        items(&metadata["ownerReferences"]),
    );
    let path = path.child("finalizers");
    let list = finalizers(metadata);
    for finalizer in &list {
        invalid_all(errors, &path, finalizer, names::qualified_name(finalizer));
        if standard_finalizers
            && !finalizer.contains('/')
            && !matches!(*finalizer, "kubernetes" | "orphan" | "foregroundDeletion")
        {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(Error::invalid(&path, *finalizer, why));
        }
    }
    if list.contains(&"orphan") && list.contains(&"foregroundDeletion") {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(Error::invalid(&path, metadata["finalizers"].clone(), why));
    }
}

/// Annotations of objects and templates.
pub(super) fn annotations(errors: &mut ErrorList, path: &Path, value: &Value) {
    let mut size = 0;
    for (key, value) in entries(value) {
        invalid_all(errors, path, key, names::qualified_name(&key.to_lowercase()));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        errors.push(Error::too_long(path, ANNOTATIONS_MAX));
    }
}

fn owners(errors: &mut ErrorList, path: &Path, owners: &[Value]) {
    let mut controller: Option<&str> = None;
    for owner in owners {
        let version = GroupVersion::parse(text(owner, "apiVersion"))
            .map(|gv| gv.version)
            .unwrap_or_default();
        if version.is_empty() {
            let why = "version must not be empty";
            errors.push(Error::invalid(
                &path.child("apiVersion"),
                text(owner, "apiVersion"),
                why,
            ));
        }
        for field in ["kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                errors.push(Error::invalid(
                    &path.child(field),
                    "",
                    format!("{field} must not be empty"),
                ));
            }
        }
        if text(owner, "kind") == "Event" && text(owner, "apiVersion") == "v1" {
            errors.push(Error::invalid(
                path,
                owner.clone(),
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if owner["controller"] == true {
            if let Some(first) = controller {
                let why = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}",
                    text(owner, "name")
                );
                errors.push(Error::invalid(path, Value::from(owners.to_vec()), why));
            }
            controller = Some(text(owner, "name"));
        }
    }
}
