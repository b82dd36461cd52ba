//! Values seen through their schema: which fields they set, how two differ, what is left when fields are taken away.
//!
//! The rules are those of structured-merge-diff: atomic lists, maps and structs and all scalars are leaves; elements
//! of keyed lists and sets are named by key or value; what has no schema merges maps and replaces lists.

use serde_json::{Map, Value};

use super::field_set::{Entry, FieldSet, PathElement, display};
use crate::schema::{Field, ListType, MapType, Schema};

/// A schema as it applies at one place; `None` where there is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Type<'a> {
    schema: Option<&'a Schema>,
    map_type: Option<MapType>,
}

/// How a value is merged.
pub(super) enum Atom<'a> {
    /// Replaced as a whole.
    Leaf,
    /// Merged element by element; the type is that of the elements.
    List(&'a ListType, Type<'a>),
    /// Merged entry by entry.
    Map,
}

impl<'a> Type<'a> {
    pub(super) fn new(schema: &'a Schema) -> Self {
        Self {
            schema: Some(schema),
            map_type: None,
        }
    }

    fn of_field(field: &'a Field) -> Self {
        Self {
            schema: Some(&field.schema),
            map_type: field.extra().map_type,
        }
    }

    /// How the value (of the kind that it is) merges.
    pub(super) fn atom(self, value: &Value) -> Atom<'a> {
        let granular = |own: MapType| self.map_type.unwrap_or(own) == MapType::Granular;
        match (self.schema, value) {
            (Some(Schema::List(list)), _) => match &list.list_type {
                ListType::Atomic => Atom::Leaf,
                list_type => Atom::List(list_type, Type::new(&list.items)),
            },
            (Some(Schema::Map(map)), _) if granular(map.map_type) => Atom::Map,
            (Some(Schema::Map(_)), _) => Atom::Leaf,
            (Some(schema @ (Schema::Def(_) | Schema::Object(_))), _) => {
                let own = schema
                    .object()
                    .map_or(MapType::Granular, |object| object.map_type);
                if granular(own) { Atom::Map } else { Atom::Leaf }
            }
            (None, Value::Object(_)) => Atom::Map,
            (Some(schema), Value::Object(_)) if !schema.is_scalar() => Atom::Map,
            _ => Atom::Leaf,
        }
    }

    /// The type of an entry, and whether it is a struct's own field.
    pub(super) fn entry(self, name: &str) -> (Type<'a>, bool) {
        let Some(schema) = self.schema else {
            return (
                Type {
                    schema: None,
                    map_type: None,
                },
                false,
            );
        };
        if let Some(field) = schema.field(name) {
            return (Type::of_field(field), true);
        }
        (
            Type {
                schema: schema.map().map(|map| &map.values),
                map_type: None,
            },
            false,
        )
    }

    /// Whether this is a struct.
    pub(super) fn is_struct(self) -> bool {
        self.schema.and_then(Schema::object).is_some()
    }

    /// Whether the zero value of the Go struct has this field: a struct that is no pointer, or a list or map that is written
    /// even when it is null. A field that is there already is not new when something is put into it.
    pub(super) fn has_zero(self, name: &str) -> bool {
        self.schema
            .and_then(|schema| schema.field(name))
            .is_some_and(|field| match &field.schema {
                Schema::Def(_) => field.omit_zero,
                Schema::List(_) | Schema::Map(_) => field.required && !field.omit_zero,
                _ => false,
            })
    }

    /// The zero value of the Go struct, as far as [`Self::has_zero`] goes.
    pub(super) fn zero(self) -> Value {
        let mut fields = Map::new();
        for field in self
            .schema
            .and_then(Schema::object)
            .into_iter()
            .flat_map(|o| &o.fields)
        {
            if self.has_zero(&field.name) {
                let value = match &field.schema {
                    Schema::Def(_) => Type::of_field(field).zero(),
                    _ => Value::Null,
                };
                fields.insert(field.name.clone().into_owned(), value);
            }
        }
        Value::Object(fields)
    }

    /// Whether the schema knows no entry of this name.
    fn is_undeclared(self, name: &str) -> bool {
        let embedded = |name| matches!(name, "apiVersion" | "kind" | "metadata");
        self.schema.and_then(Schema::object).is_some_and(|object| {
            object.field(name).is_none()
                && !object.preserve_unknown
                && !(object.embedded_resource && embedded(name))
        })
    }

    /// What an element of a keyed list or set is named by.
    pub(super) fn element(
        self,
        list_type: &ListType,
        index: usize,
        item: &Value,
    ) -> Result<PathElement, String> {
        let keys = match list_type {
            ListType::Atomic => return Ok(PathElement::index(index)),
            ListType::Set => {
                return match item {
                    Value::Null => {
                        Err("associative list without keys has an element that's an explicit null".to_owned())
                    }
                    Value::Object(_) | Value::Array(_) => Err(
                        "associative list without keys has an element that's a list or map type".to_owned(),
                    ),
                    item => Ok(PathElement::value(item)),
                };
            }
            ListType::Map(keys) => keys,
        };
        let Value::Object(fields) = item else {
            let what = if item.is_null() {
                "a null element"
            } else {
                "non-map elements"
            };
            return Err(format!("associative list with keys may not have {what}"));
        };
        let mut key = Vec::with_capacity(keys.len());
        for name in keys {
            let default = || {
                self.schema
                    .and_then(|schema| schema.field(name))
                    .and_then(Field::default)
            };
            let given = fields.get(&**name).filter(|value| !value.is_null());
            if let Some(value) = given.or_else(default) {
                key.push((&**name, value));
            }
        }
        if key.is_empty() {
            let names: Vec<String> = keys.iter().map(|key| crate::field::quote(key)).collect();
            return Err(match &names[..] {
                [name] => format!(
                    "associative list with keys has an element that omits key field {name} (and doesn't have default \
                     value)"
                ),
                names => format!(
                    "associative list with keys has an element that omits all key fields [{}] (and doesn't have default \
                     values for any key fields)",
                    names.join(" ")
                ),
            });
        }
        Ok(PathElement::key(key))
    }
}

/// Checks what a client applies: declared fields only, elements with keys, none of them twice.
pub(super) fn validate(ty: Type<'_>, value: &Value) -> Result<(), String> {
    validate_at(ty, value, &mut Vec::new())
}

fn validate_at(ty: Type<'_>, value: &Value, path: &mut Vec<PathElement>) -> Result<(), String> {
    let at = |path: &[PathElement], what: &str| format!("{}: {what}", display(path));
    let kind_matches = match (ty.schema, value) {
        (_, Value::Null) | (None, _) => true,
        (Some(Schema::List(_)), value) => value.is_array(),
        (Some(Schema::Map(_) | Schema::Def(_) | Schema::Object(_)), value) => value.is_object(),
        (Some(schema), value) => !schema.is_scalar() || !(value.is_array() || value.is_object()),
    };
    if !kind_matches {
        let expected = match ty.schema {
            Some(Schema::List(_)) => "list",
            Some(Schema::Map(_) | Schema::Def(_) | Schema::Object(_)) => "map",
            _ => "scalar",
        };
        return Err(at(path, &format!("expected {expected}, got {value:.64}")));
    }
    match value {
        Value::Object(fields) => {
            for (name, below) in fields {
                path.push(PathElement::field(name));
                if ty.is_undeclared(name) {
                    return Err(at(path, "field not declared in schema"));
                }
                validate_at(ty.entry(name).0, below, path)?;
                path.pop();
            }
        }
        Value::Array(items) => {
            let Some(list) = ty.schema.and_then(Schema::list) else {
                return Ok(());
            };
            let items_type = Type::new(&list.items);
            let mut seen = std::collections::HashSet::new();
            for (index, item) in items.iter().enumerate() {
                let element = items_type
                    .element(&list.list_type, index, item)
                    .map_err(|what| at(path, &format!("element {index}: {what}")))?;
                if !seen.insert(element.clone()) {
                    return Err(at(path, &format!("duplicate entries for key {element}")));
                }
                path.push(element);
                validate_at(items_type, item, path)?;
                path.pop();
            }
        }
        _ => {}
    }
    Ok(())
}

/// The fields that a value sets.
pub(super) fn to_set(ty: Type<'_>, value: &Value) -> FieldSet {
    let mut root = Entry::default();
    fill(ty, value, &mut root);
    root.children
}

fn fill(ty: Type<'_>, value: &Value, entry: &mut Entry) {
    match ty.atom(value) {
        Atom::Leaf => entry.member = true,
        Atom::List(list_type, items) => {
            for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                if let Ok(element) = items.element(list_type, index, item) {
                    let mut below = Entry::default();
                    fill(items, item, &mut below);
                    below.member = true;
                    entry.children.push(element, below);
                }
            }
            entry.children.restore_order();
        }
        Atom::Map => {
            for (name, value) in value.as_object().into_iter().flatten() {
                let (ty, declared) = ty.entry(name);
                let below = entry.children.entry(PathElement::field(name));
                fill(ty, value, below);
                below.member |= !declared || value.is_null() || value.as_object().is_some_and(Map::is_empty);
            }
        }
    }
}

/// How one value differs from another.
#[derive(Clone, Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

#[derive(Default)]
struct Difference {
    added: Entry,
    modified: Entry,
    removed: Entry,
}

/// Compares an old with a new value.
pub(super) fn compare(ty: Type<'_>, old: &Value, new: &Value) -> Comparison {
    let mut root = Difference::default();
    compare_at(ty, Some(old), Some(new), &mut root);
    Comparison {
        added: root.added.children,
        modified: root.modified.children,
        removed: root.removed.children,
    }
}

pub(super) fn is_vacant(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn compare_at(ty: Type<'_>, old: Option<&Value>, new: Option<&Value>, out: &mut Difference) {
    let (old, new) = match (old, new) {
        (Some(old), Some(new)) => (old, new),
        (None, Some(new)) => return fill_all(ty, new, &mut out.added),
        (Some(old), None) => return fill_all(ty, old, &mut out.removed),
        (None, None) => return,
    };
    if old == new {
        return;
    }
    let shape = if new.is_null() { old } else { new };
    match ty.atom(shape) {
        Atom::List(list_type, items) if !(is_vacant(old) && is_vacant(new)) => {
            compare_lists(list_type, items, old, new, out);
        }
        Atom::Map if !(is_vacant(old) && is_vacant(new)) => {
            let (before, after) = (old.as_object(), new.as_object());
            for (name, value) in before.into_iter().flatten() {
                let other = after.and_then(|after| after.get(name));
                if other != Some(value) {
                    descend(
                        ty.entry(name).0,
                        PathElement::field(name),
                        Some(value),
                        other,
                        out,
                    );
                }
            }
            for (name, value) in after.into_iter().flatten() {
                if before.is_none_or(|before| !before.contains_key(name)) {
                    descend(ty.entry(name).0, PathElement::field(name), None, Some(value), out);
                }
            }
        }
        _ => out.modified.member = true,
    }
    for entry in [&mut out.added, &mut out.modified, &mut out.removed] {
        entry.children.restore_order();
    }
}

/// Every path of a value that is there on one side only: its leaves and all on the way to them.
fn fill_all(ty: Type<'_>, value: &Value, entry: &mut Entry) {
    entry.member = true;
    if is_vacant(value) {
        return;
    }
    match (ty.atom(value), value) {
        (Atom::List(list_type, items), Value::Array(list)) => {
            for (index, item) in list.iter().enumerate() {
                if let Ok(element) = items.element(list_type, index, item) {
                    let mut below = Entry::default();
                    fill_all(items, item, &mut below);
                    entry.children.push(element, below);
                }
            }
            entry.children.restore_order();
        }
        (Atom::Map, Value::Object(fields)) => {
            for (name, value) in fields {
                fill_all(
                    ty.entry(name).0,
                    value,
                    entry.children.entry(PathElement::field(name)),
                );
            }
        }
        _ => {}
    }
}

fn descend(
    ty: Type<'_>,
    element: PathElement,
    old: Option<&Value>,
    new: Option<&Value>,
    out: &mut Difference,
) {
    let mut below = Difference::default();
    compare_at(ty, old, new, &mut below);
    out.added.children.push(element.clone(), below.added);
    out.modified.children.push(element.clone(), below.modified);
    out.removed.children.push(element, below.removed);
}

/// Elements by name; of several with one name the first counts.
pub(super) fn index<'a>(
    list_type: &ListType,
    items: Type<'_>,
    list: Option<&'a Value>,
) -> Vec<(PathElement, &'a Value)> {
    let list = list.and_then(Value::as_array).into_iter().flatten().enumerate();
    list.filter_map(|(at, item)| {
        items
            .element(list_type, at, item)
            .ok()
            .map(|element| (element, item))
    })
    .collect()
}

fn compare_lists(list_type: &ListType, items: Type<'_>, old: &Value, new: &Value, out: &mut Difference) {
    let (old, new) = (Some(old), Some(new));
    let (before, after) = (index(list_type, items, old), index(list_type, items, new));
    let by_name = |list: &[(PathElement, &Value)]| {
        let mut map = std::collections::HashMap::new();
        for (at, (element, _)) in list.iter().enumerate() {
            map.entry(element.clone()).or_insert(at);
        }
        map
    };
    let (before_by_name, after_by_name) = (by_name(&before), by_name(&after));
    for (at, (element, item)) in before.iter().enumerate() {
        if before_by_name[element] == at {
            let other = after_by_name.get(element).map(|at| after[*at].1);
            descend(items, element.clone(), Some(item), other, out);
        }
    }
    for (at, (element, item)) in after.iter().enumerate() {
        if after_by_name[element] == at && !before_by_name.contains_key(element) {
            descend(items, element.clone(), None, Some(item), out);
        }
    }
}

/// The value without the fields of a set; null where nothing is left.
pub(super) fn remove(ty: Type<'_>, value: &Value, set: &FieldSet) -> Value {
    match (ty.atom(value), value) {
        (Atom::List(list_type, items), Value::Array(list)) => {
            let mut kept = Vec::with_capacity(list.len());
            for (index, item) in list.iter().enumerate() {
                let Ok(element) = items.element(list_type, index, item) else {
                    kept.push(item.clone());
                    continue;
                };
                if set.has(&element) {
                    continue;
                }
                kept.push(match set.below(&element) {
                    Some(below) => remove(items, item, below),
                    None => item.clone(),
                });
            }
            if kept.is_empty() && !list.is_empty() {
                Value::Null
            } else {
                Value::Array(kept)
            }
        }
        (Atom::Map, Value::Object(fields)) => {
            let mut kept = Map::new();
            for (name, value) in fields {
                let element = PathElement::field(name);
                if set.has(&element) {
                    continue;
                }
                let value = match set.below(&element) {
                    Some(below) => remove(ty.entry(name).0, value, below),
                    None => value.clone(),
                };
                kept.insert(name.clone(), value);
            }
            if kept.is_empty() && !fields.is_empty() {
                Value::Null
            } else {
                Value::Object(kept)
            }
        }
        (_, value) => value.clone(),
    }
}

/// The set with every struct field on the way to a path as a path of its own.
pub(super) fn with_named_fields(ty: Type<'_>, set: &FieldSet) -> FieldSet {
    let mut result = FieldSet::default();
    for (element, entry) in set.entries() {
        let (below, declared) = element
            .as_field()
            .map_or((ty.items(), false), |name| ty.entry(name));
        let children = with_named_fields(below, &entry.children);
        let member = entry.member || (declared && !entry.children.is_empty());
        result.attach(element.clone(), Entry { member, children });
    }
    result
}

impl<'a> Type<'a> {
    fn items(self) -> Type<'a> {
        Type {
            schema: self.schema.and_then(Schema::list).map(|list| &list.items),
            map_type: None,
        }
    }
}
