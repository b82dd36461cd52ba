//! Custom resources: one strategy for all of them.

use serde_json::{Map, Value};

use super::create::raise_generation;
use super::kinds::body_differs;
use super::update::keep_metadata;

/// Makes of a custom resource what may be created; `has_status` says whether its version has the status subresource.
pub fn prepare_custom_for_create(has_status: bool, object: &mut Value) {
    if has_status && let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    object["metadata"]["generation"] = Value::from(1);
}

/// Takes from `old` what a write to a custom resource or its `subresource` cannot change.
pub fn prepare_custom_for_update(has_status: bool, subresource: &str, new: &mut Value, old: &Value) {
    if subresource == "status" {
        let status = new.get("status").cloned();
        let metadata = new["metadata"].take();
        let mut fields = old.as_object().cloned().unwrap_or_else(Map::new);
        fields.insert("metadata".to_owned(), metadata);
        match status {
            Some(status) => fields.insert("status".to_owned(), status),
            None => fields.remove("status"),
        };
        *new = Value::Object(fields);
        const KEPT: &[&str] = &[
            "labels",
            "annotations",
            "ownerReferences",
            "finalizers",
            "deletionTimestamp",
            "generation",
        ];
        keep_metadata(new, old, KEPT);
        return;
    }
    if has_status && let Some(fields) = new.as_object_mut() {
        match old.get("status") {
            Some(status) => fields.insert("status".to_owned(), status.clone()),
            None => fields.remove("status"),
        };
    }
    let except: &[&str] = if has_status {
        &["metadata", "status"]
    } else {
        &["metadata"]
    };
    if body_differs(new, old, except) {
        raise_generation(new, old);
    } else {
        keep_metadata(new, old, &["generation"]);
    }
}
