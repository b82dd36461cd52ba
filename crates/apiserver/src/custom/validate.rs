//! Values against structural schemas.

use keelson_api::field::{Error, ErrorList, Path};
use keelson_cel::compile_pattern;
use serde_json::Value;

use super::evaluate::{correlated_by, evaluate};
use super::formats::is_format;
use crate::admission::Notes;
use crate::registry::Kind;

/// Judges a custom resource; nothing for built-in kinds. What has not changed since `old` is not judged again.
pub(crate) fn validate(kind: &Kind, object: &Value, old: Option<&Value>, notes: &Notes) -> ErrorList {
    let mut errors = Vec::new();
    if let Some(props) = &kind.openapi {
        check(props, object, old, &Path::root(), &mut errors);
        // As upstream, rules run on objects that are otherwise valid.
        if let Some(rules) = kind.rules.as_deref().filter(|_| errors.is_empty()) {
            errors.extend(evaluate(rules, object, old, notes));
        }
    }
    errors
}

/// Judges a value. An old value that is equal makes it pass: it was accepted before.
pub(super) fn check(props: &Value, value: &Value, old: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    if old == Some(value) || !typed(props, value, path, errors) || value.is_null() {
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
    combined(props, value, path, errors);
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
                let before = old.and_then(|old| old.get(name));
                if let Some(props) = props["properties"].get(name) {
                    check(props, child, before, &path.child_owned(name.as_str()), errors);
                } else if props["additionalProperties"].is_object() {
                    let below = path.key(name.as_str());
                    check(&props["additionalProperties"], child, before, &below, errors);
                }
            }
        }
        Value::Array(items) => {
            count(props, "Items", items.len(), path, errors);
            let keys = unique(props, items, path, errors);
            for (at, item) in items.iter().enumerate() {
                let before = keys.as_deref().and_then(|keys| correlated_by(keys, old, item));
                check(&props["items"], item, before, &path.index(at), errors);
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
            written(props, text, path, errors);
        }
        Value::Number(number) => bounds(props, number.as_f64().unwrap_or(0.0), value, path, errors),
        _ => {}
    }
}

/// Whether a value has the type of its schema.
fn typed(props: &Value, value: &Value, path: &Path, errors: &mut ErrorList) -> bool {
    let given = match value {
        Value::Null if props["nullable"] == true => return true,
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() && n.as_f64().is_none_or(|n| n.fract() != 0.0) => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let wanted = if props["x-kubernetes-int-or-string"] == true {
        "integer,string"
    } else {
        props["type"].as_str().unwrap_or_default()
    };
    let fits = |wanted: &str| wanted == given || (wanted == "number" && given == "integer");
    if wanted.is_empty() || wanted.split(',').any(fits) {
        return true;
    }
    let why = format!("{path} in body must be of type {wanted}: \"{given}\"");
    errors.push(Error::type_invalid(path, given, why));
    false
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

/// `pattern` and `format` of a text.
fn written(props: &Value, text: &str, path: &Path, errors: &mut ErrorList) {
    if let Some(pattern) = props["pattern"].as_str()
        && compile_pattern(pattern).is_ok_and(|pattern| !pattern.is_match(text))
    {
        let why = format!("{path} in body should match '{pattern}'");
        errors.push(Error::invalid(path, text, why));
    }
    if let Some(format) = props["format"].as_str()
        && !is_format(format, text)
    {
        let why = format!(
            "{path} in body must be of type {format}: {}",
            keelson_api::field::quote(text)
        );
        errors.push(Error::invalid(path, text, why));
    }
}

/// Sets have no element twice and keyed lists no key; gives the keys of a keyed list.
fn unique(props: &Value, items: &[Value], path: &Path, errors: &mut ErrorList) -> Option<Vec<String>> {
    match props["x-kubernetes-list-type"].as_str() {
        Some("set") => {
            for (at, item) in items.iter().enumerate() {
                if items[..at].contains(item) {
                    errors.push(Error::duplicate(&path.index(at), item.clone()));
                }
            }
            None
        }
        Some("map") => {
            let keys = props["x-kubernetes-list-map-keys"]
                .as_array()
                .into_iter()
                .flatten();
            let keys: Vec<String> = keys.filter_map(|key| Some(key.as_str()?.to_owned())).collect();
            let id = |item: &Value| keys.iter().map(|key| item.get(key).cloned()).collect::<Vec<_>>();
            for (at, item) in items.iter().enumerate() {
                if items[..at].iter().any(|earlier| id(earlier) == id(item)) {
                    let shown: serde_json::Map<String, Value> = keys
                        .iter()
                        .filter_map(|key| Some((key.clone(), item.get(key)?.clone())))
                        .collect();
                    errors.push(Error::duplicate(&path.index(at), Value::Object(shown)));
                }
            }
            Some(keys)
        }
        _ => None,
    }
}

/// `allOf`, `anyOf`, `oneOf` and `not`.
fn combined(props: &Value, value: &Value, path: &Path, errors: &mut ErrorList) {
    let parts = |name: &str| props[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let fits = |part: &Value| {
        let mut found = Vec::new();
        check(part, value, None, path, &mut found);
        found.is_empty()
    };
    for part in parts("allOf") {
        check(part, value, None, path, errors);
    }
    let any = parts("anyOf");
    // The two alternatives that x-kubernetes-int-or-string implies are checked with the type.
    if !any.is_empty() && !any.iter().any(fits) {
        let why = format!("{path} in body must validate at least one schema (anyOf)");
        errors.push(Error::invalid(path, value.clone(), why));
    }
    let one = parts("oneOf");
    let matching = one.iter().filter(|part| fits(part)).count();
    if !one.is_empty() && matching != 1 {
        let found = if matching == 0 {
            "Found none valid"
        } else {
            "Found multiple valid alternatives"
        };
        let why = format!("{path} in body must validate one and only one schema (oneOf). {found}");
        errors.push(Error::invalid(path, value.clone(), why));
    }
    if props["not"].is_object() && fits(&props["not"]) {
        let why = format!("{path} in body must not validate the schema (not)");
        errors.push(Error::invalid(path, value.clone(), why));
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
    if let Some(factor) = props["multipleOf"].as_f64().filter(|factor| *factor > 0.0) {
        let quotient = number / factor;
        if (quotient - quotient.round()).abs() > 1e-9 {
            let why = format!("{path} in body should be a multiple of {factor}");
            errors.push(Error::invalid(path, value.clone(), why));
        }
    }
}
