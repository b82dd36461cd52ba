//! Tables (`kubectl get`) and PartialObjectMetadata.

use jiff::Timestamp;
use keelson_api::printers;
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
        None => {
            out.extend_from_slice(format!("\"metadata\":{{\"resourceVersion\":\"{revision}\"}}").as_bytes())
        }
    }
    let definitions = if columns { definitions(kind) } else { Value::Null };
    out.extend_from_slice(b",\"columnDefinitions\":");
    serde_json::to_writer(&mut out, &definitions).map_err(Status::internal)?;
    out.extend_from_slice(b",\"rows\":[");
    let now = Timestamp::now();
    for (at, object) in objects.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let mut row = json!({"cells": cells(kind, object, now)});
        if let Some(conditions) = printers::row_conditions(&kind.gvk, object) {
            row["conditions"] = conditions;
        }
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

fn definitions(kind: &Kind) -> Value {
    if let Some(custom) = &kind.custom {
        return crate::custom::definitions(&custom.columns);
    }
    let columns = printers::columns(&kind.gvr).iter().map(|column| {
        json!({"name": column.name, "type": column.kind, "format": column.format, "description": "",
            "priority": column.priority})
    });
    columns.collect()
}

fn cells(kind: &Kind, object: &Value, now: Timestamp) -> Value {
    if let Some(custom) = &kind.custom {
        return crate::custom::cells(&custom.columns, object, now);
    }
    Value::Array(printers::row(&kind.gvk, object, now))
}
