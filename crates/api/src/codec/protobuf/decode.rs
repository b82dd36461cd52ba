//! Messages to values.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::wire::{Content, Error, Reader};
use crate::schema::{Field, Object, Schema, registry};
use crate::time;

/// Objects are no deeper than what JSON decoding accepts.
const MAX_DEPTH: usize = 100;

/// Reads the message of an object.
///
/// Zero values that Go writes always and JSON leaves out are left out; an absent `items` is an empty list.
pub fn decode_message(schema: &Schema, bytes: &[u8]) -> Result<Value, Error> {
    message(schema, bytes, 0)
}

fn message(schema: &Schema, bytes: &[u8], depth: usize) -> Result<Value, Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Depth);
    }
    let Some(object) = schema.object() else {
        return Err(Error::Value(String::new()));
    };
    let mut fields = Map::new();
    read_fields(object, [0; 3], 0, bytes, &mut fields, depth)?;
    if let Some(items) = object.field("items")
        && matches!(items.schema, Schema::List(_))
        && items.required
        && !fields.contains_key("items")
    {
        fields.insert("items".to_owned(), Value::Array(Vec::new()));
    }
    Ok(Value::Object(fields))
}

/// Reads fields at a level of inlining into one map.
fn read_fields(
    object: &Object,
    mut prefix: [u8; 3],
    level: usize,
    bytes: &[u8],
    fields: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Error> {
    let mut reader = Reader::new(bytes);
    while let Some((tag, content)) = reader.field()? {
        let Ok(tag) = u8::try_from(tag) else { continue };
        prefix[level] = tag;
        let mut candidates = object
            .fields
            .iter()
            .filter(|field| field.tags[..=level] == prefix[..=level]);
        let Some(field) = candidates.next() else { continue };
        if field.tags.get(level + 1).is_some_and(|tag| *tag != 0) {
            let Content::Bytes(inlined) = content else {
                return Err(wrong_wire(content, &field.name));
            };
            read_fields(object, prefix, level + 1, inlined, fields, depth)?;
            continue;
        }
        read_field(field, content, fields, depth)?;
    }
    Ok(())
}

fn wrong_wire(content: Content<'_>, field: &str) -> Error {
    Error::WireType {
        wire: content.wire(),
        field: field.to_owned(),
    }
}

fn read_field(
    field: &Field,
    content: Content<'_>,
    fields: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Error> {
    let name = &*field.name;
    match &field.schema {
        Schema::List(list) => {
            let slot = fields
                .entry(name.to_owned())
                .or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = slot else {
                return Err(Error::Value(name.to_owned()));
            };
            read_items(&list.items, name, content, items, depth)
        }
        Schema::Map(map) => {
            let slot = fields
                .entry(name.to_owned())
                .or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(entries) = slot else {
                return Err(Error::Value(name.to_owned()));
            };
            let Content::Bytes(entry) = content else {
                return Err(wrong_wire(content, name));
            };
            let (key, value) = read_entry(&map.values, name, entry, depth)?;
            entries.insert(key, value);
            Ok(())
        }
        schema => {
            let value = read_value(schema, name, content, depth)?;
            let zero = match &value {
                Value::Null => true,
                Value::Object(_) => false,
                value => field.omit_zero && is_zero(schema, value),
            };
            if zero {
                fields.remove(name);
            } else {
                fields.insert(name.to_owned(), value);
            }
            Ok(())
        }
    }
}

fn is_zero(schema: &Schema, value: &Value) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0) && !matches!(schema, Schema::IntOrString),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn read_items(
    schema: &Schema,
    name: &str,
    content: Content<'_>,
    items: &mut Vec<Value>,
    depth: usize,
) -> Result<(), Error> {
    let scalar = matches!(
        schema,
        Schema::Int32 | Schema::Int64 | Schema::Bool | Schema::Double
    );
    if let (true, Content::Bytes(packed)) = (scalar, content) {
        let mut reader = Reader::new(packed);
        while !reader.is_empty() {
            let content = match schema {
                Schema::Double => Content::Fixed64(reader.fixed64()?),
                _ => Content::Varint(reader.varint()?),
            };
            items.push(read_value(schema, name, content, depth)?);
        }
        return Ok(());
    }
    items.push(read_value(schema, name, content, depth)?);
    Ok(())
}

fn read_entry(schema: &Schema, name: &str, entry: &[u8], depth: usize) -> Result<(String, Value), Error> {
    let mut reader = Reader::new(entry);
    let mut key = String::new();
    let mut value = None;
    while let Some((tag, content)) = reader.field()? {
        match (tag, content, schema) {
            (1, Content::Bytes(bytes), _) => key = utf8(bytes, name)?,
            (2, Content::Bytes(bytes), Schema::List(list)) => {
                let mut items = Vec::new();
                let mut reader = Reader::new(bytes);
                while let Some((tag, content)) = reader.field()? {
                    if tag == 1 {
                        read_items(&list.items, name, content, &mut items, depth)?;
                    }
                }
                value = Some(Value::Array(items));
            }
            (2, content, schema) => value = Some(read_value(schema, name, content, depth)?),
            _ => {}
        }
    }
    let absent = || match schema {
        Schema::String | Schema::Bytes => Value::String(String::new()),
        Schema::List(_) => Value::Array(Vec::new()),
        Schema::Quantity => Value::from("0"),
        Schema::Object(_) | Schema::Def(_) => Value::Object(Map::new()),
        Schema::Bool => Value::Bool(false),
        Schema::Int32 | Schema::Int64 | Schema::Double => Value::from(0),
        _ => Value::Null,
    };
    Ok((key, value.unwrap_or_else(absent)))
}

fn utf8(bytes: &[u8], name: &str) -> Result<String, Error> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::Utf8(name.to_owned()))
}

fn read_value(schema: &Schema, name: &str, content: Content<'_>, depth: usize) -> Result<Value, Error> {
    Ok(match (schema, content) {
        (Schema::Bool, Content::Varint(value)) => Value::Bool(value != 0),
        (Schema::Int32, Content::Varint(value)) => {
            #[expect(clippy::cast_possible_truncation, reason = "protobuf keeps the low 32 bits")]
            let value = value.cast_signed() as i32;
            Value::from(value)
        }
        (Schema::Int64, Content::Varint(value)) => Value::from(value.cast_signed()),
        (Schema::Double, Content::Fixed64(bits)) => Number::from_f64(f64::from_bits(bits))
            .map(Value::Number)
            .ok_or_else(|| Error::Value(name.to_owned()))?,
        (Schema::String, Content::Bytes(bytes)) => Value::String(utf8(bytes, name)?),
        (Schema::Bytes, Content::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
        (Schema::Object(_) | Schema::Def(_), Content::Bytes(bytes)) => message(schema, bytes, depth + 1)?,
        (schema, Content::Bytes(bytes)) => special(schema, name, bytes, depth)?,
        (_, content) => return Err(wrong_wire(content, name)),
    })
}

/// Reads the message of a type that JSON writes as something else.
fn special(schema: &Schema, name: &str, bytes: &[u8], depth: usize) -> Result<Value, Error> {
    let wrong = || Error::Value(name.to_owned());
    let (mut numbers, mut raw, mut repeated) = ([0_i64; 3], [None, None, None], Vec::new());
    let mut reader = Reader::new(bytes);
    while let Some((tag, content)) = reader.field()? {
        let Some(at) = usize::try_from(tag)
            .ok()
            .and_then(|tag| tag.checked_sub(1))
            .filter(|at| *at < 3)
        else {
            continue;
        };
        match content {
            Content::Varint(value) => numbers[at] = value.cast_signed(),
            Content::Bytes(bytes) => {
                raw[at] = Some(bytes);
                if at == 1 {
                    repeated.push(bytes);
                }
            }
            content => return Err(wrong_wire(content, name)),
        }
    }
    let text = |bytes: Option<&[u8]>| utf8(bytes.unwrap_or_default(), name);
    let schema_props = |bytes: &[u8]| {
        let name = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        let schema = registry()
            .by_name(name)
            .ok_or_else(|| Error::UnknownKind(name.to_owned()))?;
        message(schema, bytes, depth + 1)
    };
    Ok(match schema {
        Schema::Quantity => Value::String(text(raw[0])?),
        Schema::Time | Schema::MicroTime => {
            if bytes.is_empty() {
                return Ok(Value::Null);
            }
            let nanos = i32::try_from(numbers[1]).map_err(|_| wrong())?;
            let at = Timestamp::new(numbers[0], nanos).map_err(|_| wrong())?;
            let micro = matches!(schema, Schema::MicroTime);
            Value::String(if micro {
                time::format_micro(at)
            } else {
                time::format(at)
            })
        }
        Schema::IntOrString if numbers[0] == 1 => Value::String(text(raw[2])?),
        Schema::IntOrString => Value::from(i32::try_from(numbers[1]).map_err(|_| wrong())?),
        Schema::JsonSchemaOrArray => match raw[0] {
            Some(one) => schema_props(one)?,
            None => Value::Array(repeated.into_iter().map(schema_props).collect::<Result<_, _>>()?),
        },
        Schema::JsonSchemaOrBool => match raw[1] {
            Some(one) => schema_props(one)?,
            None => Value::Bool(numbers[0] != 0),
        },
        Schema::JsonSchemaOrStringArray => match raw[0] {
            Some(one) => schema_props(one)?,
            None => Value::Array(
                repeated
                    .into_iter()
                    .map(|bytes| text(Some(bytes)).map(Value::String))
                    .collect::<Result<_, _>>()?,
            ),
        },
        Schema::RawExtension | Schema::FieldsV1 | Schema::Json | Schema::Any => match raw[0] {
            None | Some([]) => Value::Null,
            Some(json) => serde_json::from_slice(json).map_err(|_| wrong())?,
        },
        _ => return Err(wrong()),
    })
}
