//! Values to messages.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::wire::{Error, FIXED64, put_bytes, put_int, put_nested, put_tag};
use crate::schema::{Field, Schema};
use crate::time;

/// Appends the message of an object.
pub fn encode_message(schema: &Schema, value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
    let (Some(object), Value::Object(fields)) = (schema.object(), value) else {
        return Err(Error::Value(String::new()));
    };
    put_fields(&object.fields_by_tag().collect::<Vec<_>>(), 0, fields, out)
}

/// Appends those fields whose tag path starts at `level`; consecutive ones with a common tag are one inlined message.
fn put_fields(
    fields: &[&Field],
    level: usize,
    values: &Map<String, Value>,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let next = |field: &Field| field.tags.get(level + 1).copied().unwrap_or(0);
    let mut rest = fields;
    while let Some(first) = rest.first() {
        let tag = first.tags[level];
        if next(first) == 0 {
            if let Some(value) = values.get(&*first.name).filter(|value| !value.is_null()) {
                put(&first.schema, tag, value, out).map_err(|error| name_it(error, &first.name))?;
            }
            rest = &rest[1..];
            continue;
        }
        let count = rest.iter().take_while(|field| field.tags[level] == tag).count();
        let (inlined, after) = rest.split_at(count);
        if inlined
            .iter()
            .any(|field| values.get(&*field.name).is_some_and(|value| !value.is_null()))
        {
            put_nested(out, tag, |out| put_fields(inlined, level + 1, values, out))?;
        }
        rest = after;
    }
    Ok(())
}

fn name_it(error: Error, name: &str) -> Error {
    match error {
        Error::Value(below) if below.is_empty() => Error::Value(name.to_owned()),
        Error::Value(below) => Error::Value(format!("{name}.{below}")),
        error => error,
    }
}

fn put(schema: &Schema, tag: u8, value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
    let wrong = || Error::Value(String::new());
    match schema {
        Schema::Bool => put_int(out, tag, i64::from(value.as_bool().ok_or_else(wrong)?)),
        Schema::Int32 | Schema::Int64 => put_int(out, tag, value.as_i64().ok_or_else(wrong)?),
        Schema::Double => {
            put_tag(out, tag, FIXED64);
            out.extend_from_slice(&value.as_f64().ok_or_else(wrong)?.to_le_bytes());
        }
        Schema::String => put_bytes(out, tag, value.as_str().ok_or_else(wrong)?.as_bytes()),
        Schema::Bytes => {
            let bytes = STANDARD
                .decode(value.as_str().ok_or_else(wrong)?)
                .map_err(|_| wrong())?;
            put_bytes(out, tag, &bytes);
        }
        Schema::List(list) => {
            for item in value.as_array().ok_or_else(wrong)? {
                put(&list.items, tag, item, out)?;
            }
        }
        Schema::Map(map) => {
            for (key, value) in value.as_object().ok_or_else(wrong)? {
                put_nested(out, tag, |out| {
                    put_bytes(out, 1, key.as_bytes());
                    match &map.values {
                        // A list inside a map is a message with the list as field 1.
                        values @ Schema::List(_) => put_nested(out, 2, |out| put(values, 1, value, out)),
                        _ if value.is_null() => Ok(()),
                        values => put(values, 2, value, out),
                    }
                })?;
            }
        }
        Schema::Object(_) | Schema::Def(_) => put_nested(out, tag, |out| match value {
            Value::Null => Ok(()),
            value => encode_message(schema, value, out),
        })?,
        schema => put_nested(out, tag, |out| put_special(schema, value, out))?,
    }
    Ok(())
}

/// Appends the message of a type that JSON writes as something else.
fn put_special(schema: &Schema, value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
    let wrong = || Error::Value(String::new());
    let schema_props = || {
        let name = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        crate::schema::registry()
            .by_name(name)
            .ok_or_else(|| Error::UnknownKind(name.to_owned()))
    };
    match (schema, value) {
        (Schema::Quantity, Value::String(text)) => put_bytes(out, 1, text.as_bytes()),
        (Schema::Quantity, Value::Number(number)) => put_bytes(out, 1, number.to_string().as_bytes()),
        (Schema::Time | Schema::MicroTime, Value::String(text)) => {
            let time = time::parse(text).map_err(|_| wrong())?;
            put_int(out, 1, time.as_second());
            put_int(out, 2, i64::from(time.subsec_nanosecond()));
        }
        (Schema::IntOrString, Value::String(text)) => {
            put_int(out, 1, 1);
            put_int(out, 2, 0);
            put_bytes(out, 3, text.as_bytes());
        }
        (Schema::IntOrString, Value::Number(number)) => {
            put_int(out, 1, 0);
            put_int(out, 2, number.as_i64().ok_or_else(wrong)?);
            put_bytes(out, 3, b"");
        }
        (Schema::JsonSchemaOrArray, Value::Array(items)) => {
            for item in items {
                put(schema_props()?, 2, item, out)?;
            }
        }
        (Schema::JsonSchemaOrArray, value) => put(schema_props()?, 1, value, out)?,
        (Schema::JsonSchemaOrBool, Value::Bool(allows)) => put_int(out, 1, i64::from(*allows)),
        (Schema::JsonSchemaOrBool, value) => {
            put_int(out, 1, 1);
            put(schema_props()?, 2, value, out)?;
        }
        (Schema::JsonSchemaOrStringArray, Value::Array(items)) => {
            for item in items {
                put(&Schema::String, 2, item, out)?;
            }
        }
        (Schema::JsonSchemaOrStringArray, value) => put(schema_props()?, 1, value, out)?,
        (Schema::RawExtension | Schema::FieldsV1 | Schema::Json | Schema::Any, value) => {
            let text = serde_json::to_vec(value).map_err(|_| wrong())?;
            put_bytes(out, 1, &text);
        }
        _ => return Err(wrong()),
    }
    Ok(())
}
