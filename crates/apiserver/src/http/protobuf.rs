//! Documents as `application/vnd.kubernetes.protobuf`.

use keelson_api::codec::protobuf;
use keelson_api::gvk::GroupVersionKind;
use keelson_api::schema::{Schema, registry};
use serde_json::Value;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// The schema of a document by what it says it is.
pub(crate) fn schema_of(value: &Value) -> Option<&'static Schema> {
    let gvk = GroupVersionKind::of(value)?;
    if gvk.group == "meta.k8s.io" {
        return match gvk.kind.as_ref() {
            "PartialObjectMetadata" => Some(protobuf::partial_object_metadata()),
            "PartialObjectMetadataList" => Some(protobuf::partial_object_metadata_list()),
            kind => registry().by_name(&format!("{META}{kind}")),
        };
    }
    if gvk.group.is_empty() && gvk.kind == "Status" {
        return registry().by_name(&format!("{META}Status"));
    }
    crate::registry::model::schema_of(&gvk)
}

/// The encoded document; `None` when its kind has no protobuf form.
pub(crate) fn encode(value: &Value) -> Option<Vec<u8>> {
    match protobuf::encode(schema_of(value)?, value) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            tracing::error!(%error, kind = %value["kind"], "an answer has no protobuf form");
            None
        }
    }
}
