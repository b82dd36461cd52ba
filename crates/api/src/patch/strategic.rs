//! Strategic merge patch: a merge patch that knows, from the schema, how lists are merged.
//!
//! Directives: `$patch: replace|delete` in maps and list elements, `$retainKeys`, `$setElementOrder/<list>` and
//! `$deleteFromPrimitiveList/<list>`. The order of a merged list follows the patch (or `$setElementOrder`) first and
//! the live list second.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::field::quote;
use crate::schema::{Field, Schema};
use crate::status::{Reason, Status};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

type Fields = Map<String, Value>;

/// Applies a strategic merge patch to an object of this schema; the document is unspecified on error.
///
/// Errors: 400 for a malformed patch or directive, 422 for lists of lists, 500 (as upstream) for elements without a
/// merge key.
pub fn strategic_merge_patch(schema: &Schema, document: &mut Value, patch: &Value) -> Result<(), Status> {
    let Value::Object(patch) = patch else {
        return Err(Status::bad_request("invalid JSON document"));
    };
    let Value::Object(fields) = document else {
        return Err(Status::bad_request("invalid JSON document"));
    };
    let original = std::mem::take(fields);
    *fields = merge_map(Some(schema), original, patch.clone())?;
    Ok(())
}

fn bad_format(what: &str) -> Status {
    Status::bad_request(format!("invalid patch format of {what}"))
}

fn failed(message: String) -> Status {
    Status::failure(500, Reason::Unknown, message)
}

fn no_merge_key(element: &Value, key: &str) -> Status {
    failed(format!(
        "map: {element} does not contain declared merge key: {key}"
    ))
}

fn bad_directive(directive: &Value, patch: &Fields) -> Status {
    failed(format!(
        "unknown patch type: {directive} in map: {}",
        Value::Object(patch.clone())
    ))
}

fn merge_map(schema: Option<&Schema>, mut original: Fields, mut patch: Fields) -> Result<Fields, Status> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(clean(patch)),
            Some("delete") => Ok(Fields::new()),
            _ => Err(bad_directive(&directive, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    apply_orders(schema, &mut original, &mut patch)?;
    for (name, value) in patch {
        let (name, deletes) = match name.strip_prefix(DELETE_PRIMITIVES) {
            Some(list) => (list.to_owned(), true),
            None => (name, false),
        };
        if value.is_null() {
            original.remove(&name);
            continue;
        }
        let Some(current) = original.get_mut(&name) else {
            if !deletes {
                original.insert(name, clean_value(value));
            }
            continue;
        };
        let field = schema.and_then(|schema| schema.field(&name));
        let below = schema.and_then(|schema| schema.entry(&name));
        match (std::mem::take(current), value) {
            (Value::Object(live), Value::Object(change)) => {
                let replace = field.is_some_and(|field| field.extra().patch_strategy.replace);
                *current = Value::Object(if replace {
                    clean(change)
                } else {
                    merge_map(below, live, change)?
                });
            }
            (Value::Array(live), Value::Array(change)) => {
                *current = Value::Array(merge_list_field(field, below, live, change, deletes)?);
            }
            (live, _) if deletes => *current = live,
            (_, change) => *current = clean_value(change),
        }
    }
    Ok(original)
}

/// Drops nulls and directives from a value that is new to the document.
fn clean_value(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(clean(fields)),
        Value::Array(items) => {
            let deleted = |item: &Value| item.get(PATCH).and_then(Value::as_str) == Some("delete");
            let marker = |item: &Value| {
                item.as_object()
                    .is_some_and(|m| m.len() == 1 && m.contains_key(PATCH))
            };
            Value::Array(
                items
                    .into_iter()
                    .filter(|i| !deleted(i) && !marker(i))
                    .map(clean_value)
                    .collect(),
            )
        }
        value => value,
    }
}

fn clean(fields: Fields) -> Fields {
    let directive = |name: &str| {
        name == PATCH
            || name == RETAIN_KEYS
            || name.starts_with(SET_ORDER)
            || name.starts_with(DELETE_PRIMITIVES)
    };
    if fields.get(PATCH).and_then(Value::as_str) == Some("delete") {
        return Fields::new();
    }
    fields
        .into_iter()
        .filter(|(name, value)| !value.is_null() && !directive(name))
        .map(|(name, value)| (name, clean_value(value)))
        .collect()
}

fn retain_keys(original: &mut Fields, patch: &mut Fields) -> Result<(), Status> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keys) = keys else {
        return Err(bad_format("retainKeys"));
    };
    let listed = |name: &str| keys.iter().any(|key| key.as_str() == Some(name));
    for (name, value) in patch.iter() {
        let directive = name.starts_with(DELETE_PRIMITIVES) || name.starts_with(SET_ORDER);
        if !value.is_null() && !directive && !listed(name) {
            return Err(bad_format("retainKeys"));
        }
    }
    original.retain(|name, _| listed(name));
    Ok(())
}

/// Merges the lists that come with a `$setElementOrder`, and takes both out of the patch.
fn apply_orders(schema: Option<&Schema>, original: &mut Fields, patch: &mut Fields) -> Result<(), Status> {
    let directives: Vec<String> = patch
        .keys()
        .filter(|name| name.starts_with(SET_ORDER))
        .cloned()
        .collect();
    for directive in directives {
        let name = directive[SET_ORDER.len()..].to_owned();
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(bad_format("setElementOrder list"));
        };
        let field = schema.and_then(|schema| schema.field(&name));
        let key = field.map_or("", |field| &*field.extra().patch_merge_key);
        let change = match patch.remove(&name) {
            None => None,
            Some(Value::Array(change)) => Some(change),
            Some(Value::Null) => {
                original.remove(&name);
                continue;
            }
            Some(_) => return Err(bad_format("setElementOrder list")),
        };
        let live = match original.get(&name) {
            None | Some(Value::Null) => None,
            Some(Value::Array(live)) => Some(live.clone()),
            Some(_) => return Err(bad_format("setElementOrder list")),
        };
        check_order(change.as_deref().unwrap_or_default(), &order, key)?;
        let live_order = live.clone().unwrap_or_default();
        let merged = match (live, change) {
            (None, None) => continue,
            (Some(live), None) => live,
            (None, Some(change)) => match clean_value(Value::Array(change)) {
                Value::Array(items) => items,
                _ => Vec::new(),
            },
            (Some(live), Some(change)) => {
                let below = schema.and_then(|schema| schema.entry(&name));
                merge_list_field(field, below, live, change, false)?
            }
        };
        original.insert(name, Value::Array(reorder(merged, &order, &live_order, key)));
    }
    Ok(())
}

/// What tells an element apart: its merge key, or itself.
fn identity<'a>(item: &'a Value, key: &str) -> Option<&'a Value> {
    if key.is_empty() { Some(item) } else { item.get(key) }
}

fn position(items: &[Value], item: &Value, key: &str) -> Option<usize> {
    let wanted = identity(item, key)?;
    items.iter().position(|item| identity(item, key) == Some(wanted))
}

/// The patch's elements must be among the ordered ones, in their order.
fn check_order(change: &[Value], order: &[Value], key: &str) -> Result<(), Status> {
    if change.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut from = 0;
    for item in change.iter().filter(|item| item.get(PATCH).is_none()) {
        if identity(item, key).is_none() {
            return Err(no_merge_key(item, key));
        }
        match position(&order[from..], item, key) {
            Some(at) => from += at + 1,
            None => {
                return Err(failed(format!(
                    "The order in patch list:\n{}\n doesn't match {} list:\n{}\n",
                    Value::Array(change.to_vec()),
                    SET_ORDER.trim_end_matches('/'),
                    Value::Array(order.to_vec())
                )));
            }
        }
    }
    Ok(())
}

/// Where elements stand, by what tells them apart; the first of repeated ones counts.
fn places(items: &[Value], key: &str) -> HashMap<String, usize> {
    let mut places = HashMap::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        if let Some(identity) = identity(item, key) {
            places.entry(identity.to_string()).or_insert(at);
        }
    }
    places
}

/// Orders a merged list: elements named by `order` as it says, the others where the live list has them.
fn reorder(merged: Vec<Value>, order: &[Value], live: &[Value], key: &str) -> Vec<Value> {
    let (order, live) = (places(order, key), places(live, key));
    let mut ordered = Vec::new();
    let mut others = Vec::new();
    for item in merged {
        let name = identity(&item, key).map(ToString::to_string).unwrap_or_default();
        let at_live = live.get(&name).copied();
        match order.get(&name) {
            Some(at) => ordered.push((*at, at_live, item)),
            None => others.push((at_live, item)),
        }
    }
    ordered.sort_by_key(|(at, _, _)| *at);
    others.sort_by_key(|(at, _)| at.unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(ordered.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (_, at, item) in ordered {
        let before = |other: Option<usize>| matches!((other, at), (Some(left), Some(right)) if left < right);
        while let Some((_, other)) = others.next_if(|(other, _)| before(*other)) {
            result.push(other);
        }
        result.push(item);
    }
    result.extend(others.map(|(_, item)| item));
    result
}

fn merge_list_field(
    field: Option<&Field>,
    below: Option<&Schema>,
    live: Vec<Value>,
    change: Vec<Value>,
    deletes: bool,
) -> Result<Vec<Value>, Status> {
    let Some(field) = field.filter(|field| field.extra().patch_strategy.merge) else {
        return Ok(match clean_value(Value::Array(change)) {
            Value::Array(items) => items,
            _ => Vec::new(),
        });
    };
    let items = below.and_then(Schema::list).map(|list| &list.items);
    merge_list(items, &field.extra().patch_merge_key, live, change, deletes)
}

fn merge_list(
    schema: Option<&Schema>,
    key: &str,
    live: Vec<Value>,
    change: Vec<Value>,
    deletes: bool,
) -> Result<Vec<Value>, Status> {
    let Some(first) = live.iter().chain(&change).next() else {
        return Ok(live);
    };
    if first.is_array() {
        return Err(Status::failure(
            422,
            Reason::Invalid,
            "lists of lists are not supported",
        ));
    }
    let maps = first.is_object();
    if live.iter().chain(&change).any(|item| item.is_object() != maps) {
        return Err(failed("list element types are not identical".to_owned()));
    }
    if !maps {
        if deletes {
            let gone = places(&change, "");
            return Ok(live
                .into_iter()
                .filter(|item| !gone.contains_key(&item.to_string()))
                .collect());
        }
        let mut seen = HashSet::new();
        let merged = live
            .iter()
            .chain(&change)
            .filter(|item| seen.insert(item.to_string()))
            .cloned()
            .collect();
        return Ok(reorder(merged, &change, &live, ""));
    }
    if key.is_empty() {
        return Err(failed(
            "cannot merge lists without merge key for type struct".to_owned(),
        ));
    }
    let mut live = live;
    let (mut plain, mut deleted, mut replace) = (Vec::new(), HashSet::new(), false);
    for item in change {
        let Some(directive) = item.get(PATCH) else {
            plain.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let wanted = item.get(key).ok_or_else(|| no_merge_key(&item, key))?;
                deleted.insert(wanted.to_string());
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(failed(
                    "merging lists cannot yet be specified in the patch".to_owned(),
                ));
            }
            _ => {
                return Err(failed(format!(
                    "unknown patch type: {}",
                    quote(&directive.to_string())
                )));
            }
        }
    }
    if !deleted.is_empty() {
        live.retain(|item| {
            item.get(key)
                .is_none_or(|name| !deleted.contains(&name.to_string()))
        });
    }
    if replace {
        return Ok(plain.into_iter().map(clean_value).collect());
    }
    let live_order = live.clone();
    let mut at_live = places(&live, key);
    let mut merged = live;
    for item in &plain {
        let name = item.get(key).ok_or_else(|| no_merge_key(item, key))?.to_string();
        match at_live.get(&name) {
            Some(at) => {
                if let (Value::Object(current), Value::Object(change)) =
                    (std::mem::take(&mut merged[*at]), item.clone())
                {
                    merged[*at] = Value::Object(merge_map(schema, current, change)?);
                }
            }
            None => {
                at_live.insert(name, merged.len());
                merged.push(clean_value(item.clone()));
            }
        }
    }
    if let Some(item) = merged.iter().find(|item| item.get(key).is_none()) {
        return Err(no_merge_key(item, key));
    }
    Ok(reorder(merged, &plain, &live_order, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::registry;
    use serde_json::json;

    fn check(document: Value, patch: Value, expected: Value) {
        let schema = registry().by_gvk("", "v1", "Pod").expect("Pod");
        let mut patched = json!({"spec": document, "metadata": {}});
        strategic_merge_patch(schema, &mut patched, &json!({"spec": patch})).expect("applies");
        assert_eq!(patched["spec"], expected, "patch {patch}");
    }

    fn names(names: &[&str]) -> Value {
        names.iter().map(|name| json!({"name": name})).collect()
    }

    #[test]
    fn merges_lists_by_key() {
        check(
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}),
            json!({"containers": [{"name": "b", "image": "3"}, {"name": "c"}]}),
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "3"}, {"name": "c"}]}),
        );
        check(
            json!({"tolerations": [{"key": "a"}]}),
            json!({"tolerations": [{"key": "b"}]}),
            json!({"tolerations": [{"key": "b"}]}),
        );
        check(
            json!({"nodeSelector": {"a": "1", "b": "2"}}),
            json!({"nodeSelector": {"a": null, "c": "3"}}),
            json!({"nodeSelector": {"b": "2", "c": "3"}}),
        );
        check(
            json!({}),
            json!({"nodeName": null, "securityContext": {"runAsUser": null, "fsGroup": 1}}),
            json!({"securityContext": {"fsGroup": 1}}),
        );
    }

    #[test]
    fn directives() {
        check(
            json!({"containers": names(&["a", "b"])}),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": names(&["b"])}),
        );
        check(
            json!({"containers": names(&["a", "b"])}),
            json!({"containers": [{"$patch": "replace"}, {"name": "c", "image": null}]}),
            json!({"containers": names(&["c"])}),
        );
        check(
            json!({"securityContext": {"runAsUser": 1}}),
            json!({"securityContext": {"$patch": "replace", "fsGroup": 2}}),
            json!({"securityContext": {"fsGroup": 2}}),
        );
        check(
            json!({"securityContext": {"runAsUser": 1}}),
            json!({"securityContext": {"$patch": "delete"}}),
            json!({"securityContext": {}}),
        );
        check(
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}, "$retainKeys": ["name", "hostPath"]}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
        );
    }

    #[test]
    fn orders() {
        check(
            json!({"containers": names(&["a", "b", "x"])}),
            json!({"$setElementOrder/containers": names(&["c", "b", "a"]), "containers": names(&["c"])}),
            json!({"containers": names(&["c", "b", "a", "x"])}),
        );
        check(
            json!({"containers": names(&["a", "x", "b"])}),
            json!({"$setElementOrder/containers": names(&["a", "b"])}),
            json!({"containers": names(&["a", "x", "b"])}),
        );
    }

    #[test]
    fn primitive_lists() {
        let schema = registry().by_gvk("", "v1", "Pod").expect("Pod");
        let mut pod = json!({"metadata": {"finalizers": ["a", "b", "c"]}});
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "finalizers": ["d"],
            "$setElementOrder/finalizers": ["d", "c", "a"]}});
        strategic_merge_patch(schema, &mut pod, &patch).expect("applies");
        assert_eq!(pod, json!({"metadata": {"finalizers": ["d", "c", "a"]}}));
    }

    #[test]
    fn large_lists_merge_in_reasonable_time() {
        let names = |from: usize| {
            (from..from + 30_000)
                .rev()
                .map(|n| json!({"name": n.to_string()}))
                .collect::<Value>()
        };
        let schema = registry().by_gvk("", "v1", "Pod").expect("Pod");
        let mut pod = json!({"spec": {"containers": names(0)}});
        let patch = json!({"spec": {"containers": names(15_000)}});
        strategic_merge_patch(schema, &mut pod, &patch).expect("applies");
        assert_eq!(pod["spec"]["containers"].as_array().map(Vec::len), Some(45_000));
    }

    #[test]
    fn errors() {
        let schema = registry().by_gvk("", "v1", "Pod").expect("Pod");
        let check = |patch: Value, code: u16| {
            let mut pod =
                json!({"spec": {"containers": names(&["a"]), "volumes": [{"name": "v", "emptyDir": {}}]}});
            assert_eq!(
                strategic_merge_patch(schema, &mut pod, &patch)
                    .expect_err("error")
                    .code,
                code,
                "{patch}"
            );
        };
        check(json!([]), 400);
        check(json!({"spec": {"containers": [{"image": "x"}]}}), 500);
        check(json!({"spec": {"$patch": "bogus"}}), 500);
        check(json!({"spec": {"containers": [["x"]]}}), 500);
        check(json!({"spec": {"$setElementOrder/containers": 1}}), 400);
        check(
            json!({"spec": {"$setElementOrder/containers": names(&["b"]), "containers": names(&["c"])}}),
            500,
        );
        check(
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "hostPath": {}}]}}),
            400,
        );
    }
}
