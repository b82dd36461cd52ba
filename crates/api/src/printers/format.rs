//! Durations, labels and lists as cells show them.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::access::{entries, items, text};
use crate::selector::LabelSelector;
use crate::time;

/// A duration in seconds as upstream's `HumanDuration`: `90s`, `4m5s`, `3h`, `2d4h`, `1y3d`.
pub fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    let pair = |whole: i64, unit: &str, part: i64, part_unit: &str| match part {
        0 => format!("{whole}{unit}"),
        _ => format!("{whole}{unit}{part}{part_unit}"),
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => pair(hours / 24, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        () if hours < 24 * 365 * 8 => pair(hours / 24 / 365, "y", (hours / 24) % 365, "d"),
        () => format!("{}y", hours / 24 / 365),
    }
}

/// The timestamp of a field.
pub(super) fn timestamp(value: &Value) -> Option<Timestamp> {
    time::parse(value.as_str()?).ok()
}

/// Whole seconds from `start` to `end`.
pub(super) fn seconds_between(start: Timestamp, end: Timestamp) -> i64 {
    let nanos = end.as_nanosecond() - start.as_nanosecond();
    i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX)
}

/// How long ago a timestamp is.
pub(super) fn since(value: &Value, now: Timestamp) -> String {
    timestamp(value).map_or_else(
        || "<unknown>".to_owned(),
        |t| human_duration(seconds_between(t, now)),
    )
}

/// How long ago the object was created.
pub fn age(object: &Value, now: Timestamp) -> Value {
    Value::from(since(&object["metadata"]["creationTimestamp"], now))
}

/// The object's name.
pub(super) fn name(object: &Value) -> Value {
    Value::from(text(&object["metadata"], "name"))
}

/// Whether the object is being deleted.
pub(super) fn is_deleting(object: &Value) -> bool {
    !text(&object["metadata"], "deletionTimestamp").is_empty()
}

/// The text, or what stands for none.
pub(super) fn or<'a>(text: &'a str, none: &'a str) -> &'a str {
    if text.is_empty() { none } else { text }
}

/// The text, or `<none>`.
pub(super) fn or_none(text: &str) -> Value {
    Value::from(or(text, "<none>"))
}

/// Labels as `a=b,c=d`, or `<none>`.
pub(super) fn labels(value: &Value) -> String {
    let mut pairs: Vec<String> = entries(value)
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort_unstable();
    if pairs.is_empty() {
        "<none>".to_owned()
    } else {
        pairs.join(",")
    }
}

/// A label selector as text; empty when it selects all or nothing.
pub(super) fn selector(value: &Value) -> String {
    if !value.is_object() {
        return String::new();
    }
    LabelSelector::from_label_selector_value(value).map_or_else(|_| "<error>".to_owned(), |s| s.to_string())
}

/// A label selector as text, or `<none>`.
pub(super) fn selector_or_none(value: &Value) -> String {
    let text = selector(value);
    if text.is_empty() {
        "<none>".to_owned()
    } else {
        text
    }
}

/// The names and images of containers, each joined by commas.
pub(super) fn containers(template: &Value) -> [Value; 2] {
    let list = items(&template["spec"]["containers"]);
    let join = |field: &str| {
        let texts: Vec<&str> = list.iter().map(|container| text(container, field)).collect();
        Value::from(texts.join(","))
    };
    [join("name"), join("image")]
}

/// The first three of a list and how many more there are.
pub(super) fn with_more(list: &[String], empty: &str) -> String {
    const SHOWN: usize = 3;
    let text = list[..list.len().min(SHOWN)].join(",");
    if list.len() > SHOWN {
        format!("{text} + {} more...", list.len() - SHOWN)
    } else if text.is_empty() {
        empty.to_owned()
    } else {
        text
    }
}

/// `True`, `False` or `<unset>`.
pub(super) fn truth(value: &Value) -> Value {
    Value::from(match value.as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    })
}

/// The texts of a list.
pub(super) fn texts(value: &Value) -> Vec<&str> {
    items(value).iter().filter_map(Value::as_str).collect()
}

/// The condition of a type.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    items(&object["status"]["conditions"])
        .iter()
        .find(|c| c["type"] == kind)
}

/// How many entries a map has.
pub(super) fn size(value: &Value) -> Value {
    Value::from(value.as_object().map_or(0, Map::len))
}
