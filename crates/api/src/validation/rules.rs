//! Checks that many kinds share.

use serde_json::Value;

use crate::access::{entries, is_empty, items, text};
use crate::field::{Error, ErrorList, Path};
use crate::int_or_string::IntOrString;
use crate::names;
use crate::quantity::Quantity;

/// What upstream says of a negative number.
pub(super) const NEGATIVE: &str = "must be greater than or equal to 0";
/// What upstream says of a field that must not change.
pub(super) const IMMUTABLE: &str = "field is immutable";

/// One `Invalid` per message.
pub(super) fn invalid_all(errors: &mut ErrorList, path: &Path, value: &str, messages: Vec<String>) {
    errors.extend(
        messages
            .into_iter()
            .map(|message| Error::invalid(path, value, message)),
    );
}

/// A text that must be given.
pub(super) fn required_text<'a>(
    errors: &mut ErrorList,
    path: &Path,
    value: &'a Value,
    field: &'static str,
) -> &'a str {
    let given = text(value, field);
    if given.is_empty() {
        errors.push(Error::required(&path.child(field), ""));
    }
    given
}

/// A text that must be given and pass a check.
pub(super) fn checked_text(
    errors: &mut ErrorList,
    path: &Path,
    value: &Value,
    field: &'static str,
    check: fn(&str) -> Vec<String>,
) {
    let given = required_text(errors, path, value, field);
    if !given.is_empty() {
        invalid_all(errors, &path.child(field), given, check(given));
    }
}

/// A text that, when given, must pass a check.
pub(super) fn optional_text(
    errors: &mut ErrorList,
    path: &Path,
    value: &Value,
    field: &'static str,
    check: fn(&str) -> Vec<String>,
) {
    let given = text(value, field);
    if !given.is_empty() {
        invalid_all(errors, &path.child(field), given, check(given));
    }
}

/// A number that is not negative when given.
pub(super) fn not_negative(errors: &mut ErrorList, path: &Path, value: &Value, field: &'static str) {
    if let Some(number) = value[field].as_i64().filter(|n| *n < 0) {
        errors.push(Error::invalid(&path.child(field), number, NEGATIVE));
    }
}

/// A number that is greater than zero when given.
pub(super) fn positive(errors: &mut ErrorList, path: &Path, value: &Value, field: &'static str) {
    if let Some(number) = value[field].as_i64().filter(|n| *n <= 0) {
        errors.push(Error::invalid(
            &path.child(field),
            number,
            "must be greater than 0",
        ));
    }
}

/// A field that must be as it was.
pub(super) fn immutable(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    let same = new == old || (is_empty(new) && is_empty(old));
    if !same {
        errors.push(Error::invalid(path, new.clone(), IMMUTABLE));
    }
}

/// A port number or the name of a port.
pub(super) fn port_or_name(errors: &mut ErrorList, path: &Path, value: &Value) {
    match IntOrString::from_value(value) {
        Some(IntOrString::Int(port)) => {
            errors.extend(
                names::port_number(port.into())
                    .into_iter()
                    .map(|m| Error::invalid(path, port, m)),
            );
        }
        Some(IntOrString::String(name)) => invalid_all(errors, path, &name, names::port_name(&name)),
        None => errors.extend(
            names::port_number(0)
                .into_iter()
                .map(|m| Error::invalid(path, 0, m)),
        ),
    }
}

/// Labels: keys and values.
pub(super) fn labels(errors: &mut ErrorList, path: &Path, value: &Value) {
    for (key, value) in entries(value) {
        invalid_all(errors, path, key, names::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        invalid_all(errors, path, value, names::label_value(value));
    }
}

/// A label selector.
pub(super) fn label_selector(errors: &mut ErrorList, path: &Path, selector: &Value) {
    labels(errors, &path.child("matchLabels"), &selector["matchLabels"]);
    for (at, expression) in items(&selector["matchExpressions"]).iter().enumerate() {
        let path = path.child("matchExpressions").index(at);
        let values = items(&expression["values"]);
        match text(expression, "operator") {
            "In" | "NotIn" => {
                if values.is_empty() {
                    let why = "must be specified when `operator` is 'In' or 'NotIn'";
                    errors.push(Error::required(&path.child("values"), why));
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    errors.push(Error::forbidden(&path.child("values"), why));
                }
            }
            other => errors.push(Error::invalid(
                &path.child("operator"),
                other,
                "not a valid selector operator",
            )),
        }
        let key = text(expression, "key");
        invalid_all(errors, &path.child("key"), key, names::qualified_name(key));
        for (at, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            invalid_all(
                errors,
                &path.child("values").index(at),
                value,
                names::label_value(value),
            );
        }
    }
}

/// The quantity of a JSON value.
pub(super) fn quantity(value: &Value) -> Option<Quantity> {
    Quantity::parse(value.as_str()?).ok()
}

/// A number or a percentage that is not negative.
pub(super) fn int_or_percent(errors: &mut ErrorList, path: &Path, value: &Value) {
    match IntOrString::from_value(value) {
        Some(IntOrString::Int(number)) if number < 0 => errors.push(Error::invalid(path, number, NEGATIVE)),
        Some(IntOrString::String(text)) => {
            for message in names::percent(&text) {
                errors.push(Error::invalid(path, text.as_str(), message));
            }
        }
        _ => {}
    }
}

/// Whether a value is a number or percentage of zero.
pub(super) fn is_zero_amount(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.trim_end_matches('%').parse::<i64>() == Ok(0),
        _ => true,
    }
}

/// A percentage above 100.
pub(super) fn at_most_hundred_percent(errors: &mut ErrorList, path: &Path, value: &Value) {
    let percent = value
        .as_str()
        .and_then(|text| text.strip_suffix('%'))
        .and_then(|text| text.parse::<i64>().ok());
    if percent.is_some_and(|percent| percent > 100) {
        errors.push(Error::invalid(
            path,
            value.clone(),
            "must not be greater than 100%",
        ));
    }
}

/// A quantity below zero.
pub(super) fn quantity_not_negative(errors: &mut ErrorList, path: &Path, value: &Value) {
    if quantity(value).is_some_and(|q| q.sign() < 0) {
        errors.push(Error::invalid(path, value.clone(), NEGATIVE));
    }
}

/// A path below a volume: relative, without `..`.
pub(super) fn local_path(errors: &mut ErrorList, path: &Path, target: &str) {
    if target.starts_with('/') {
        errors.push(Error::invalid(path, target, "must be a relative path"));
    }
    no_backsteps(errors, path, target);
}

/// A path without `..`.
pub(super) fn no_backsteps(errors: &mut ErrorList, path: &Path, target: &str) {
    if target.split('/').any(|part| part == "..") {
        errors.push(Error::invalid(path, target, "must not contain '..'"));
    }
}
