//! Reading and changing objects and refusing them, as all plugins do.

use std::fmt;

use keelson_api::status::Status;
use serde_json::{Map, Value};

use super::Attributes;

/// Annotation of a static pod's image in the API.
pub(super) const MIRROR_POD: &str = "/metadata/annotations/kubernetes.io~1config.mirror";

/// The text at a JSON pointer, empty when there is none.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The list at a JSON pointer, empty when there is none.
pub(super) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// The map at a JSON pointer.
pub(super) fn map<'a>(object: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    object.pointer(pointer).and_then(Value::as_object)
}

/// Whether something other than null is there.
pub(super) fn present(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).is_some_and(|v| !v.is_null())
}

/// The list of a field, made when there is none.
pub(super) fn list_mut<'a>(object: &'a mut Value, field: &str) -> &'a mut Vec<Value> {
    let value = &mut object[field];
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().expect("invariant: it is a list now")
}

/// 403 as an admission plugin gives it: `pods "x" is forbidden: why`.
pub(super) fn forbidden(
    attributes: &Attributes<'_>,
    object: Option<&Value>,
    why: impl fmt::Display,
) -> Status {
    let object = object.or(attributes.old_object);
    let own = object.map(|o| text(o, "/metadata/name")).unwrap_or_default();
    let generated = object
        .map(|o| text(o, "/metadata/generateName"))
        .unwrap_or_default();
    let name = [attributes.name, own, generated]
        .into_iter()
        .find(|n| !n.is_empty())
        .unwrap_or_default();
    Status::forbidden(&attributes.resource.group_resource(), name, why)
}

/// Whether the request writes an object of this resource (`create`, or `update` too).
pub(super) fn writes(attributes: &Attributes<'_>, group: &str, resource: &str, update: bool) -> bool {
    use super::Operation::{Create, Update};
    attributes.is(group, resource)
        && (attributes.operation == Create || (update && attributes.operation == Update))
}
