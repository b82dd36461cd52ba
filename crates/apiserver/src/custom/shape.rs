//! What a structural schema makes of a custom resource before anybody judges it: unknown fields go, nulls give way to
//! defaults, defaults are filled in. Values of a wrong type stay: validation names them.

use keelson_api::normalize::{TypeError, normalize};
use keelson_api::schema::{Object, Schema};
use serde_json::{Map, Value};

/// Whether this is the root schema of a custom resource.
pub(crate) fn is_custom(schema: &Schema) -> bool {
    matches!(schema, Schema::Object(object) if object.embedded_resource)
}

/// Prunes a client's object. Metadata must have the types of metadata.
pub(crate) fn prune_request(schema: &Schema, value: &mut Value) -> Result<(), TypeError> {
    walk(schema, value, true)
}

/// Prunes and defaults what was stored or converted, whatever it is.
pub(crate) fn reshape(schema: &Schema, value: &mut Value) {
    prune(schema, value);
    apply_defaults(schema, value);
}

/// Prunes what was stored or converted.
pub(super) fn prune(schema: &Schema, value: &mut Value) {
    walk(schema, value, false).expect("invariant: only requests are refused");
}

fn walk(schema: &Schema, value: &mut Value, request: bool) -> Result<(), TypeError> {
    match (schema, value) {
        (Schema::Object(object), Value::Object(fields)) => {
            if object.embedded_resource {
                metadata(schema, fields, request)?;
            }
            fields.retain(|name, value| keeps(object, name, value));
            for (name, value) in fields.iter_mut() {
                if object.embedded_resource && name == "metadata" {
                    continue;
                }
                if let Some(field) = object.field(name) {
                    walk(&field.schema, value, request)?;
                }
            }
        }
        (Schema::List(list), Value::Array(items)) => {
            for item in items {
                walk(&list.items, item, request)?;
            }
        }
        (Schema::Map(map), Value::Object(entries)) => {
            for entry in entries.values_mut() {
                walk(&map.values, entry, request)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn keeps(object: &Object, name: &str, value: &Value) -> bool {
    match object.field(name) {
        // A null where none may be is as good as nothing if there is a default.
        Some(field) => !value.is_null() || field.nullable || field.default().is_none(),
        None => object.preserve_unknown,
    }
}

/// Metadata has the same shape everywhere.
fn metadata(schema: &Schema, fields: &mut Map<String, Value>, request: bool) -> Result<(), TypeError> {
    let Some(given) = fields.remove("metadata") else {
        return Ok(());
    };
    let mut alone = Value::Object(Map::from_iter([("metadata".to_owned(), given.clone())]));
    match normalize(schema, &mut alone) {
        Ok(()) => {
            if let Some(metadata) = alone.as_object_mut().and_then(|a| a.remove("metadata")) {
                fields.insert("metadata".to_owned(), metadata);
            }
            Ok(())
        }
        Err(error) if request => Err(error),
        Err(_) => {
            fields.insert("metadata".to_owned(), given);
            Ok(())
        }
    }
}

/// Fills in what the schema has defaults for, at every depth.
pub(crate) fn apply_defaults(schema: &Schema, value: &mut Value) {
    match (schema, value) {
        (Schema::Object(object), Value::Object(fields)) => {
            for field in &object.fields {
                if let Some(default) = field.default()
                    && !fields.contains_key(&*field.name)
                {
                    fields.insert(field.name.clone().into_owned(), default.clone());
                }
            }
            for (name, value) in fields.iter_mut() {
                if let Some(field) = object.field(name) {
                    apply_defaults(&field.schema, value);
                }
            }
        }
        (Schema::List(list), Value::Array(items)) => {
            items
                .iter_mut()
                .for_each(|item| apply_defaults(&list.items, item));
        }
        (Schema::Map(map), Value::Object(entries)) => {
            entries
                .values_mut()
                .for_each(|entry| apply_defaults(&map.values, entry));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::schema::root;
    use super::*;

    #[track_caller]
    fn check(spec: Value, given: Value, expected: Value) {
        let schema = root(&json!({"type": "object", "properties": {"spec": spec}}));
        let mut object = json!({"kind": "X", "metadata": {"name": "n"}, "spec": given, "more": 1});
        prune_request(&schema, &mut object).unwrap();
        apply_defaults(&schema, &mut object);
        assert_eq!(
            object,
            json!({"kind": "X", "metadata": {"name": "n"}, "spec": expected})
        );
    }

    #[test]
    fn prunes_and_defaults() {
        let props = |fields: Value| json!({"type": "object", "properties": fields});
        check(
            props(json!({"a": {"type": "string"}})),
            json!({"a": 1, "b": 2}),
            json!({"a": 1}),
        );
        // Defaults that say zero are defaults, and so are those below a default.
        check(
            props(
                json!({"off": {"type": "boolean", "default": false}, "n": {"type": "integer", "default": 0},
                "sub": {"type": "object", "default": {}, "properties": {"x": {"type": "string", "default": "y"}}}}),
            ),
            json!({}),
            json!({"off": false, "n": 0, "sub": {"x": "y"}}),
        );
        check(
            props(
                json!({"a": {"type": "string", "default": "d"}, "b": {"type": "string", "default": "d", "nullable": true},
                "c": {"type": "string"}}),
            ),
            json!({"a": null, "b": null, "c": null}),
            json!({"a": "d", "b": null, "c": null}),
        );
        check(
            props(
                json!({"any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"known": {"type": "object", "properties": {"a": {"type": "string"}}}}}}),
            ),
            json!({"any": {"x": {"y": 1}, "known": {"a": "a", "b": 1}}}),
            json!({"any": {"x": {"y": 1}, "known": {"a": "a"}}}),
        );
        let schema = root(&props(json!({})));
        let mut wrong = json!({"metadata": {"labels": {"a": 1}}});
        assert!(prune_request(&schema, &mut wrong.clone()).is_err());
        prune(&schema, &mut wrong);
        assert_eq!(wrong, json!({"metadata": {"labels": {"a": 1}}}));
    }
}
