//! JSON, optionally with the problems that strict field validation reports.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map as JsonMap, Number, Value};

use crate::field::quote;
use crate::schema::Schema;

/// More problems than this are not listed, as upstream.
const MAX_PROBLEMS: usize = 100;

/// The bytes are not JSON, or nested deeper than 128.
#[derive(Debug, thiserror::Error)]
#[error("json parse error: {0}")]
pub struct DecodeError(#[from] serde_json::Error);

/// Decodes JSON; of a repeated field the last value counts.
pub fn decode(bytes: &[u8]) -> Result<Value, DecodeError> {
    Ok(serde_json::from_slice(bytes)?)
}

/// Decodes JSON and lists unknown and duplicate fields in order of appearance.
pub fn decode_strict(bytes: &[u8], schema: &Schema) -> Result<(Value, Vec<String>), DecodeError> {
    let problems = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = Seed {
        schema: Some(schema),
        problems: &problems,
        at: &At::Root,
    };
    let value = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, problems.into_inner()))
}

/// Lists the unknown fields of a value that is decoded already.
pub fn unknown_fields(value: &Value, schema: &Schema) -> Vec<String> {
    let problems = RefCell::new(Vec::new());
    find_unknown(value, schema, &At::Root, &problems);
    problems.into_inner()
}

/// The message of a strict decoding error.
pub fn strict_error(problems: &[String]) -> String {
    format!("strict decoding error: {}", problems.join(", "))
}

type Problems = RefCell<Vec<String>>;

enum At<'a> {
    Root,
    Field(&'a At<'a>, &'a str),
    Index(&'a At<'a>, usize),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

fn report(problems: &Problems, what: &str, at: &At<'_>) {
    let mut problems = problems.borrow_mut();
    if problems.len() < MAX_PROBLEMS {
        let text = format!("{what} field {}", quote(&at.to_string()));
        if !problems.contains(&text) {
            problems.push(text);
        }
    }
}

/// Whether a struct knows no such field; what stands below an unknown field is not looked at.
fn is_unknown(schema: &Schema, name: &str) -> bool {
    let embedded = |name| matches!(name, "apiVersion" | "kind" | "metadata");
    schema.object().is_some_and(|object| {
        !object.preserve_unknown
            && object.field(name).is_none()
            && !(object.embedded_resource && embedded(name))
    })
}

fn find_unknown(value: &Value, schema: &Schema, at: &At<'_>, problems: &Problems) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let at = At::Field(at, name);
                if is_unknown(schema, name) {
                    report(problems, "unknown", &at);
                } else if let Some(schema) = schema.entry(name) {
                    find_unknown(value, schema, &at, problems);
                }
            }
        }
        Value::Array(items) => {
            if let Some(list) = schema.list().filter(|list| !list.items.is_scalar()) {
                for (index, item) in items.iter().enumerate() {
                    find_unknown(item, &list.items, &At::Index(at, index), problems);
                }
            }
        }
        _ => {}
    }
}

struct Seed<'a> {
    schema: Option<&'a Schema>,
    problems: &'a Problems,
    at: &'a At<'a>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let schema = self.schema.and_then(Schema::list).map(|list| &list.items);
        let mut items = Vec::new();
        loop {
            let at = At::Index(self.at, items.len());
            match access.next_element_seed(Seed {
                schema,
                problems: self.problems,
                at: &at,
            })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = JsonMap::new();
        while let Some(name) = access.next_key::<String>()? {
            let at = At::Field(self.at, &name);
            let schema = self.schema.and_then(|schema| schema.entry(&name));
            if schema.is_none() && self.schema.is_some_and(|schema| is_unknown(schema, &name)) {
                report(self.problems, "unknown", &at);
            } else if fields.contains_key(&name) {
                report(self.problems, "duplicate", &at);
            }
            let value = access.next_value_seed(Seed {
                schema,
                problems: self.problems,
                at: &at,
            })?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::registry;

    #[test]
    fn strict_problems() {
        let schema = registry().by_gvk("apps", "v1", "Deployment").expect("Deployment");
        let body = br#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a","labels":{"x":"1","x":"2"}},
            "spec":{"foo":{"bar":1},"replicas":1,"replicas":2,
            "template":{"spec":{"containers":[{"name":"c","nme":"d"},{"name":"e","ports":[{"x":1}]}]}}}}"#;
        let (value, problems) = decode_strict(body, schema).expect("json");
        assert_eq!(value["spec"]["replicas"], 2);
        assert_eq!(
            problems,
            [
                "duplicate field \"metadata.labels.x\"",
                "unknown field \"spec.foo\"",
                "duplicate field \"spec.replicas\"",
                "unknown field \"spec.template.spec.containers[0].nme\"",
                "unknown field \"spec.template.spec.containers[1].ports[0].x\"",
            ]
        );
        let unknown = unknown_fields(&value, schema);
        assert_eq!(unknown.len(), 3);
        assert_eq!(
            strict_error(&unknown[..1]),
            "strict decoding error: unknown field \"spec.foo\""
        );
    }

    #[test]
    fn bad_input_is_an_error() {
        let schema = registry().by_gvk("", "v1", "Pod").expect("Pod");
        let deep = "[".repeat(100_000);
        for text in ["", "{", "{\"a\":}", "[1,]", "{} x", "\u{0}", deep.as_str()] {
            assert!(decode_strict(text.as_bytes(), schema).is_err());
            assert!(decode(text.as_bytes()).is_err());
        }
    }
}
