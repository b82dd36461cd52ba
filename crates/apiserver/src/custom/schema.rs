//! Structural schemas as the engine's schemas.

use keelson_api::schema::{Field, FieldExtra, List, ListType, Map, MapType, Object, Schema, registry};
use serde_json::Value;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

fn flag(props: &Value, name: &str) -> bool {
    props[name].as_bool().unwrap_or(false)
}

/// The schema of a version's objects from its `openAPIV3Schema`.
pub(super) fn root(props: &Value) -> Schema {
    object(props, true)
}

fn metadata() -> Schema {
    registry().by_name(OBJECT_META).cloned().unwrap_or(Schema::Any)
}

fn object(props: &Value, embedded: bool) -> Schema {
    let mut fields: Vec<Field> = Vec::new();
    if embedded {
        fields.push(Field::new("apiVersion", Schema::String));
        fields.push(Field::new("kind", Schema::String));
        fields.push(Field::new("metadata", metadata()));
    }
    for (name, child) in props["properties"].as_object().into_iter().flatten() {
        if embedded && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        fields.push(field(name, child));
    }
    let mut object = Object::with_fields("", fields);
    object.preserve_unknown = flag(props, "x-kubernetes-preserve-unknown-fields");
    object.embedded_resource = embedded;
    object.map_type = map_type(props);
    Schema::Object(Box::new(object))
}

fn map_type(props: &Value) -> MapType {
    if props["x-kubernetes-map-type"] == "atomic" {
        MapType::Atomic
    } else {
        MapType::Granular
    }
}

fn field(name: &str, props: &Value) -> Field {
    let mut field = Field::new(name.to_owned(), schema(props));
    field.nullable = flag(props, "nullable");
    if let Some(default) = props.get("default").filter(|d| !d.is_null()) {
        field.extra = Some(Box::new(FieldExtra {
            default: Some(default.clone()),
            writes_zero: true,
            ..FieldExtra::default()
        }));
    }
    field
}

fn schema(props: &Value) -> Schema {
    if flag(props, "x-kubernetes-int-or-string") {
        return Schema::IntOrString;
    }
    if flag(props, "x-kubernetes-embedded-resource") {
        return object(props, true);
    }
    match props["type"].as_str() {
        Some("object") => {
            if props["properties"].as_object().is_some_and(|p| !p.is_empty()) {
                return object(props, false);
            }
            match &props["additionalProperties"] {
                values @ Value::Object(_) => Schema::Map(Box::new(Map {
                    values: schema(values),
                    map_type: map_type(props),
                })),
                Value::Bool(true) => Schema::Map(Box::new(Map {
                    values: Schema::Any,
                    map_type: map_type(props),
                })),
                _ => object(props, false),
            }
        }
        Some("array") => {
            let list_type = match props["x-kubernetes-list-type"].as_str() {
                Some("set") => ListType::Set,
                Some("map") => {
                    let keys = props["x-kubernetes-list-map-keys"]
                        .as_array()
                        .into_iter()
                        .flatten();
                    ListType::Map(keys.filter_map(|k| Some(k.as_str()?.to_owned().into())).collect())
                }
                _ => ListType::Atomic,
            };
            let explicit = props.get("x-kubernetes-list-type").is_some();
            Schema::List(Box::new(List {
                items: schema(&props["items"]),
                list_type,
                explicit,
            }))
        }
        Some("string") => Schema::String,
        Some("integer") => Schema::Int64,
        Some("number") => Schema::Double,
        Some("boolean") => Schema::Bool,
        _ => Schema::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_api::normalize::normalize;
    use serde_json::json;

    #[test]
    fn prunes_and_defaults() {
        let props = json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "size": {"type": "integer", "default": 3},
                "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "map": {"type": "object", "additionalProperties": {"type": "string"}},
                "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}}}}}});
        let schema = root(&props);
        let mut object = json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "n"}, "gone": 1,
            "spec": {"any": {"kept": {"deep": 1}}, "map": {"k": "v"}, "list": [{"a": "b", "gone": 1}], "gone": 2}});
        normalize(&schema, &mut object).unwrap();
        keelson_api::schema::apply_defaults(&schema, &mut object);
        assert_eq!(
            object["spec"],
            json!({"any": {"kept": {"deep": 1}}, "map": {"k": "v"}, "list": [{"a": "b"}], "size": 3})
        );
        assert!(object.get("gone").is_none());
    }
}
