//! Tables (`kubectl get`) and PartialObjectMetadata.

use keelson_api::status::Status;
use serde_json::{Map, Value, json};

use super::read::{Listed, write_list_meta};
use crate::http::query::Query;
use crate::registry::Kind;

/// The metadata of an object as a PartialObjectMetadata.
pub(super) fn partial_metadata(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| Value::Object(Map::new())),
    })
}

/// The Table of some objects, encoded. `listed` gives list metadata, otherwise `revision` does.
pub(super) fn table(
    kind: &Kind,
    objects: &[Value],
    revision: u64,
    listed: Option<&Listed>,
    query: &Query<'_>,
    columns: bool,
) -> Result<Vec<u8>, Status> {
    let include = match query.get("includeObject").as_deref() {
        None | Some("" | "Metadata") => Include::Metadata,
        Some("None") => Include::None,
        Some("Object") => Include::Object,
        Some(other) => {
            return Err(Status::bad_request(format!(
                "Invalid value for query parameter includeObject: {other:?}"
            )));
        }
    };
    let mut out = b"{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",".to_vec();
    match listed {
        Some(listed) => write_list_meta(&mut out, listed),
        None => out.extend_from_slice(format!("\"metadata\":{{\"resourceVersion\":\"{revision}\"}}").as_bytes()),
    }
    let definitions = if columns { definitions(kind) } else { Value::Null };
    out.extend_from_slice(b",\"columnDefinitions\":");
    serde_json::to_writer(&mut out, &definitions).map_err(Status::internal)?;
    out.extend_from_slice(b",\"rows\":[");
    for (at, object) in objects.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let mut row = json!({"cells": cells(kind, object)});
        match include {
            Include::None => {}
            Include::Metadata => row["object"] = partial_metadata(object),
            Include::Object => row["object"] = object.clone(),
        }
        serde_json::to_writer(&mut out, &row).map_err(Status::internal)?;
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

enum Include {
    None,
    Metadata,
    Object,
}

fn definitions(_kind: &Kind) -> Value {
    json!([
        {"name": "Name", "type": "string", "format": "name", "priority": 0,
         "description": "Name must be unique within a namespace."},
        {"name": "Age", "type": "date", "format": "", "priority": 0,
         "description": "Time since the object was created."},
    ])
}

fn cells(_kind: &Kind, object: &Value) -> Value {
    let metadata = &object["metadata"];
    json!([metadata["name"], metadata["creationTimestamp"]])
}
