//! Turns decoded JSON into what upstream's Go types would hold and print again.
//!
//! Types are checked, unknown fields pruned, nulls and empty values left out where Go leaves them out, structs that Go
//! always prints (`resources: {}`, `status: {}`) filled in, quantities, times and base64 made canonical. Idempotent.
//! Go's case-sensitive decoding is kept; integers must be written as integers.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map as JsonMap, Value};

use crate::gvk::GroupVersionKind;
use crate::quantity;
use crate::schema::{Field, Object, Schema};
use crate::status::Status;
use crate::time;

/// A value does not fit its schema. Displays as Go's decoder says it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct TypeError {
    what: What,
    /// Go name of the innermost struct.
    owner: String,
    /// JSON names from the innermost to the outermost.
    path: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Mismatch { value: String, go_type: String },
    Custom(String),
}

impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Custom(text) => f.write_str(text),
            What::Mismatch { value, go_type } if self.path.is_empty() => {
                write!(
                    f,
                    "json: cannot unmarshal {value} into Go value of type {go_type}"
                )
            }
            What::Mismatch { value, go_type } => {
                write!(
                    f,
                    "json: cannot unmarshal {value} into Go struct field {}",
                    self.owner
                )?;
                for name in self.path.iter().rev() {
                    write!(f, ".{name}")?;
                }
                write!(f, " of type {go_type}")
            }
        }
    }
}

impl TypeError {
    fn mismatch(value: &Value, schema: &Schema) -> Self {
        let value = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(n) if matches!(schema, Schema::Int32 | Schema::Int64 | Schema::IntOrString) => {
                format!("number {n}")
            }
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        Self {
            what: What::Mismatch {
                value,
                go_type: go_type(schema),
            },
            owner: String::new(),
            path: Vec::new(),
        }
    }

    fn custom(error: impl fmt::Display) -> Self {
        Self {
            what: What::Custom(error.to_string()),
            owner: String::new(),
            path: Vec::new(),
        }
    }

    fn below(mut self, object: &Object, field: &str) -> Self {
        if self.path.is_empty() {
            object.go_name().clone_into(&mut self.owner);
        }
        self.path.push(field.to_owned());
        self
    }

    /// The 400 with which upstream answers a body that does not fit its kind.
    pub fn to_status(&self, kind: &GroupVersionKind) -> Status {
        Status::bad_request(format!(
            "{} in version {} cannot be handled as a {}: {self}",
            kind.kind,
            crate::field::quote(&kind.version),
            kind.kind
        ))
    }
}

fn go_type(schema: &Schema) -> String {
    match schema {
        Schema::Bool => "bool".to_owned(),
        Schema::Int32 | Schema::IntOrString => "int32".to_owned(),
        Schema::Int64 => "int64".to_owned(),
        Schema::Double => "float64".to_owned(),
        Schema::Bytes => "[]uint8".to_owned(),
        Schema::List(list) => format!("[]{}", go_type(&list.items)),
        Schema::Map(map) => format!("map[string]{}", go_type(&map.values)),
        Schema::Def(_) | Schema::Object(_) => {
            let name = schema.object().map_or("", |object| &*object.name);
            let at = name.rmatch_indices('.').nth(1).map_or(0, |(at, _)| at + 1);
            name[at..].to_owned()
        }
        _ => "string".to_owned(),
    }
}

/// Checks and normalizes a whole object.
pub fn normalize(schema: &Schema, value: &mut Value) -> Result<(), TypeError> {
    Walk { fill: true }.value(schema, value)
}

/// As [`normalize`], but fills in no structs and keeps zero values and undeclared fields: for documents that say only what
/// their author said.
pub fn normalize_sparse(schema: &Schema, value: &mut Value) -> Result<(), TypeError> {
    Walk { fill: false }.value(schema, value)
}

struct Walk {
    fill: bool,
}

impl Walk {
    fn value(&self, schema: &Schema, value: &mut Value) -> Result<(), TypeError> {
        match (schema, &mut *value) {
            (Schema::String, Value::String(_))
            | (Schema::Bool, Value::Bool(_))
            | (Schema::Double, Value::Number(_)) => {}
            (Schema::Int32, Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {}
            (Schema::Int64, Value::Number(n)) if n.is_i64() => {}
            (Schema::IntOrString, Value::String(_)) => {}
            (Schema::IntOrString, Value::Number(n))
                if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {}
            (Schema::Def(_) | Schema::Object(_), Value::Object(fields)) => {
                if let Some(object) = schema.object() {
                    self.fields(object, fields)?;
                }
            }
            (Schema::List(list), Value::Array(items)) => {
                for item in items {
                    if item.is_null() {
                        *item = zero(&list.items);
                    }
                    self.value(&list.items, item)?;
                }
            }
            (Schema::Map(map), Value::Object(entries)) => {
                for entry in entries.values_mut() {
                    if entry.is_null() {
                        *entry = zero(&map.values);
                    }
                    self.value(&map.values, entry)?;
                }
            }
            (Schema::Quantity, Value::String(text)) => {
                let canonical = quantity::canonicalize(text.trim()).map_err(TypeError::custom)?;
                *text = canonical;
            }
            (Schema::Quantity, Value::Number(n)) => {
                let canonical = quantity::canonicalize(&n.to_string()).map_err(TypeError::custom)?;
                *value = Value::String(canonical);
            }
            (Schema::Time, Value::String(text)) => {
                if let Some(canonical) = time::canonicalize(text).map_err(TypeError::custom)? {
                    *text = canonical;
                }
            }
            (Schema::MicroTime, Value::String(text)) => {
                if let Some(canonical) = time::canonicalize_micro(text).map_err(TypeError::custom)? {
                    *text = canonical;
                }
            }
            (Schema::Bytes, Value::String(text)) => normalize_base64(text)?,
            (Schema::RawExtension | Schema::FieldsV1, Value::Object(_)) => {}
            (
                Schema::Any
                | Schema::Json
                | Schema::JsonSchemaOrArray
                | Schema::JsonSchemaOrBool
                | Schema::JsonSchemaOrStringArray,
                _,
            ) => {}
            (Schema::RawExtension, _) => {}
            (schema, value) => return Err(TypeError::mismatch(value, schema)),
        }
        Ok(())
    }

    fn fields(&self, object: &Object, fields: &mut JsonMap<String, Value>) -> Result<(), TypeError> {
        let mut failed = None;
        fields.retain(|name, value| {
            if failed.is_some() {
                return true;
            }
            let Some(field) = object.field(name) else {
                return !self.fill
                    || object.preserve_unknown
                    || (object.embedded_resource
                        && matches!(name.as_str(), "apiVersion" | "kind" | "metadata"));
            };
            match self.field(field, value) {
                Ok(keep) => keep,
                Err(error) => {
                    failed = Some(error.below(object, name));
                    true
                }
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        if self.fill {
            for field in object.always_present() {
                if !fields.contains_key(&*field.name) {
                    let mut value = zero(&field.schema);
                    self.value(&field.schema, &mut value)?;
                    fields.insert(field.name.clone().into_owned(), value);
                }
            }
        }
        Ok(())
    }

    /// Whether the field stays.
    fn field(&self, field: &Field, value: &mut Value) -> Result<bool, TypeError> {
        if value.is_null() && !matches!(field.schema, Schema::Json | Schema::Any) {
            return Ok(field.nullable);
        }
        self.value(&field.schema, value)?;
        if !self.fill || !field.omit_zero {
            return Ok(true);
        }
        Ok(match value {
            Value::Bool(set) => *set,
            Value::String(text) => !text.is_empty(),
            Value::Number(n) => n.as_f64() != Some(0.0),
            Value::Array(items) => !items.is_empty(),
            Value::Object(map) => !map.is_empty() || !matches!(field.schema, Schema::Map(_)),
            Value::Null => true,
        })
    }
}

fn zero(schema: &Schema) -> Value {
    match schema {
        Schema::Bool => Value::Bool(false),
        Schema::Int32 | Schema::Int64 | Schema::Double | Schema::IntOrString => Value::from(0),
        Schema::String | Schema::Bytes => Value::String(String::new()),
        Schema::Quantity => Value::from("0"),
        Schema::List(_) => Value::Array(Vec::new()),
        Schema::Map(_) | Schema::Def(_) | Schema::Object(_) => Value::Object(JsonMap::new()),
        _ => Value::Null,
    }
}

fn normalize_base64(text: &mut String) -> Result<(), TypeError> {
    if text.bytes().any(|b| matches!(b, b'\r' | b'\n')) {
        text.retain(|c| !matches!(c, '\r' | '\n'));
    }
    match STANDARD.decode(text.as_bytes()) {
        Ok(_) => Ok(()),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => text.len(),
            };
            Err(TypeError::custom(format_args!(
                "illegal base64 data at input byte {at}"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::registry;
    use serde_json::json;

    fn schema(group: &str, kind: &str) -> &'static Schema {
        let id = registry().definitions().iter().find(|d| {
            d.kinds
                .iter()
                .any(|k| k.group == group && k.version == "v1" && k.kind == kind)
        });
        registry().by_name(&id.expect("kind").name).expect("definition")
    }

    #[test]
    fn prunes_fills_and_canonicalizes() {
        let mut value = json!({
            "apiVersion": "v1", "kind": "Pod", "bogus": 1,
            "metadata": {"name": "p", "creationTimestamp": null, "labels": {}, "annotations": {"a": null}},
            "spec": {"hostNetwork": false, "nodeSelector": null, "terminationGracePeriodSeconds": 0, "containers": [
                {"name": "c", "args": [], "tty": true, "foo": {"x": 1},
                 "resources": {"limits": {"cpu": 0.25, "memory": "0.5Gi"}}}],
                "volumes": [{"name": "v", "emptyDir": {}}]}});
        normalize(schema("", "Pod"), &mut value).expect("normal");
        let expected = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "annotations": {"a": ""}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                {"name": "c", "tty": true, "resources": {"limits": {"cpu": "250m", "memory": "512Mi"}}}],
                "volumes": [{"name": "v", "emptyDir": {}}]},
            "status": {}});
        assert_eq!(value, expected);
        normalize(schema("", "Pod"), &mut value).expect("idempotent");
        assert_eq!(value, expected);
    }

    #[test]
    fn a_divisor_is_always_there() {
        let mut value = json!({"resourceFieldRef": {"resource": "limits.cpu"}});
        let schema = registry()
            .by_name("io.k8s.api.core.v1.EnvVarSource")
            .expect("definition");
        normalize(schema, &mut value).expect("normal");
        assert_eq!(
            value,
            json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "0"}})
        );
    }

    #[test]
    fn sparse_keeps_what_was_said() {
        let mut value = json!({"spec": {"hostNetwork": false, "containers": [{"name": "c", "args": []}]}});
        let before = value.clone();
        normalize_sparse(schema("", "Pod"), &mut value).expect("normal");
        assert_eq!(value, before);
    }

    #[test]
    fn type_errors() {
        let check = |group: &str, kind: &str, mut value: Value, text: &str| {
            let error = normalize(schema(group, kind), &mut value).expect_err("type error");
            assert_eq!(error.to_string(), text);
        };
        check(
            "apps",
            "Deployment",
            json!({"spec": {"replicas": "3"}}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        );
        check(
            "apps",
            "Deployment",
            json!({"spec": {"replicas": 1.5}}),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        );
        check(
            "",
            "Pod",
            json!({"spec": {"containers": [{"env": [{"name": "a", "value": 1}]}]}}),
            "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string",
        );
        check(
            "",
            "Pod",
            json!({"spec": {"containers": {}}}),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        );
        check(
            "",
            "ConfigMap",
            json!({"data": {"a": 1}}),
            "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
        );
        check(
            "",
            "ConfigMap",
            json!([]),
            "json: cannot unmarshal array into Go value of type v1.ConfigMap",
        );
        check(
            "",
            "Secret",
            json!({"data": {"a": "@@"}}),
            "illegal base64 data at input byte 0",
        );
        check(
            "",
            "Pod",
            json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "x"}}}]}}),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        );
    }
}
