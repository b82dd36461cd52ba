//! Volumes, claims, classes and drivers.

use jiff::Timestamp;
use serde_json::Value;

use super::format::{age, is_deleting, name, or_none, texts};
use crate::access::{flag, items, text};

fn access_modes(value: &Value) -> String {
    const MODES: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let given = texts(value);
    let short: Vec<&str> = MODES
        .iter()
        .filter(|(mode, _)| given.contains(mode))
        .map(|(_, short)| *short)
        .collect();
    short.join(",")
}

fn class(object: &Value) -> Value {
    let annotation = &object["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"];
    let class = annotation
        .as_str()
        .unwrap_or_else(|| text(&object["spec"], "storageClassName"));
    Value::from(class)
}

fn phase(object: &Value) -> Value {
    Value::from(if is_deleting(object) {
        "Terminating"
    } else {
        text(&object["status"], "phase")
    })
}

fn set_or_unset(value: &Value) -> Value {
    Value::from(value.as_str().unwrap_or("<unset>"))
}

fn storage(list: &Value) -> Value {
    Value::from(list["storage"].as_str().unwrap_or("0"))
}

/// `PersistentVolume`.
pub(super) fn persistent_volume(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    let claim = &spec["claimRef"];
    let claim = if claim.is_object() {
        format!("{}/{}", text(claim, "namespace"), text(claim, "name"))
    } else {
        String::new()
    };
    vec![
        name(object),
        storage(&spec["capacity"]),
        Value::from(access_modes(&spec["accessModes"])),
        Value::from(text(spec, "persistentVolumeReclaimPolicy")),
        phase(object),
        Value::from(claim),
        class(object),
        set_or_unset(&spec["volumeAttributesClassName"]),
        Value::from(text(&object["status"], "reason")),
        age(object, now),
        set_or_unset(&spec["volumeMode"]),
    ]
}

/// `PersistentVolumeClaim`.
pub(super) fn persistent_volume_claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let volume = text(spec, "volumeName");
    let (capacity, modes) = if volume.is_empty() {
        (Value::from(""), String::new())
    } else {
        (storage(&status["capacity"]), access_modes(&status["accessModes"]))
    };
    vec![
        name(object),
        phase(object),
        Value::from(volume),
        capacity,
        Value::from(modes),
        class(object),
        set_or_unset(&spec["volumeAttributesClassName"]),
        age(object, now),
        set_or_unset(&spec["volumeMode"]),
    ]
}

fn default_name(object: &Value, annotations: &[&str]) -> Value {
    let is_default = annotations
        .iter()
        .any(|a| object["metadata"]["annotations"][*a] == "true");
    let suffix = if is_default { " (default)" } else { "" };
    Value::from(format!("{}{suffix}", text(&object["metadata"], "name")))
}

/// `StorageClass`.
pub(super) fn storage_class(object: &Value, now: Timestamp) -> Vec<Value> {
    const DEFAULT: [&str; 2] = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ];
    vec![
        default_name(object, &DEFAULT),
        Value::from(text(object, "provisioner")),
        Value::from(object["reclaimPolicy"].as_str().unwrap_or("Delete")),
        Value::from(object["volumeBindingMode"].as_str().unwrap_or("Immediate")),
        Value::from(flag(object, "allowVolumeExpansion")),
        age(object, now),
    ]
}

/// `VolumeAttributesClass`.
pub(super) fn volume_attributes_class(object: &Value, now: Timestamp) -> Vec<Value> {
    const DEFAULT: [&str; 1] = ["volumeattributesclass.alpha.kubernetes.io/is-default-class"];
    vec![
        default_name(object, &DEFAULT),
        Value::from(text(object, "driverName")),
        age(object, now),
    ]
}

/// `CSIDriver`.
pub(super) fn csi_driver(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    let tokens = match &spec["tokenRequests"] {
        Value::Array(list) => list
            .iter()
            .map(|t| text(t, "audience"))
            .collect::<Vec<_>>()
            .join(","),
        _ => "<unset>".to_owned(),
    };
    vec![
        name(object),
        Value::from(spec["attachRequired"].as_bool().unwrap_or(true)),
        Value::from(flag(spec, "podInfoOnMount")),
        Value::from(flag(spec, "storageCapacity")),
        Value::from(tokens),
        Value::from(flag(spec, "requiresRepublish")),
        or_none(&texts(&spec["volumeLifecycleModes"]).join(",")),
        age(object, now),
    ]
}

/// `CSINode`.
pub(super) fn csi_node(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        Value::from(items(&object["spec"]["drivers"]).len()),
        age(object, now),
    ]
}

/// `VolumeAttachment`.
pub(super) fn volume_attachment(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    vec![
        name(object),
        Value::from(text(spec, "attacher")),
        Value::from(text(&spec["source"], "persistentVolumeName")),
        Value::from(text(spec, "nodeName")),
        Value::from(flag(&object["status"], "attached")),
        age(object, now),
    ]
}
