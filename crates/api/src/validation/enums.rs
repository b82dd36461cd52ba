//! Enumerations, as the schema has them.

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};
use crate::schema::{Field, Schema};

/// A step of the way to a value.
#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

/// Texts outside of their enumeration, everywhere but in metadata and status. Empty ones count as absent.
pub(super) fn check(errors: &mut ErrorList, schema: &Schema, object: &Value) {
    let mut way = Vec::new();
    if let (Some(definition), Value::Object(fields)) = (schema.object(), object) {
        for (name, value) in fields {
            if let Some(field) = definition
                .field(name)
                .filter(|_| name != "metadata" && name != "status")
            {
                way.push(Step::Field(name));
                check_field(errors, field, value, &mut way);
                way.pop();
            }
        }
    }
}

fn check_field<'a>(errors: &mut ErrorList, field: &'a Field, value: &'a Value, way: &mut Vec<Step<'a>>) {
    let allowed = &field.extra().enumeration;
    if allowed.is_empty() {
        return walk(errors, &field.schema, value, way);
    }
    let mut judge = |value: &'a Value, way: &[Step<'a>]| {
        if let Some(text) = value
            .as_str()
            .filter(|text| !text.is_empty() && !allowed.iter().any(|a| a == text))
        {
            errors.push(Error::not_supported(&path(way), text, allowed));
        }
    };
    match value {
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                way.push(Step::Index(at));
                judge(item, way);
                way.pop();
            }
        }
        value => judge(value, way),
    }
}

fn walk<'a>(errors: &mut ErrorList, schema: &'a Schema, value: &'a Value, way: &mut Vec<Step<'a>>) {
    match (schema, value) {
        (Schema::List(list), Value::Array(items)) if !list.items.is_scalar() => {
            for (at, item) in items.iter().enumerate() {
                way.push(Step::Index(at));
                walk(errors, &list.items, item, way);
                way.pop();
            }
        }
        (Schema::Map(map), Value::Object(entries)) if !map.values.is_scalar() => {
            for (key, entry) in entries {
                way.push(Step::Key(key));
                walk(errors, &map.values, entry, way);
                way.pop();
            }
        }
        (schema, Value::Object(fields)) => {
            let Some(definition) = schema.object() else { return };
            for (name, value) in fields {
                if let Some(field) = definition.field(name) {
                    way.push(Step::Field(name));
                    check_field(errors, field, value, way);
                    way.pop();
                }
            }
        }
        _ => {}
    }
}

fn path(way: &[Step<'_>]) -> Path {
    way.iter().fold(Path::root(), |path, step| match step {
        Step::Field(name) => path.child_owned(*name),
        Step::Index(at) => path.index(*at),
        Step::Key(key) => path.key(*key),
    })
}
