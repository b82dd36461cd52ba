//! Sets of field paths and their wire form, `metav1.FieldsV1`.

use std::fmt;

use serde_json::{Map, Value};

/// One step from a value to one below it, in the form that `FieldsV1` writes: `f:name`, `k:{"key":"value"}`,
/// `v:"value"`, `i:0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathElement(String);

/// A set of field paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// In order of the elements, each once.
    entries: Vec<(PathElement, Entry)>,
}

/// A path element's place in a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Whether the path that ends here is in the set.
    pub(super) member: bool,
    /// The paths that go on from here.
    pub(super) children: FieldSet,
}

/// A value is no `FieldsV1`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid fieldsV1: {0}")]
pub struct ParseError(String);

impl ParseError {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }
}

/// Sets are as deep as objects, which JSON decoding bounds; sets from clients are cut off here.
const MAX_DEPTH: usize = 160;

/// Writes JSON without blanks and with sorted keys, whatever order the map type keeps.
pub(super) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_by_key(|(name, _)| *name);
            let entries: Vec<String> = entries
                .iter()
                .map(|(k, v)| format!("{}:{}", Value::from(k.as_str()), canonical(v)))
                .collect();
            format!("{{{}}}", entries.join(","))
        }
        value => value.to_string(),
    }
}

/// Appends a JSON string; nearly all need no escapes.
fn quote(value: &str, out: &mut String) {
    let plain = |b: u8| b >= 0x20 && b != b'"' && b != b'\\';
    if value.bytes().all(plain) {
        out.push('"');
        out.push_str(value);
        out.push('"');
    } else {
        out.push_str(&Value::from(value).to_string());
    }
}

impl PathElement {
    /// A field of a struct or an entry of a map.
    pub fn field(name: &str) -> Self {
        Self(["f:", name].concat())
    }

    /// The element of a keyed list with these key fields.
    pub fn key(mut fields: Vec<(&str, &Value)>) -> Self {
        fields.sort_unstable_by_key(|(name, _)| *name);
        let mut text = String::with_capacity(48);
        text.push_str("k:{");
        for (at, (name, value)) in fields.into_iter().enumerate() {
            if at > 0 {
                text.push(',');
            }
            quote(name, &mut text);
            text.push(':');
            match value {
                Value::String(value) => quote(value, &mut text),
                value => text.push_str(&canonical(value)),
            }
        }
        text.push('}');
        Self(text)
    }

    /// The element of a set with this value.
    pub fn value(value: &Value) -> Self {
        Self(["v:", &canonical(value)].concat())
    }

    /// The element of a list at this place.
    pub fn index(index: usize) -> Self {
        Self(format!("i:{index}"))
    }

    /// The name of the field or map entry that this is.
    pub fn as_field(&self) -> Option<&str> {
        self.0.strip_prefix("f:")
    }

    /// The form in `FieldsV1`.
    pub(super) fn into_wire(self) -> String {
        self.0
    }

    fn parse(text: String) -> Result<Self, ParseError> {
        let wrong = || ParseError(format!("invalid path element {text:.64}"));
        match text.split_once(':').ok_or_else(wrong)? {
            ("f", _) => Ok(Self(text)),
            (kind @ ("k" | "v"), rest) => {
                let value = serde_json::from_str::<Value>(rest).map_err(|_| wrong())?;
                Ok(Self([kind, ":", &canonical(&value)].concat()))
            }
            ("i", rest) if rest.parse::<usize>().is_ok() => Ok(Self(text)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once(':').unwrap_or_default() {
            ("f", name) => write!(f, ".{name}"),
            ("v", value) => write!(f, "[={value}]"),
            ("k", key) => {
                let fields: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                let fields: Vec<String> = fields
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                write!(f, "[{}]", fields.join(","))
            }
            (_, index) => write!(f, "[{index}]"),
        }
    }
}

impl Entry {
    fn is_empty(&self) -> bool {
        !self.member && self.children.entries.is_empty()
    }
}

impl FieldSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The set of these paths of fields (`["metadata", "name"]`).
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let path: Vec<PathElement> = path.iter().map(|name| PathElement::field(name)).collect();
            set.insert(&path);
        }
        set
    }

    /// Adds a path; the empty path is not kept.
    pub fn insert(&mut self, path: &[PathElement]) {
        match path {
            [] => {}
            [last] => self.entry(last.clone()).member = true,
            [first, rest @ ..] => self.entry(first.clone()).children.insert(rest),
        }
    }

    fn find(&self, element: &PathElement) -> Result<usize, usize> {
        self.entries.binary_search_by(|(other, _)| other.cmp(element))
    }

    fn get(&self, element: &PathElement) -> Option<&Entry> {
        self.find(element).ok().map(|at| &self.entries[at].1)
    }

    /// Whether a path is in the set.
    pub fn contains(&self, path: &[PathElement]) -> bool {
        match path {
            [] => false,
            [last] => self.has(last),
            [first, rest @ ..] => self.get(first).is_some_and(|entry| entry.children.contains(rest)),
        }
    }

    /// Whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        self.entries
            .iter()
            .all(|(_, entry)| !entry.member && entry.children.is_empty())
    }

    /// Number of paths.
    pub fn len(&self) -> usize {
        self.entries
            .iter()
            .map(|(_, entry)| usize::from(entry.member) + entry.children.len())
            .sum()
    }

    /// Every path, in order.
    pub fn paths(&self) -> Vec<Vec<PathElement>> {
        let mut paths = Vec::new();
        self.collect(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect(&self, prefix: &mut Vec<PathElement>, paths: &mut Vec<Vec<PathElement>>) {
        for (element, entry) in &self.entries {
            prefix.push(element.clone());
            if entry.member {
                paths.push(prefix.clone());
            }
            entry.children.collect(prefix, paths);
            prefix.pop();
        }
    }

    pub(super) fn has(&self, element: &PathElement) -> bool {
        self.get(element).is_some_and(|entry| entry.member)
    }

    pub(super) fn below(&self, element: &PathElement) -> Option<&FieldSet> {
        self.get(element)
            .map(|entry| &entry.children)
            .filter(|set| !set.is_empty())
    }

    /// The element's place, made when there is none yet. Cheap when elements come in order.
    pub(super) fn entry(&mut self, element: PathElement) -> &mut Entry {
        let at = match self.entries.last() {
            Some((last, _)) if *last < element => self.entries.len(),
            _ => match self.find(&element) {
                Ok(at) => return &mut self.entries[at].1,
                Err(at) => at,
            },
        };
        self.entries.insert(at, (element, Entry::default()));
        &mut self.entries[at].1
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&PathElement, &Entry)> {
        self.entries.iter().map(|(element, entry)| (element, entry))
    }

    /// Puts an entry in its place unless it is empty; an element is attached at most once.
    pub(super) fn attach(&mut self, element: PathElement, entry: Entry) {
        if !entry.is_empty() {
            *self.entry(element) = entry;
        }
    }

    /// Adds an entry at the end, in any order; [`Self::restore_order`] must follow.
    pub(super) fn push(&mut self, element: PathElement, entry: Entry) {
        if !entry.is_empty() {
            self.entries.push((element, entry));
        }
    }

    /// Sorts what was pushed; of repeated elements the paths are joined.
    pub(super) fn restore_order(&mut self) {
        self.entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.entries.dedup_by(|(again, theirs), (element, mine)| {
            let same = again == element;
            if same {
                mine.member |= theirs.member;
                mine.children.extend(std::mem::take(&mut theirs.children));
            }
            same
        });
    }

    /// Adds the paths of another set.
    pub fn extend(&mut self, other: Self) {
        if other.entries.is_empty() {
            return;
        }
        self.entries.extend(other.entries);
        self.restore_order();
    }

    /// Takes the paths of another set away.
    pub fn subtract(&mut self, other: &Self) {
        if other.entries.is_empty() {
            return;
        }
        self.entries.retain_mut(|(element, mine)| {
            if let Some(theirs) = other.get(element) {
                mine.member &= !theirs.member;
                mine.children.subtract(&theirs.children);
            }
            !mine.is_empty()
        });
    }

    /// Takes the paths of another set, and all below them, away.
    pub fn subtract_recursive(&mut self, other: &Self) {
        if other.entries.is_empty() {
            return;
        }
        self.entries
            .retain_mut(|(element, mine)| match other.get(element) {
                None => true,
                Some(theirs) if theirs.member => false,
                Some(theirs) => {
                    mine.children.subtract_recursive(&theirs.children);
                    !mine.is_empty()
                }
            });
    }

    /// The paths of either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut result = self.clone();
        result.extend(other.clone());
        result
    }

    /// The paths of both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut result = Self::default();
        for (element, mine) in &self.entries {
            if let Some(theirs) = other.get(element) {
                let children = mine.children.intersection(&theirs.children);
                result.attach(
                    element.clone(),
                    Entry {
                        member: mine.member && theirs.member,
                        children,
                    },
                );
            }
        }
        result
    }

    /// The paths of this set that are not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut result = self.clone();
        result.subtract(other);
        result
    }

    /// The paths of this set that are neither in the other nor below one of its paths.
    #[must_use]
    pub fn recursive_difference(&self, other: &Self) -> Self {
        let mut result = self.clone();
        result.subtract_recursive(other);
        result
    }

    /// Whether some path has more than one element.
    pub(super) fn is_deep(&self) -> bool {
        self.entries.iter().any(|(_, entry)| !entry.children.is_empty())
    }

    /// Whether every path is in the set that `FieldsV1` in canonical form says.
    pub(super) fn is_within(&self, wire: &Value) -> bool {
        self.entries.iter().all(|(element, entry)| {
            wire.get(&element.0)
                .is_some_and(|below| (!entry.member || is_member(below)) && entry.children.is_within(below))
        })
    }

    /// Whether some path is in the set that `FieldsV1` in canonical form says.
    pub(super) fn touches(&self, wire: &Value) -> bool {
        self.entries.iter().any(|(element, entry)| {
            wire.get(&element.0)
                .is_some_and(|below| (entry.member && is_member(below)) || entry.children.touches(below))
        })
    }

    /// Reads `FieldsV1`.
    pub fn from_wire(value: Value) -> Result<Self, ParseError> {
        Self::read(value, 0)
    }

    fn read(value: Value, depth: usize) -> Result<Self, ParseError> {
        let Value::Object(fields) = value else {
            return Err(ParseError("expected an object".to_owned()));
        };
        if depth > MAX_DEPTH {
            return Err(ParseError("nested too deeply".to_owned()));
        }
        let mut set = Self::default();
        for (name, below) in fields {
            if name == "." {
                continue;
            }
            let member = below.get(".").is_some();
            let children = Self::read(below, depth + 1)?;
            let entry = set.entry(PathElement::parse(name)?);
            entry.member = member || children.entries.is_empty();
            entry.children = children;
        }
        Ok(set)
    }

    /// Writes `FieldsV1`.
    pub fn into_wire(self) -> Value {
        let mut fields = Map::new();
        for (element, entry) in self.entries {
            if entry.is_empty() {
                continue;
            }
            let mut below = entry.children.into_wire();
            if let Value::Object(map) = &mut below
                && entry.member
                && !map.is_empty()
            {
                map.insert(".".to_owned(), Value::Object(Map::new()));
            }
            fields.insert(element.0, below);
        }
        Value::Object(fields)
    }
}

fn is_member(below: &Value) -> bool {
    below
        .as_object()
        .is_some_and(|below| below.is_empty() || below.contains_key("."))
}

/// A path as error messages give it: `.spec.containers[name="a"].image`.
pub(super) fn display(path: &[PathElement]) -> String {
    path.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wire_round_trip() {
        let wire = json!({
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}},
                       "f:finalizers": {"v:\"x\"": {}}, "f:list": {"i:3": {}}}});
        let set = FieldSet::from_wire(wire.clone()).expect("set");
        assert_eq!(set.len(), 6);
        assert_eq!(set.clone().into_wire(), wire);
        let paths: Vec<String> = set.paths().iter().map(|path| display(path)).collect();
        assert!(
            paths.contains(&".spec.containers[name=\"a\"].image".to_owned()),
            "{paths:?}"
        );
        assert!(paths.contains(&".spec.finalizers[=\"x\"]".to_owned()));
        for bad in [
            json!(1),
            json!({"x": {}}),
            json!({"k:x": {}}),
            json!({"f:a": 1}),
            json!({"i:x": {}}),
        ] {
            assert!(FieldSet::from_wire(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn algebra() {
        let set = |wire: Value| FieldSet::from_wire(wire).expect("set");
        let left = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let right = set(json!({"f:a": {}, "f:d": {}}));
        assert_eq!(
            left.union(&right).into_wire(),
            json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}, "f:d": {}})
        );
        assert_eq!(left.intersection(&right).into_wire(), json!({"f:a": {}}));
        assert_eq!(
            left.difference(&right).into_wire(),
            json!({"f:a": {"f:b": {}}, "f:c": {}})
        );
        assert_eq!(left.recursive_difference(&right).into_wire(), json!({"f:c": {}}));
    }
}
