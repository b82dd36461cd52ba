//! Reading and changing fields of JSON objects by name: what defaulting, strategies, printers and validation share.
//!
//! Objects may miss any field; an absent field reads as null, as `Value`'s own indexing has it.

use serde_json::{Map, Value};

/// The fields of a JSON object.
pub(crate) type Fields = Map<String, Value>;

/// The text at a field; empty when absent or of another type.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The number at a field; 0 when absent.
pub(crate) fn int(value: &Value, key: &str) -> i64 {
    value[key].as_i64().unwrap_or_default()
}

/// The truth of a field; false when absent.
pub(crate) fn flag(value: &Value, key: &str) -> bool {
    value[key].as_bool().unwrap_or_default()
}

/// The items of a list; none when absent.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The entries of a map; none when absent.
pub(crate) fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// Whether a value is absent, or what Go would take for absent: null, empty text, empty list, empty map.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The struct at a field, if it is there.
pub(crate) fn child<'a>(fields: &'a mut Fields, key: &str) -> Option<&'a mut Fields> {
    fields.get_mut(key)?.as_object_mut()
}

/// The struct at a field, made where it is missing.
pub(crate) fn ensure<'a>(fields: &'a mut Fields, key: &str) -> &'a mut Fields {
    if !fields.get(key).is_some_and(Value::is_object) {
        fields.insert(key.to_owned(), Value::Object(Map::new()));
    }
    fields
        .get_mut(key)
        .and_then(Value::as_object_mut)
        .expect("invariant: an object was put there")
}

/// Calls `visit` with every struct of the list at a field.
pub(crate) fn each(fields: &mut Fields, key: &str, mut visit: impl FnMut(&mut Fields)) {
    if let Some(Value::Array(items)) = fields.get_mut(key) {
        items
            .iter_mut()
            .filter_map(Value::as_object_mut)
            .for_each(&mut visit);
    }
}

/// The text at a field of a struct; empty when absent.
pub(crate) fn str_of<'a>(fields: &'a Fields, key: &str) -> &'a str {
    fields.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Whether a pointer field is nil.
pub(crate) fn is_nil(fields: &Fields, key: &str) -> bool {
    fields.get(key).is_none_or(Value::is_null)
}

/// Whether a text, list or map field is empty.
pub(crate) fn is_unset(fields: &Fields, key: &str) -> bool {
    fields.get(key).is_none_or(is_empty)
}

/// Sets a pointer field that is nil.
pub(crate) fn default_to(fields: &mut Fields, key: &str, value: impl Into<Value>) {
    if is_nil(fields, key) {
        fields.insert(key.to_owned(), value.into());
    }
}

/// Sets a text field that is empty.
pub(crate) fn default_text(fields: &mut Fields, key: &str, value: &str) {
    if is_unset(fields, key) {
        fields.insert(key.to_owned(), Value::from(value));
    }
}

/// Sets a number field that is zero.
pub(crate) fn default_nonzero(fields: &mut Fields, key: &str, value: i64) {
    if fields.get(key).and_then(Value::as_i64).unwrap_or_default() == 0 {
        fields.insert(key.to_owned(), Value::from(value));
    }
}
