//! Volumes, claims and classes.

use serde_json::Value;

use super::rules::{self, required_text};
use crate::access::{entries, is_empty, items, text};
use crate::field::{Error, ErrorList, Path};

/// Fields of a volume's spec that are no source.
const VOLUME_FIELDS: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

fn sources(spec: &Value) -> Vec<(&String, &Value)> {
    entries(spec)
        .filter(|(name, value)| !VOLUME_FIELDS.contains(&&***name) && value.is_object())
        .collect()
}

/// `PersistentVolume`
pub(super) fn persistent_volume(errors: &mut ErrorList, path: &Path, object: &Value) {
    let spec = &object["spec"];
    if is_empty(&spec["accessModes"]) {
        errors.push(Error::required(&path.child("accessModes"), ""));
    }
    if is_empty(&spec["capacity"]) {
        errors.push(Error::required(&path.child("capacity"), ""));
    }
    if spec["capacity"]["storage"].is_null() || entries(&spec["capacity"]).count() > 1 {
        errors.push(Error::not_supported(
            &path.child("capacity"),
            spec["capacity"].clone(),
            &["storage"],
        ));
    }
    for (name, value) in entries(&spec["capacity"]) {
        if rules::quantity(value).is_some_and(|q| q.sign() <= 0) {
            errors.push(Error::invalid(
                &path.child("capacity").key(name.clone()),
                value.clone(),
                "must be greater than zero",
            ));
        }
    }
    let given = sources(spec);
    match &given[..] {
        [] => errors.push(Error::required(path, "must specify a volume type")),
        [_] => {}
        [_, others @ ..] => {
            for (kind, _) in others {
                let why = "may not specify more than 1 volume type";
                errors.push(Error::forbidden(&path.child_owned(kind.as_str()), why));
            }
        }
    }
    for (kind, field) in [
        ("hostPath", "path"),
        ("local", "path"),
        ("nfs", "server"),
        ("nfs", "path"),
        ("csi", "driver"),
        ("csi", "volumeHandle"),
    ] {
        if spec[kind].is_object() {
            required_text(errors, &path.child(kind), &spec[kind], field);
        }
    }
    let required = &spec["nodeAffinity"]["required"];
    if spec["local"].is_object() && !required.is_object() {
        let why = "Local volume requires node affinity";
        errors.push(Error::required(&path.child("nodeAffinity"), why));
    }
    for (at, term) in items(&required["nodeSelectorTerms"]).iter().enumerate() {
        let path = path
            .children(&["nodeAffinity", "required", "nodeSelectorTerms"])
            .index(at);
        super::scheduling::node_term(errors, &path, term);
    }
}

/// What of a volume stays: where its data is.
pub(super) fn persistent_volume_update(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    if sources(&new["spec"]) != sources(&old["spec"]) {
        let why = "spec.persistentvolumesource is immutable after creation";
        errors.push(Error::forbidden(&path.child("persistentvolumesource"), why));
    }
    rules::immutable(
        errors,
        &path.child("volumeMode"),
        &new["spec"]["volumeMode"],
        &old["spec"]["volumeMode"],
    );
    let (given, known) = (&new["spec"]["nodeAffinity"], &old["spec"]["nodeAffinity"]);
    if !known.is_null() && given != known {
        errors.push(Error::invalid(
            &path.child("nodeAffinity"),
            given.clone(),
            rules::IMMUTABLE,
        ));
    }
}

/// `PersistentVolumeClaim`
pub(super) fn persistent_volume_claim(errors: &mut ErrorList, path: &Path, object: &Value) {
    claim_spec(errors, path, &object["spec"]);
}

/// `PersistentVolumeClaimSpec`
pub(super) fn claim_spec(errors: &mut ErrorList, path: &Path, spec: &Value) {
    if is_empty(&spec["accessModes"]) {
        errors.push(Error::required(
            &path.child("accessModes"),
            "at least 1 access mode is required",
        ));
    }
    if spec["selector"].is_object() {
        rules::label_selector(errors, &path.child("selector"), &spec["selector"]);
    }
    let modes = items(&spec["accessModes"]);
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        let why = "may not use ReadWriteOncePod with other access modes";
        errors.push(Error::forbidden(&path.child("accessModes"), why));
    }
    let storage_path = path.children(&["resources", "requests"]).key("storage");
    match &spec["resources"]["requests"]["storage"] {
        Value::Null => errors.push(Error::required(&path.children(&["resources"]).key("storage"), "")),
        value => {
            if rules::quantity(value).is_some_and(|q| q.sign() <= 0) {
                errors.push(Error::invalid(
                    &storage_path,
                    value.clone(),
                    "must be greater than zero",
                ));
            }
        }
    }
    if let Some(class) = spec["storageClassName"]
        .as_str()
        .filter(|class| !class.is_empty())
    {
        let messages = crate::names::dns1123_subdomain(class);
        rules::invalid_all(errors, &path.child("storageClassName"), class, messages);
    }
    for field in ["dataSource", "dataSourceRef"] {
        if spec[field].is_object() {
            required_text(errors, &path.child(field), &spec[field], "name");
            required_text(errors, &path.child(field), &spec[field], "kind");
        }
    }
}

/// What of a claim stays: all but its size, once it is bound.
pub(super) fn persistent_volume_claim_update(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    let (spec, before) = (&new["spec"], &old["spec"]);
    let bound = text(&old["status"], "phase") == "Bound";
    let fixed = |spec: &Value| {
        let mut spec = spec.clone();
        if let Some(fields) = spec.as_object_mut() {
            if text(before, "volumeName").is_empty() {
                // Binding sets it.
                fields.remove("volumeName");
            }
            if before["storageClassName"].is_null() {
                // A default class is filled in later.
                fields.remove("storageClassName");
            }
            if bound {
                fields.remove("resources");
            }
            fields.remove("volumeAttributesClassName");
        }
        spec
    };
    if fixed(spec) != fixed(before) {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound \
                   claims";
        errors.push(Error::forbidden(path, why));
    }
    let size = |spec: &Value| rules::quantity(&spec["resources"]["requests"]["storage"]).map(|q| q.nanos());
    let capacity = rules::quantity(&old["status"]["capacity"]["storage"]).map(|q| q.nanos());
    if bound && size(spec) < size(before) && size(spec) < capacity {
        let path = path.children(&["resources", "requests", "storage"]);
        errors.push(Error::forbidden(
            &path,
            "field can not be less than status.capacity",
        ));
    }
}

/// `StorageClass`
pub(super) fn storage_class(errors: &mut ErrorList, _spec: &Path, object: &Value) {
    let provisioner = required_text(errors, &Path::root(), object, "provisioner");
    if !provisioner.is_empty() {
        let messages = crate::names::qualified_name(&provisioner.to_lowercase());
        rules::invalid_all(errors, &Path::new("provisioner"), provisioner, messages);
    }
    for (key, _) in entries(&object["parameters"]) {
        if key.is_empty() {
            errors.push(Error::invalid(
                &Path::new("parameters"),
                "",
                "field must not be empty.",
            ));
        }
    }
}

/// What of a class stays.
pub(super) fn storage_class_update(errors: &mut ErrorList, _spec: &Path, new: &Value, old: &Value) {
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        if new[field] != old[field] && !(is_empty(&new[field]) && is_empty(&old[field])) {
            errors.push(Error::forbidden(
                &Path::new(field),
                format!("updates to {field} are forbidden."),
            ));
        }
    }
    rules::immutable(
        errors,
        &Path::new("volumeBindingMode"),
        &new["volumeBindingMode"],
        &old["volumeBindingMode"],
    );
}
