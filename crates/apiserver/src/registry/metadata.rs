//! Reading and writing `metadata` of JSON objects.

use serde_json::{Map, Value};

/// The object's metadata; `None` when it has none.
pub fn of(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.as_object()
}

/// The object's metadata, made where it is missing.
pub fn of_mut(object: &mut Value) -> &mut Map<String, Value> {
    let map = object
        .as_object_mut()
        .expect("invariant: normalized objects are JSON objects");
    let metadata = map.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata
        .as_object_mut()
        .expect("invariant: made an object just now")
}

/// A text field of the metadata, empty when absent.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    of(object)
        .and_then(|m| m.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A number field of the metadata.
pub fn number(object: &Value, field: &str) -> Option<i64> {
    of(object)?.get(field)?.as_i64()
}

/// Sets a text field.
pub fn set_text(object: &mut Value, field: &str, value: &str) {
    of_mut(object).insert(field.to_owned(), Value::String(value.to_owned()));
}

/// Removes fields.
pub fn remove(object: &mut Value, fields: &[&str]) {
    let metadata = of_mut(object);
    for field in fields {
        metadata.remove(*field);
    }
}

/// Makes a field what it is in `from`, absent if it is absent there.
pub fn copy(object: &mut Value, from: &Value, field: &str) {
    let metadata = of_mut(object);
    match of(from).and_then(|m| m.get(field)) {
        Some(value) => {
            metadata.insert(field.to_owned(), value.clone());
        }
        None => {
            metadata.remove(field);
        }
    }
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> Vec<&str> {
    of(object)
        .and_then(|m| m.get("finalizers"))
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// Sets `metadata.finalizers`; empty removes the field.
pub fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    let metadata = of_mut(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert(
            "finalizers".to_owned(),
            finalizers.iter().cloned().map(Value::String).collect(),
        );
    }
}

/// Whether the object is being deleted.
pub fn is_deleting(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

/// Adds one to `metadata.generation` where it is set.
pub fn bump_generation(object: &mut Value) {
    if let Some(generation) = number(object, "generation").filter(|g| *g > 0) {
        of_mut(object).insert("generation".to_owned(), Value::from(generation + 1));
    }
}

/// A random suffix of five characters, as upstream's generated names have.
pub fn random_suffix() -> String {
    use rand::Rng;
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    (0..5)
        .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))
        .collect()
}

/// The name made from `generateName`: at most 58 characters and five random ones.
pub fn generated_name(base: &str) -> String {
    let mut end = base.len().min(58);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], random_suffix())
}
