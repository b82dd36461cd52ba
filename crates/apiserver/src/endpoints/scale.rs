//! The `scale` subresource: an autoscaling/v1 Scale that shows a workload's replicas.

use keelson_api::selector::LabelSelector;
use keelson_api::status::Status;
use serde_json::{Map, Value, json};

use crate::custom::ScalePaths;
use crate::registry::Kind;

fn custom(kind: &Kind) -> Option<&ScalePaths> {
    kind.custom.as_ref()?.scale.as_ref()
}

fn at<'a>(object: &'a Value, path: &[String]) -> &'a Value {
    path.iter().fold(object, |value, part| &value[part])
}

/// The Scale of a custom resource whose definition says where the numbers are. Without `spec` there is nothing to scale,
/// unless somebody is about to say how many there shall be.
fn of_custom(paths: &ScalePaths, object: &Value) -> Result<(Option<i64>, i64, String), Status> {
    let number = |path: &[String]| match at(object, path) {
        Value::Null => Ok(None),
        value => value.as_i64().map(Some).ok_or_else(|| {
            let path = path.join(".");
            Status::internal(format!(".{path} accessor error: {value} is not an int64"))
        }),
    };
    let selector = at(object, &paths.selector).as_str().unwrap_or_default();
    let selector = if paths.selector.is_empty() { "" } else { selector };
    Ok((
        number(&paths.spec)?,
        number(&paths.status)?.unwrap_or(0),
        selector.to_owned(),
    ))
}

/// The Scale of a workload, to be shown.
pub(super) fn shown(kind: &Kind, object: &Value) -> Result<Value, Status> {
    if let Some(paths) = custom(kind)
        && at(object, &paths.spec).is_null()
    {
        let path = paths.spec.join(".");
        return Err(Status::internal(format!(
            "the spec replicas field \".{path}\" does not exist"
        )));
    }
    of(kind, object)
}

/// The Scale of a workload.
pub(super) fn of(kind: &Kind, object: &Value) -> Result<Value, Status> {
    let metadata = &object["metadata"];
    let mut meta = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = metadata.get(field) {
            meta.insert(field.to_owned(), value.clone());
        }
    }
    if let Some(paths) = custom(kind) {
        let (replicas, ready, selector) = of_custom(paths, object)?;
        return Ok(scale(meta, replicas.unwrap_or(0), ready, selector));
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
    let replicas = |part: &str| object[part]["replicas"].as_i64().unwrap_or(0);
    Ok(scale(
        meta,
        replicas("spec"),
        replicas("status"),
        selector.to_string(),
    ))
}

fn scale(meta: Map<String, Value>, wanted: i64, ready: i64, selector: String) -> Value {
    let mut spec = json!({});
    if wanted != 0 {
        spec["replicas"] = json!(wanted);
    }
    let mut status = json!({"replicas": ready});
    if !selector.is_empty() {
        status["selector"] = json!(selector);
    }
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": meta,
        "spec": spec,
        "status": status,
    })
}

/// The workload with what a Scale asks for.
pub(super) fn apply(kind: &Kind, object: &Value, scale: &Value) -> Value {
    let mut object = object.clone();
    let replicas = json!(scale["spec"]["replicas"].as_i64().unwrap_or(0));
    match custom(kind) {
        Some(paths) => set(&mut object, &paths.spec, replicas),
        None => object["spec"]["replicas"] = replicas,
    }
    for field in ["resourceVersion", "uid"] {
        if let Some(value) = scale["metadata"].get(field) {
            object["metadata"][field] = value.clone();
        }
    }
    object
}

/// Sets the value at a path, making the objects on the way to it.
fn set(object: &mut Value, path: &[String], value: Value) {
    let mut place = object;
    for part in path {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[part];
    }
    *place = value;
}
