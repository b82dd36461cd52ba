//! Values against structural schemas.

use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::registry::Kind;

/// Judges a custom resource; nothing for built-in kinds.
pub(crate) fn validate(kind: &Kind, object: &Value) -> ErrorList {
    let mut errors = Vec::new();
    if let Some(props) = &kind.openapi {
        check(props, object, &Path::root(), &mut errors);
    }
    errors
}

fn check(props: &Value, value: &Value, path: &Path, errors: &mut ErrorList) {
    if value.is_null() {
        return;
    }
    if let Some(allowed) = props["enum"].as_array()
        && !allowed.contains(value)
    {
        let supported: Vec<String> = allowed
            .iter()
            .map(|a| a.as_str().map_or_else(|| a.to_string(), str::to_owned))
            .collect();
        errors.push(Error::not_supported(path, value.clone(), &supported));
    }
    match value {
        Value::Object(map) => {
            for name in props["required"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
            {
                if !map.contains_key(name) {
                    errors.push(Error::required(&path.child_owned(name), ""));
                }
            }
            count(props, "Properties", map.len(), path, errors);
            for (name, child) in map {
                if let Some(props) = props["properties"].get(name) {
                    check(props, child, &path.child_owned(name.as_str()), errors);
                } else if props["additionalProperties"].is_object() {
                    check(
                        &props["additionalProperties"],
                        child,
                        &path.key(name.as_str()),
                        errors,
                    );
                }
            }
        }
        Value::Array(items) => {
            count(props, "Items", items.len(), path, errors);
            for (at, item) in items.iter().enumerate() {
                check(&props["items"], item, &path.index(at), errors);
            }
        }
        Value::String(text) => {
            let length = text.chars().count() as u64;
            if let Some(max) = props["maxLength"].as_u64().filter(|max| length > *max) {
                errors.push(Error::too_long(path, usize::try_from(max).unwrap_or(usize::MAX)));
            }
            if let Some(min) = props["minLength"].as_u64().filter(|min| length < *min) {
                let detail = format!("in body should be at least {min} chars long");
                errors.push(Error::invalid(path, value.clone(), format!("{path} {detail}")));
            }
        }
        Value::Number(number) => bounds(props, number.as_f64().unwrap_or(0.0), value, path, errors),
        _ => {}
    }
}

fn count(props: &Value, what: &str, actual: usize, path: &Path, errors: &mut ErrorList) {
    let limit = |name: &str| props[name].as_u64().and_then(|n| usize::try_from(n).ok());
    if let Some(max) = limit(&format!("max{what}")).filter(|max| actual > *max) {
        errors.push(Error::too_many(path, actual, max));
    }
    if let Some(min) = limit(&format!("min{what}")).filter(|min| actual < *min) {
        errors.push(Error::too_few(path, actual, min));
    }
}

fn bounds(props: &Value, number: f64, value: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(min) = props["minimum"].as_f64() {
        let exclusive = props["exclusiveMinimum"].as_bool().unwrap_or(false);
        if number < min || (exclusive && number <= min) {
            let word = if exclusive {
                "greater than"
            } else {
                "greater than or equal to"
            };
            errors.push(Error::invalid(
                path,
                value.clone(),
                format!("{path} in body should be {word} {min}"),
            ));
        }
    }
    if let Some(max) = props["maximum"].as_f64() {
        let exclusive = props["exclusiveMaximum"].as_bool().unwrap_or(false);
        if number > max || (exclusive && number >= max) {
            let word = if exclusive {
                "less than"
            } else {
                "less than or equal to"
            };
            errors.push(Error::invalid(
                path,
                value.clone(),
                format!("{path} in body should be {word} {max}"),
            ));
        }
    }
}
