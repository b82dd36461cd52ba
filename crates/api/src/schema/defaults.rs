//! Defaults that the schema itself holds.

use serde_json::{Map as JsonMap, Value};

use super::model::{Object, Schema};

/// Fills absent fields with the schema's defaults, at every depth; zero defaults are written only where the schema says so.
///
/// The value is expected to be normalized. Defaults that depend on other fields are the kinds' own.
pub fn apply_defaults(schema: &Schema, value: &mut Value) {
    match (schema, value) {
        (Schema::List(list), Value::Array(items)) => {
            if list.items.object().is_some_and(|object| !object.has_defaults()) {
                return;
            }
            for item in items {
                apply_defaults(&list.items, item);
            }
        }
        (Schema::Map(map), Value::Object(entries)) => {
            if map.values.is_scalar() {
                return;
            }
            for entry in entries.values_mut() {
                apply_defaults(&map.values, entry);
            }
        }
        (schema, Value::Object(fields)) => {
            if let Some(object) = schema.object() {
                default_fields(object, fields);
            }
        }
        _ => {}
    }
}

fn default_fields(object: &Object, fields: &mut JsonMap<String, Value>) {
    if !object.has_defaults() {
        return;
    }
    for field in &object.fields {
        if let Some(default) = field.written_default()
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

#[cfg(test)]
mod tests {
    use super::super::registry;
    use super::*;
    use serde_json::json;

    #[test]
    fn protocol_is_tcp() {
        let schema = registry().by_gvk("apps", "v1", "Deployment").expect("Deployment");
        let mut value = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "a", "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]}]}}}});
        apply_defaults(schema, &mut value);
        let ports = &value["spec"]["template"]["spec"]["containers"][0]["ports"];
        assert_eq!(
            ports,
            &json!([{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}])
        );
    }
}
