//! The `scale` subresource: an autoscaling/v1 Scale that shows a workload's replicas.

use keelson_api::selector::LabelSelector;
use keelson_api::status::Status;
use serde_json::{Value, json};

use crate::registry::Kind;

/// The Scale of a workload.
pub(super) fn of(kind: &Kind, object: &Value) -> Result<Value, Status> {
    let metadata = &object["metadata"];
    let mut meta = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = metadata.get(field) {
            meta.insert(field.to_owned(), value.clone());
        }
    }
    let selector = &object["spec"]["selector"];
    let selector = if kind.info.plural == "replicationcontrollers" {
        selector
            .as_object()
            .map(LabelSelector::from_map)
            .unwrap_or_default()
    } else {
        LabelSelector::from_label_selector_value(selector).map_err(Status::internal)?
    };
    let mut spec = json!({});
    if let Some(replicas) = object["spec"]["replicas"].as_i64().filter(|r| *r != 0) {
        spec["replicas"] = json!(replicas);
    }
    let mut status = json!({"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)});
    let selector = selector.to_string();
    if !selector.is_empty() {
        status["selector"] = json!(selector);
    }
    Ok(json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": meta,
        "spec": spec,
        "status": status,
    }))
}

/// The workload with what a Scale asks for.
pub(super) fn apply(object: &Value, scale: &Value) -> Value {
    let mut object = object.clone();
    object["spec"]["replicas"] = json!(scale["spec"]["replicas"].as_i64().unwrap_or(0));
    for field in ["resourceVersion", "uid"] {
        if let Some(value) = scale["metadata"].get(field) {
            object["metadata"][field] = value.clone();
        }
    }
    object
}
