//! JSON to values and back.

use base64::Engine;
use serde_json::{Map as JsonMap, Number, Value as Json};

use super::compare::Steps;
use super::data::{Extension, Value};
use super::list::List;
use super::map::{Key, Map};
use super::text::Text;
use crate::decl::{Decl, DeclKind, ListType};
use crate::error::EvalError;
use crate::functions::time::{
    format_duration, format_timestamp, parse_date, parse_duration, parse_timestamp,
};

static ATOMIC: ListType = ListType::Atomic;

/// Why a value cannot be written as JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToJsonError {
    /// The type has no JSON form.
    #[error("a value of type {0} cannot be written as JSON")]
    Type(&'static str),
    /// Reading the value failed.
    #[error(transparent)]
    Eval(#[from] EvalError),
}

/// The value that some JSON is under a declaration.
pub(crate) fn from_json<'a>(json: &'a Json, decl: &'a Decl) -> Result<Value<'a>, EvalError> {
    let invalid = |expected: &str| EvalError::new(format!("invalid data, expected {expected}"));
    if json.is_null() && !matches!(decl.kind, DeclKind::Dyn) {
        return if decl.nullable {
            Ok(Value::Null)
        } else {
            Err(EvalError::new(
                "invalid data, got null for schema with nullable=false",
            ))
        };
    }
    match (&decl.kind, json) {
        (DeclKind::Dyn, _) => Ok(untyped(json, decl)),
        (DeclKind::IntOrString, Json::String(_) | Json::Number(_)) => Ok(untyped(json, decl)),
        (DeclKind::IntOrString, _) => Err(invalid("XIntOrString value to be either a string or integer")),
        (DeclKind::Bool, Json::Bool(value)) => Ok(Value::Bool(*value)),
        (DeclKind::Bool, _) => Err(invalid("bool")),
        (DeclKind::Int, Json::Number(number)) => whole(number).map(Value::Int).ok_or_else(|| invalid("int")),
        (DeclKind::Int, _) => Err(invalid("int")),
        (DeclKind::Double, Json::Number(number)) => {
            number.as_f64().map(Value::Double).ok_or_else(|| invalid("float"))
        }
        (DeclKind::Double, _) => Err(invalid("float")),
        (DeclKind::String, Json::String(text)) => Ok(Value::String(Text::Borrowed(text))),
        (DeclKind::Bytes, Json::String(text)) => base64::engine::general_purpose::STANDARD
            .decode(text)
            .map(|bytes| Value::Bytes(bytes.into()))
            .map_err(|error| EvalError::new(format!("Invalid byte formatted string {text}: {error}"))),
        (DeclKind::Duration, Json::String(text)) => parse_duration(text)
            .map(Value::Duration)
            .ok_or_else(|| EvalError::new(format!("Invalid duration {text}"))),
        (DeclKind::Date, Json::String(text)) => parse_date(text)
            .map(Value::Timestamp)
            .ok_or_else(|| EvalError::new(format!("Invalid date formatted string {text}"))),
        (DeclKind::DateTime, Json::String(text)) => parse_timestamp(text)
            .map(Value::Timestamp)
            .ok_or_else(|| EvalError::new(format!("Invalid date-time formatted string {text}"))),
        (
            DeclKind::String | DeclKind::Bytes | DeclKind::Duration | DeclKind::Date | DeclKind::DateTime,
            _,
        ) => Err(invalid("string")),
        (DeclKind::List(element, list_type), Json::Array(items)) => {
            Ok(Value::List(List::view(items, element, list_type)))
        }
        (DeclKind::List(..), _) => Err(invalid("an array for the provided schema with type=array")),
        (DeclKind::Map(_) | DeclKind::Object(_), Json::Object(object)) => {
            Ok(Value::Map(Map::view(object, decl)))
        }
        (DeclKind::Map(_) | DeclKind::Object(_), _) => {
            Err(invalid("a map for the provided schema with type=object"))
        }
    }
}

/// A whole number, also when it is written with a fraction of zero.
fn whole(number: &Number) -> Option<i64> {
    number.as_i64().or_else(|| {
        let value = number.as_f64()?;
        #[expect(clippy::cast_possible_truncation, reason = "the bounds are checked")]
        (value.fract() == 0.0 && value.abs() < 9.0e15).then_some(value as i64)
    })
}

fn untyped<'a>(json: &'a Json, decl: &'a Decl) -> Value<'a> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::Int(value),
            (None, Some(value)) => Value::Uint(value),
            (None, None) => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(Text::Borrowed(text)),
        Json::Array(items) => Value::List(List::view(items, decl, &ATOMIC)),
        Json::Object(object) => Value::Map(Map::view(object, decl)),
    }
}

impl<'a> Value<'a> {
    /// JSON as it is, without a schema.
    pub fn from_json(json: &'a Json) -> Self {
        untyped(json, Decl::any())
    }

    /// JSON under a declaration.
    ///
    /// # Errors
    /// The JSON is not what the declaration says.
    pub fn typed(json: &'a Json, decl: &'a Decl) -> Result<Self, EvalError> {
        from_json(json, decl)
    }

    /// The value as JSON: bytes in Base64, instants in RFC 3339, durations in Go's form.
    ///
    /// # Errors
    /// The value has no JSON form, or it is too large.
    pub fn to_json(&self) -> Result<Json, ToJsonError> {
        self.write_json(&mut Steps::default())
    }

    fn write_json(&self, steps: &mut Steps) -> Result<Json, ToJsonError> {
        steps.take()?;
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::Bool(*value),
            Self::Int(value) => Json::from(*value),
            Self::Uint(value) => Json::from(*value),
            Self::Double(value) => Number::from_f64(*value).map_or(Json::Null, Json::Number),
            Self::String(text) => Json::String(text.to_string()),
            Self::Bytes(bytes) => Json::String(base64::engine::general_purpose::STANDARD.encode(bytes)),
            Self::Timestamp(timestamp) => Json::String(format_timestamp(*timestamp)),
            Self::Duration(nanoseconds) => Json::String(format_duration(*nanoseconds)),
            Self::List(list) => {
                let mut items = Vec::with_capacity(list.len());
                for item in list.iter() {
                    items.push(item?.write_json(steps)?);
                }
                Json::Array(items)
            }
            Self::Map(map) => {
                let mut object = JsonMap::new();
                for (key, value) in map.entries()? {
                    let key = match key {
                        Key::String(text) => text.to_string(),
                        other => crate::functions::display(&other.value()),
                    };
                    object.insert(key, value.write_json(steps)?);
                }
                Json::Object(object)
            }
            Self::Optional(None) => Json::Null,
            Self::Optional(Some(value)) => value.write_json(steps)?,
            Self::Extension(Extension::Quantity(quantity)) => Json::String(quantity.to_string()),
            Self::Extension(Extension::Unknown(json)) => (*json).clone(),
            Self::Type(_) | Self::Extension(_) => return Err(ToJsonError::Type(self.type_name())),
        })
    }
}
