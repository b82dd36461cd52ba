//! Merging what a client applies into a live value.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::field_set::PathElement;
use super::typed::{Atom, Type, index};
use crate::schema::ListType;

/// The live value with everything that the applied one says; lists keep the applied order.
pub(super) fn merge(ty: Type<'_>, live: Option<&Value>, applied: Option<&Value>) -> Option<Value> {
    let (Some(live), Some(applied)) = (live, applied) else {
        return applied.or(live).cloned();
    };
    match (ty.atom(applied), live, applied) {
        (Atom::Map, Value::Object(before), Value::Object(after)) => {
            let mut merged = Map::new();
            for (name, value) in before {
                if let Some(value) = merge(ty.entry(name).0, Some(value), after.get(name)) {
                    merged.insert(name.clone(), value);
                }
            }
            for (name, value) in after {
                if !before.contains_key(name) {
                    merged.insert(name.clone(), value.clone());
                }
            }
            Some(Value::Object(merged))
        }
        (Atom::List(list_type, items), Value::Array(before), Value::Array(after)) => {
            if before.is_empty() || after.is_empty() {
                let longer = if after.is_empty() { before } else { after };
                return Some(Value::Array(longer.clone()));
            }
            Some(Value::Array(merge_lists(list_type, items, live, applied)))
        }
        // An explicit null of a struct, map or list says nothing about what it would hold.
        (Atom::Map | Atom::List(..), live, Value::Null) => Some(live.clone()),
        _ => Some(applied.clone()),
    }
}

/// Walks both lists: shared elements come in the applied order, the others stay between their neighbours.
fn merge_lists(list_type: &ListType, items: Type<'_>, live: &Value, applied: &Value) -> Vec<Value> {
    let left = index(list_type, items, Some(live));
    let right = index(list_type, items, Some(applied));
    let live_by_name: HashMap<&PathElement, &Value> =
        left.iter().rev().map(|(name, value)| (name, *value)).collect();
    let applied_by_name: HashMap<&PathElement, &Value> =
        right.iter().map(|(name, value)| (name, *value)).collect();
    let mut shared = right
        .iter()
        .map(|(name, _)| name)
        .filter(|name| live_by_name.contains_key(name))
        .peekable();
    let mut done: HashSet<&PathElement> = HashSet::new();
    let mut out = Vec::with_capacity(left.len() + right.len());
    let (mut at_live, mut at_applied) = (0, 0);
    while at_live < left.len() || at_applied < right.len() {
        if let (Some((name, value)), Some((wanted, change))) = (left.get(at_live), right.get(at_applied)) {
            if name == wanted {
                out.extend(merge(items, Some(value), Some(change)));
                done.insert(name);
                (at_live, at_applied) = (at_live + 1, at_applied + 1);
                shared.next();
                continue;
            }
            if applied_by_name.contains_key(name) && shared.peek().is_some_and(|next| *next != name) {
                at_live += 1;
                continue;
            }
        }
        if let Some((name, value)) = left.get(at_live) {
            if !applied_by_name.contains_key(name) {
                out.push((*value).clone());
                at_live += 1;
                continue;
            }
            if done.contains(name) {
                at_live += 1;
            }
        }
        if let Some((name, change)) = right.get(at_applied) {
            done.insert(name);
            out.extend(merge(items, live_by_name.get(name).copied(), Some(change)));
            at_applied += 1;
            if shared.peek().is_some_and(|next| *next == name) {
                shared.next();
            }
        }
    }
    out
}
