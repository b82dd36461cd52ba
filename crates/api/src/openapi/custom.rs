//! Custom resources: their `openAPIV3Schema` as upstream publishes it, and the definitions around it.
//!
//! OpenAPI v2 cannot say everything, and clients of it refuse what they do not know. So, as upstream: junctors are left out,
//! what may be null or keeps unknown fields has no type and nothing below it, and a root that keeps unknown fields is an
//! object about which nothing is said.

use serde_json::{Map, Value, json};

use super::components::Flavor;
use super::descriptions::{API_VERSION, KIND, LIST_METADATA, METADATA};
use crate::resources::ResourceInfo;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";

/// Keywords that are copied as they are, unless they are empty or false.
const COPIED: &[&str] = &[
    "type",
    "title",
    "description",
    "format",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "enum",
    "maxProperties",
    "minProperties",
    "required",
    "nullable",
    PRESERVE,
    EMBEDDED,
    INT_OR_STRING,
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-validations",
];

/// One version of a custom resource.
#[derive(Clone, Copy, Debug)]
pub struct CustomKind<'a> {
    /// Names, scope and subresources.
    pub row: &'a ResourceInfo,
    /// The version's `openAPIV3Schema`; `Null` when there is none.
    pub schema: &'a Value,
}

/// The name of a custom kind's definition: `com.example.stable.v1.CronTab`.
pub fn definition_name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').rev().collect();
    parts.extend([version, kind]);
    parts.join(".")
}

impl CustomKind<'_> {
    /// The definitions of the kind and of lists of it, by name.
    pub(super) fn definitions(&self, flavor: Flavor) -> [(String, Value); 2] {
        let row = self.row;
        let name = |kind: &str| definition_name(&row.group, &row.version, kind);
        let kinds = |kind: &str| json!([{"group": row.group, "version": row.version, "kind": kind}]);
        let mut object = self.object(flavor);
        object.insert("x-kubernetes-group-version-kind".to_owned(), kinds(&row.kind));
        let mut items = json!({"type": "array", "items": flavor.reference(&name(&row.kind))});
        items["description"] = format!("The {} of the list.", row.plural).into();
        let list = json!({
            "type": "object",
            "description": format!("{} is a list of {}", row.list_kind, row.kind),
            "required": ["items"],
            "properties": {
                "apiVersion": text(API_VERSION),
                "kind": text(KIND),
                "metadata": described(flavor, &format!("{META}.ListMeta"), LIST_METADATA),
                "items": items,
            },
            "x-kubernetes-group-version-kind": kinds(&row.list_kind),
        });
        [
            (name(&row.kind), Value::Object(object)),
            (name(&row.list_kind), list),
        ]
    }

    fn object(&self, flavor: Flavor) -> Map<String, Value> {
        let open = flavor == Flavor::V2 && self.schema[PRESERVE] == true;
        let Some(schema) = self.schema.as_object().filter(|_| !open) else {
            // With any property named, clients take all others for unknown.
            let mut object = Map::new();
            object.insert("type".to_owned(), json!("object"));
            return object;
        };
        let mut object = published(schema, flavor);
        let metadata = described(flavor, &format!("{META}.ObjectMeta"), METADATA);
        set_property(&mut object, "metadata", metadata);
        set_property(&mut object, "apiVersion", text(API_VERSION));
        set_property(&mut object, "kind", text(KIND));
        object
    }
}

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

/// A reference with a description of its own.
fn described(flavor: Flavor, name: &str, description: &str) -> Value {
    let mut value = flavor.reference(name);
    if flavor == Flavor::V3 {
        // A reference has no siblings there.
        value = json!({"allOf": [value]});
    }
    value["description"] = description.into();
    value
}

fn set_property(object: &mut Map<String, Value>, name: &str, value: Value) {
    let properties = object.entry("properties").or_insert_with(|| json!({}));
    if let Some(properties) = properties.as_object_mut() {
        properties.insert(name.to_owned(), value);
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// A structural schema, and the nodes below it.
fn published(props: &Map<String, Value>, flavor: Flavor) -> Map<String, Value> {
    let v2 = flavor == Flavor::V2;
    let mut out = copied(props);
    if let Some(default) = props.get("default").filter(|d| !d.is_null()) {
        out.insert("default".to_owned(), default.clone());
    }
    let is = |name: &str| props.get(name) == Some(&Value::Bool(true));
    let (nullable, open) = (is("nullable"), is(PRESERVE));
    let below = !(v2 && (nullable || open));
    let sub = |value: &Value| {
        value
            .as_object()
            .map(|props| Value::Object(published(props, flavor)))
    };
    if below && let Some(properties) = props.get("properties").and_then(Value::as_object) {
        let properties: Map<String, Value> = properties
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), sub(value)?)))
            .collect();
        if !properties.is_empty() {
            out.insert("properties".to_owned(), Value::Object(properties));
        }
    }
    if below && let Some(items) = props.get("items").and_then(sub) {
        out.insert("items".to_owned(), items);
    }
    match props.get("additionalProperties") {
        Some(Value::Bool(allowed)) => {
            out.insert("additionalProperties".to_owned(), Value::Bool(*allowed));
        }
        Some(values) => {
            if let Some(values) = sub(values) {
                out.insert("additionalProperties".to_owned(), values);
            }
        }
        None => {}
    }
    if v2 {
        simplify(props, &mut out, nullable, open);
    } else {
        junctors(props, &mut out);
        if is(INT_OR_STRING) {
            unfold(&mut out);
        }
    }
    if out.get(EMBEDDED).is_some() && !(v2 && open) {
        embed(&mut out, flavor);
    }
    out
}

fn copied(props: &Map<String, Value>) -> Map<String, Value> {
    let given = COPIED.iter().filter_map(|name| props.get_key_value(*name));
    let said = given.filter(|(_, value)| !says_nothing(value));
    said.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Takes away what makes clients of v2 stumble.
fn simplify(props: &Map<String, Value>, out: &mut Map<String, Value>, nullable: bool, open: bool) {
    if nullable {
        out.remove("type");
        out.remove("nullable");
    }
    let kind = out.get("type").and_then(Value::as_str);
    if (kind == Some("array") && !out.contains_key("items")) || (kind == Some("object") && open) {
        out.remove("type");
    }
    let may_be_null = |name: &str| {
        props
            .get("properties")
            .is_some_and(|p| p[name]["nullable"] == true)
    };
    let values_may_be_null = props
        .get("additionalProperties")
        .is_some_and(|p| p["nullable"] == true);
    if let Some(Value::Array(required)) = out.get_mut("required") {
        if !nullable && !open {
            required.retain(|name| !may_be_null(name.as_str().unwrap_or_default()));
        }
        if required.is_empty() || values_may_be_null {
            out.remove("required");
        }
    }
}

/// `allOf`, `anyOf`, `oneOf` and `not`, whose nodes hold nothing but validation.
fn junctors(props: &Map<String, Value>, out: &mut Map<String, Value>) {
    for name in ["allOf", "anyOf", "oneOf"] {
        let nodes = props.get(name).and_then(Value::as_array).into_iter().flatten();
        let nodes: Vec<Value> = nodes.filter_map(nested).collect();
        if !nodes.is_empty() {
            out.insert(name.to_owned(), Value::Array(nodes));
        }
    }
    if let Some(not) = props.get("not").and_then(nested) {
        out.insert("not".to_owned(), not);
    }
}

fn nested(value: &Value) -> Option<Value> {
    let props = value.as_object()?;
    let mut out = copied(props);
    let properties = props.get("properties").and_then(Value::as_object);
    let properties = properties.into_iter().flatten();
    let properties: Map<String, Value> = properties
        .filter_map(|(name, value)| Some((name.clone(), nested(value)?)))
        .collect();
    if !properties.is_empty() {
        out.insert("properties".to_owned(), Value::Object(properties));
    }
    for name in ["items", "additionalProperties"] {
        if let Some(value) = props.get(name).and_then(nested) {
            out.insert(name.to_owned(), value);
        }
    }
    junctors(props, &mut out);
    Some(Value::Object(out))
}

/// Says in plain OpenAPI what `x-kubernetes-int-or-string` means.
fn unfold(out: &mut Map<String, Value>) {
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    let same = |value: Option<&Value>| value == Some(&either);
    let first = out.get("allOf").map(|all| all[0]["anyOf"].clone());
    if same(out.get("anyOf")) || same(first.as_ref()) {
        return;
    }
    if !out.contains_key("anyOf") {
        out.insert("anyOf".to_owned(), either);
        return;
    }
    let all = out.entry("allOf").or_insert_with(|| json!([]));
    if let Some(all) = all.as_array_mut() {
        all.insert(0, json!({"anyOf": either}));
    }
}

/// An embedded resource has what every object has.
fn embed(out: &mut Map<String, Value>, flavor: Flavor) {
    let metadata = described(flavor, &format!("{META}.ObjectMeta"), METADATA);
    set_property(out, "apiVersion", text(API_VERSION));
    set_property(out, "kind", text(KIND));
    set_property(out, "metadata", metadata);
    let required = out.entry("required").or_insert_with(|| json!([]));
    if let Some(required) = required.as_array_mut() {
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|r| r == name) {
                required.push(name.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(flavor: Flavor, props: Value, expected: Value) {
        let props = props.as_object().expect("object");
        assert_eq!(Value::Object(published(props, flavor)), expected);
    }

    #[test]
    fn v2_says_what_v2_can_say() {
        let v2 = |props, expected| check(Flavor::V2, props, expected);
        v2(
            json!({"type": "string", "nullable": true, "pattern": "a"}),
            json!({"pattern": "a"}),
        );
        v2(
            json!({"type": "object", PRESERVE: true, "properties": {"a": {"type": "string"}}, "description": "d"}),
            json!({PRESERVE: true, "description": "d"}),
        );
        v2(
            json!({"type": "array", PRESERVE: true, "items": {"type": "string"}}),
            json!({PRESERVE: true}),
        );
        v2(
            json!({"type": "object", "required": ["a", "b"], "oneOf": [{"required": ["a"]}], "anyOf": [], "allOf": [{}], "not": {},
                "properties": {"a": {"type": "integer", "nullable": true}, "b": {"type": "string", "default": "x"}}}),
            json!({"type": "object", "required": ["b"], "properties": {"a": {}, "b": {"type": "string", "default": "x"}}}),
        );
        v2(
            json!({"type": "object", "required": ["a"], "additionalProperties": {"type": "string", "nullable": true}}),
            json!({"type": "object", "additionalProperties": {}}),
        );
        v2(json!({INT_OR_STRING: true}), json!({INT_OR_STRING: true}));
        v2(
            json!({"type": "object", EMBEDDED: true, PRESERVE: true}),
            json!({EMBEDDED: true, PRESERVE: true}),
        );
    }

    #[test]
    fn v3_says_all() {
        let v3 = |props, expected| check(Flavor::V3, props, expected);
        let either = json!([{"type": "integer"}, {"type": "string"}]);
        v3(
            json!({"type": "string", "nullable": true, "example": 1, "format": "", "enum": ["a", "b"]}),
            json!({"type": "string", "nullable": true, "enum": ["a", "b"]}),
        );
        v3(
            json!({INT_OR_STRING: true}),
            json!({INT_OR_STRING: true, "anyOf": either}),
        );
        v3(
            json!({INT_OR_STRING: true, "anyOf": [{"pattern": "a"}]}),
            json!({INT_OR_STRING: true, "anyOf": [{"pattern": "a"}], "allOf": [{"anyOf": either}]}),
        );
        v3(
            json!({INT_OR_STRING: true, "anyOf": either}),
            json!({INT_OR_STRING: true, "anyOf": either}),
        );
        v3(
            json!({"type": "object", PRESERVE: true, "properties": {"a": {"type": "string"}},
                "oneOf": [{"properties": {"a": {"pattern": "x"}}, "not": {"required": ["a"]}}]}),
            json!({"type": "object", PRESERVE: true, "properties": {"a": {"type": "string"}},
                "oneOf": [{"properties": {"a": {"pattern": "x"}}, "not": {"required": ["a"]}}]}),
        );
        let mut out = published(
            json!({"type": "object", EMBEDDED: true})
                .as_object()
                .expect("object"),
            Flavor::V3,
        );
        assert_eq!(out["required"], json!(["kind", "apiVersion"]));
        assert!(out.remove("properties").is_some_and(|p| p["metadata"]["allOf"][0]
            == json!({"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"})));
    }

    #[test]
    fn definitions_have_what_every_object_has() {
        assert_eq!(
            definition_name("stable.example.com", "v1", "CronTab"),
            "com.example.stable.v1.CronTab"
        );
    }
}
