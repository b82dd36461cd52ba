//! Schemas as OpenAPI writes them.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::descriptions;
use crate::resources;
use crate::schema::{Field, List, ListType, MapType, Object, Schema, registry};

/// Which of the two forms is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// Swagger 2.0.
    V2,
    /// OpenAPI 3.0.
    V3,
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const RAW_EXTENSION: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";

impl Flavor {
    pub(super) fn reference(self, name: &str) -> Value {
        json!({"$ref": match self {
            Self::V2 => format!("#/definitions/{name}"),
            Self::V3 => format!("#/components/schemas/{name}"),
        }})
    }
}

/// The definition name of a scalar that has one of its own.
fn leaf_name(schema: &Schema) -> Option<String> {
    Some(match schema {
        Schema::Quantity => QUANTITY.to_owned(),
        Schema::IntOrString => INT_OR_STRING.to_owned(),
        Schema::RawExtension => RAW_EXTENSION.to_owned(),
        Schema::Time => format!("{META}.Time"),
        Schema::MicroTime => format!("{META}.MicroTime"),
        Schema::FieldsV1 => format!("{META}.FieldsV1"),
        Schema::Json => format!("{EXTENSIONS}.JSON"),
        Schema::JsonSchemaOrArray => format!("{EXTENSIONS}.JSONSchemaPropsOrArray"),
        Schema::JsonSchemaOrBool => format!("{EXTENSIONS}.JSONSchemaPropsOrBool"),
        Schema::JsonSchemaOrStringArray => format!("{EXTENSIONS}.JSONSchemaPropsOrStringArray"),
        _ => return None,
    })
}

fn leaf_definition(name: &str, flavor: Flavor) -> Value {
    match (name.rsplit('.').next().unwrap_or_default(), flavor) {
        ("Quantity", Flavor::V2) => json!({"type": "string"}),
        ("Quantity", Flavor::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        ("IntOrString", Flavor::V2) => json!({"type": "string", "format": "int-or-string"}),
        ("IntOrString", Flavor::V3) => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        ("Time" | "MicroTime", _) => json!({"type": "string", "format": "date-time"}),
        ("RawExtension" | "FieldsV1" | "Patch", _) => json!({"type": "object"}),
        _ => json!({}),
    }
}

fn scalar(kind: &str, format: &str) -> Value {
    if format.is_empty() {
        json!({"type": kind})
    } else {
        json!({"type": kind, "format": format})
    }
}

/// A schema as OpenAPI writes it, with references to the definitions it needs.
pub fn schema_json(schema: &Schema, flavor: Flavor, needed: &mut BTreeSet<String>) -> Value {
    if let Some(name) = leaf_name(schema) {
        let reference = flavor.reference(&name);
        needed.insert(name);
        return reference;
    }
    match schema {
        Schema::Bool => scalar("boolean", ""),
        Schema::Int32 => scalar("integer", "int32"),
        Schema::Int64 => scalar("integer", "int64"),
        Schema::Double => scalar("number", "double"),
        Schema::String => scalar("string", ""),
        Schema::Bytes => scalar("string", "byte"),
        Schema::List(list) => list_json(list, flavor, needed),
        Schema::Map(map) => {
            let mut value = json!({"type": "object",
                "additionalProperties": schema_json(&map.values, flavor, needed)});
            if map.map_type == MapType::Atomic {
                value["x-kubernetes-map-type"] = json!("atomic");
            }
            value
        }
        Schema::Def(id) => {
            let name = registry().definition(*id).name.clone().into_owned();
            let reference = flavor.reference(&name);
            needed.insert(name);
            reference
        }
        Schema::Object(object) => object_json(object, flavor, needed),
        _ => json!({}),
    }
}

fn list_json(list: &List, flavor: Flavor, needed: &mut BTreeSet<String>) -> Value {
    let mut value = json!({"type": "array", "items": schema_json(&list.items, flavor, needed)});
    if list.explicit {
        value["x-kubernetes-list-type"] = json!(match list.list_type {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map(_) => "map",
        });
    }
    if let ListType::Map(keys) = &list.list_type {
        value["x-kubernetes-list-map-keys"] = json!(keys);
    }
    value
}

fn field_json(
    field: &Field,
    flavor: Flavor,
    needed: &mut BTreeSet<String>,
    description: Option<&str>,
) -> Value {
    let mut value = schema_json(&field.schema, flavor, needed);
    let extra = field.extra();
    let mut siblings = Map::new();
    if let Some(text) = description {
        siblings.insert("description".to_owned(), json!(text));
    }
    let mut strategies = Vec::new();
    for (set, name) in [
        (extra.patch_strategy.merge, "merge"),
        (extra.patch_strategy.replace, "replace"),
        (extra.patch_strategy.retain_keys, "retainKeys"),
    ] {
        if set {
            strategies.push(name);
        }
    }
    if !strategies.is_empty() {
        siblings.insert(
            "x-kubernetes-patch-strategy".to_owned(),
            json!(strategies.join(",")),
        );
    }
    if !extra.patch_merge_key.is_empty() {
        siblings.insert(
            "x-kubernetes-patch-merge-key".to_owned(),
            json!(extra.patch_merge_key),
        );
    }
    if let Some(map_type) = extra.map_type {
        let text = if map_type == MapType::Atomic {
            "atomic"
        } else {
            "granular"
        };
        siblings.insert("x-kubernetes-map-type".to_owned(), json!(text));
    }
    if flavor == Flavor::V3
        && let Some(default) = &extra.default
    {
        siblings.insert("default".to_owned(), default.clone());
    }
    if !extra.enumeration.is_empty() {
        let leaf = match &field.schema {
            Schema::List(_) => &mut value["items"],
            Schema::Map(_) => &mut value["additionalProperties"],
            _ => &mut value,
        };
        leaf["enum"] = json!(extra.enumeration);
    }
    if siblings.is_empty() {
        return value;
    }
    if flavor == Flavor::V3 && value.get("$ref").is_some() {
        value = json!({"allOf": [value]});
    }
    if let Value::Object(map) = &mut value {
        map.append(&mut siblings);
    }
    value
}

fn object_json(object: &Object, flavor: Flavor, needed: &mut BTreeSet<String>) -> Value {
    let mut value = Map::new();
    value.insert("type".to_owned(), json!("object"));
    if !object.fields.is_empty() {
        let properties: Map<String, Value> = object
            .fields
            .iter()
            .map(|field| {
                let description = descriptions::of(&object.name, &field.name);
                let value = field_json(field, flavor, needed, description);
                (field.name.clone().into_owned(), value)
            })
            .collect();
        value.insert("properties".to_owned(), Value::Object(properties));
    }
    let required: Vec<&str> = object
        .fields
        .iter()
        .filter(|f| f.required)
        .map(|f| &*f.name)
        .collect();
    if !required.is_empty() {
        value.insert("required".to_owned(), json!(required));
    }
    if object.map_type == MapType::Atomic {
        value.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
    }
    if object.preserve_unknown {
        value.insert("x-kubernetes-preserve-unknown-fields".to_owned(), json!(true));
    }
    if object.embedded_resource {
        value.insert("x-kubernetes-embedded-resource".to_owned(), json!(true));
    }
    let kinds = kinds_json(object);
    if !kinds.is_empty() {
        value.insert("x-kubernetes-group-version-kind".to_owned(), Value::Array(kinds));
    }
    Value::Object(value)
}

fn kinds_json(object: &Object) -> Vec<Value> {
    if object.all_kinds {
        let kind = object.go_name();
        let mut versions: BTreeSet<(String, String)> = BTreeSet::new();
        for row in resources::builtin() {
            versions.insert((row.group.to_string(), row.version.to_string()));
        }
        let json = |(group, version)| json!({"group": group, "version": version, "kind": kind});
        return versions.into_iter().map(json).collect();
    }
    let json =
        |k: &crate::gvk::GroupVersionKind| json!({"group": k.group, "version": k.version, "kind": k.kind});
    object.kinds.iter().map(json).collect()
}

/// The definitions that `needed` names and all that those need.
pub(super) fn definitions(needed: BTreeSet<String>, flavor: Flavor) -> Map<String, Value> {
    let mut done = Map::new();
    let mut open: Vec<String> = needed.into_iter().collect();
    while let Some(name) = open.pop() {
        if done.contains_key(&name) {
            continue;
        }
        let mut below = BTreeSet::new();
        let value = match registry().by_name(&name).and_then(Schema::object) {
            Some(object) => object_json(object, flavor, &mut below),
            None => leaf_definition(&name, flavor),
        };
        done.insert(name, value);
        open.extend(below);
    }
    done
}
