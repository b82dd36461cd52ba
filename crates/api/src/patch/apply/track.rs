//! What a create, an update or a patch other than server-side apply makes of `managedFields`.
//!
//! Two short ways stand beside the general one, because nearly every write goes through here: a create has one manager,
//! whose fields are written down directly, and a manager that changes only what it owns alone gets a new time.

use serde_json::{Map, Value, json};

use super::field_set::{FieldSet, PathElement};
use super::managed::{self, Managed, Operation};
use super::manager::{Request, STRIPPED, release, stripped};
use super::typed::{Atom, Comparison, Type, compare, is_vacant};

/// Records in `new` what a create (`live` is `None`), update or other patch changed.
///
/// `managedFields` that the client sends replace the live ones; an unreadable or empty list does not, and a list of one
/// empty entry forgets all managers. An object that has none yet stays without until it is applied.
pub fn track_update(request: &Request<'_>, live: Option<&Value>, new: &mut Value) {
    let live_list = || live.and_then(|live| live.get("metadata")?.get("managedFields"));
    let sent = managed::take(new);
    let reset = request.subresource.is_empty() && sent.as_ref().is_some_and(Managed::is_reset);
    // An unchanged list, as clients send it back, counts as the live one.
    let sent = sent.filter(|list| request.subresource.is_empty() && !reset && Some(list) != live_list());
    let sent = sent
        .and_then(|list| Managed::read(list).ok())
        .filter(|managed| !managed.entries.is_empty());
    let keeps_live = !reset && sent.is_none();
    if live.is_some() && (reset || (keeps_live && live_list().is_none())) {
        return;
    }
    let ty = Type::new(request.schema);
    if live.is_none() && sent.is_none() {
        return created(request, ty, new);
    }
    let zero;
    let before = match live {
        Some(live) => live,
        None => {
            zero = ty.zero();
            &zero
        }
    };
    let comparison = compare(ty, before, new);
    let fields = || {
        let mut fields = comparison.added.union(&comparison.modified);
        fields.subtract_recursive(request.ignored);
        fields.subtract(stripped());
        fields
    };
    let fields = fields();
    if keeps_live && comparison.removed.difference(stripped()).is_empty() {
        let Some(list) = live_list() else { return };
        if fields.is_empty() {
            // Nothing changed, so neither do the managers.
            managed::put(new, list.clone());
            return;
        }
        if let Some(list) = renewed(request, list, &comparison, &fields) {
            managed::put(new, list);
            return;
        }
    }
    let of_live = || {
        live_list()
            .and_then(|list| Managed::read(list.clone()).ok())
            .unwrap_or_default()
    };
    let mut managed = sent.unwrap_or_else(of_live);
    release(&comparison, &mut managed);
    if !fields.is_empty() {
        let mut entry = request.entry(request.manager, Operation::Update, fields);
        if let Some(at) = managed.position(&entry) {
            entry.fields.extend(managed.entries.swap_remove(at).fields);
        }
        managed.entries.push(entry);
    }
    managed.cap();
    managed.write(new);
}

/// The one entry of a new object.
fn created(request: &Request<'_>, ty: Type<'_>, new: &mut Value) {
    let mut fields = Map::new();
    for (name, value) in new.as_object().into_iter().flatten() {
        let element = PathElement::field(name);
        if matches!(name.as_str(), "apiVersion" | "kind") || request.ignored.has(&element) {
            continue;
        }
        let (below, _) = ty.entry(name);
        if name == "metadata" {
            let mut children = Map::new();
            for (name, value) in value.as_object().into_iter().flatten() {
                let is_stripped = |path: &&[&str]| matches!(**path, ["metadata", field] if field == name);
                if !STRIPPED.iter().any(is_stripped) {
                    own(
                        below.entry(name).0,
                        below.has_zero(name),
                        name,
                        value,
                        &mut children,
                    );
                }
            }
            if !children.is_empty() {
                fields.insert(element.into_wire(), Value::Object(children));
            }
            continue;
        }
        own(below, ty.has_zero(name), name, value, &mut fields);
    }
    if fields.is_empty() {
        return;
    }
    if request.ignored.is_deep() {
        // Fields below others are left out: no short way for what no kind has.
        let managed = FieldSet::from_wire(Value::Object(fields)).map(|mut set| {
            set.subtract_recursive(request.ignored);
            Managed {
                entries: vec![request.entry(request.manager, Operation::Update, set)],
            }
        });
        return managed.unwrap_or_default().write(new);
    }
    let mut entry = json!({
        "manager": request.manager,
        "operation": "Update",
        "apiVersion": request.api_version,
        "time": crate::time::format(request.now),
        "fieldsType": "FieldsV1",
        "fieldsV1": Value::Object(fields),
    });
    if !request.subresource.is_empty() {
        entry["subresource"] = request.subresource.into();
    }
    managed::put(new, Value::Array(vec![entry]));
}

/// Adds what a new field owns. `present`: Go's zero value of the object has the field, so it is not new by itself.
fn own(ty: Type<'_>, present: bool, name: &str, value: &Value, out: &mut Map<String, Value>) {
    if let Some(below) = owned(ty, present, value) {
        out.insert(PathElement::field(name).into_wire(), Value::Object(below));
    }
}

/// The `FieldsV1` below a new value; `None` when it owns nothing.
fn owned(ty: Type<'_>, present: bool, value: &Value) -> Option<Map<String, Value>> {
    let mut below = Map::new();
    if is_vacant(value) {
        // The zero of a struct is itself vacant; the zero of a list or map is null, which an empty one is not.
        let same = present && (value.is_null() || ty.is_struct());
        return (!same).then_some(below);
    }
    match (ty.atom(value), value) {
        (Atom::List(list_type, items), Value::Array(list)) => {
            for (index, item) in list.iter().enumerate() {
                let Ok(element) = items.element(list_type, index, item) else {
                    continue;
                };
                let item = owned(items, false, item).unwrap_or_default();
                match below.entry(element.into_wire()) {
                    serde_json::map::Entry::Vacant(place) => {
                        place.insert(Value::Object(item));
                    }
                    // Of elements of one name the fields are joined, as in a set.
                    serde_json::map::Entry::Occupied(mut place) => join(place.get_mut(), item),
                }
            }
        }
        (Atom::Map, Value::Object(fields)) => {
            for (name, value) in fields {
                own(
                    ty.entry(name).0,
                    present && ty.has_zero(name),
                    name,
                    value,
                    &mut below,
                );
            }
        }
        _ => return Some(below),
    }
    if below.is_empty() {
        return (!present).then_some(below);
    }
    if !present {
        below.insert(".".to_owned(), Value::Object(Map::new()));
    }
    Some(below)
}

fn join(into: &mut Value, other: Map<String, Value>) {
    let Value::Object(into) = into else { return };
    if into.is_empty() != other.is_empty() {
        into.insert(".".to_owned(), Value::Object(Map::new()));
    }
    for (name, below) in other {
        match (into.get_mut(&name), below) {
            (Some(mine), Value::Object(below)) => join(mine, below),
            (None, below) => {
                into.insert(name, below);
            }
            (Some(_), _) => {}
        }
    }
}

/// The live list with a new time for its manager, when all that changed is the manager's own already and nobody else's.
fn renewed(request: &Request<'_>, list: &Value, comparison: &Comparison, fields: &FieldSet) -> Option<Value> {
    let entries = list.as_array()?;
    let text = |entry: &Value, name: &str| -> String {
        entry
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let own = entries.iter().position(|entry| {
        text(entry, "operation") == "Update"
            && text(entry, "manager") == request.manager
            && text(entry, "subresource") == request.subresource
            && text(entry, "apiVersion") == request.api_version
    })?;
    let has_all = |entry: &Value| entry.get("fieldsV1").is_some_and(|wire| fields.is_within(wire));
    if !has_all(&entries[own]) {
        return None;
    }
    let touches = |entry: &Value| {
        entry.get("fieldsV1").is_none_or(|wire| {
            [&comparison.added, &comparison.modified, &comparison.removed]
                .into_iter()
                .any(|set| set.touches(wire))
        })
    };
    if entries
        .iter()
        .enumerate()
        .any(|(at, entry)| at != own && touches(entry))
    {
        return None;
    }
    // What is ignored or stripped was changed by nobody; if the entry owns some of it, the general way takes it away.
    let mut others = comparison.added.union(&comparison.modified);
    others.subtract(fields);
    if others.touches(entries[own].get("fieldsV1")?) {
        return None;
    }
    let mut list = entries.clone();
    list[own]["time"] = crate::time::format(request.now).into();
    // Sorted by time among the updates: with several, the general way puts them in order.
    let updates = entries
        .iter()
        .filter(|e| text(e, "operation") == "Update")
        .count();
    (updates == 1 || own == entries.len() - 1).then_some(Value::Array(list))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitrary::{FULL, Random, SPARSE, rounds, value};
    use crate::patch::apply::reset_fields;
    use crate::schema::registry;

    /// The short way of a create writes what comparing with the zero value and the algebra of sets give.
    #[test]
    fn creates_own_what_the_general_way_says() {
        for (at, definition) in registry().definitions().iter().enumerate() {
            if definition.kinds.len() != 1 || definition.field("metadata").is_none() {
                continue;
            }
            let schema = registry().by_name(&definition.name).expect("definition");
            let kind = &definition.kinds[0].kind;
            let ignored = reset_fields(kind, definition.field("status").is_some(), "");
            let request = Request {
                schema,
                manager: "m",
                api_version: "v1",
                subresource: "",
                now: "2026-01-02T03:04:05Z".parse().expect("time"),
                ignored: &ignored,
            };
            for round in 0..rounds(4) {
                let mut random = Random::new(at as u64 * 101 + round);
                let mut object = value(schema, if round == 0 { FULL } else { SPARSE }, &mut random);
                managed::take(&mut object);
                let ty = Type::new(schema);
                let comparison = compare(ty, &ty.zero(), &object);
                let mut expected = comparison.added.union(&comparison.modified);
                expected.subtract_recursive(&ignored);
                expected.subtract(stripped());
                track_update(&request, None, &mut object);
                let written = object.pointer("/metadata/managedFields/0/fieldsV1").cloned();
                let written = written.unwrap_or_else(|| json!({}));
                assert_eq!(written, expected.into_wire(), "{} round {round}", definition.name);
            }
        }
    }
}
