//! Sets of field paths and their wire form, `metav1.FieldsV1`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

/// One step from a value to one below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathElement {
    /// A field of a struct or an entry of a map.
    Field(String),
    /// The element of a list whose key fields have these values, as canonical JSON.
    Key(String),
    /// The element of a set with this value, as canonical JSON.
    Value(String),
    /// The element of a list at this place.
    Index(usize),
}

/// A set of field paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    entries: BTreeMap<PathElement, Entry>,
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

impl PathElement {
    /// The element of a keyed list with these key fields.
    pub fn key(fields: Map<String, Value>) -> Self {
        Self::Key(canonical(&Value::Object(fields)))
    }

    /// The element of a set with this value.
    pub fn value(value: &Value) -> Self {
        Self::Value(canonical(value))
    }

    fn parse(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError(format!("invalid path element {text:.64}"));
        let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
        let json = || serde_json::from_str::<Value>(rest).map_err(|_| wrong());
        match kind {
            "f" => Ok(Self::Field(rest.to_owned())),
            "k" => Ok(Self::Key(canonical(&json()?))),
            "v" => Ok(Self::Value(canonical(&json()?))),
            "i" => rest.parse().map(Self::Index).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }

    fn to_wire(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(key) => format!("k:{key}"),
            Self::Value(value) => format!("v:{value}"),
            Self::Index(index) => format!("i:{index}"),
        }
    }
}

impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
            Self::Key(key) => {
                let fields: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                let fields: Vec<String> = fields
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                write!(f, "[{}]", fields.join(","))
            }
        }
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
            let path: Vec<PathElement> = path
                .iter()
                .map(|name| PathElement::Field((*name).to_owned()))
                .collect();
            set.insert(&path);
        }
        set
    }

    /// Adds a path; the empty path is not kept.
    pub fn insert(&mut self, path: &[PathElement]) {
        match path {
            [] => {}
            [last] => self.entries.entry(last.clone()).or_default().member = true,
            [first, rest @ ..] => self
                .entries
                .entry(first.clone())
                .or_default()
                .children
                .insert(rest),
        }
    }

    /// Whether a path is in the set.
    pub fn contains(&self, path: &[PathElement]) -> bool {
        match path {
            [] => false,
            [last] => self.has(last),
            [first, rest @ ..] => self
                .entries
                .get(first)
                .is_some_and(|entry| entry.children.contains(rest)),
        }
    }

    /// Whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        self.entries
            .values()
            .all(|entry| !entry.member && entry.children.is_empty())
    }

    /// Number of paths.
    pub fn len(&self) -> usize {
        self.entries
            .values()
            .map(|entry| usize::from(entry.member) + entry.children.len())
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
        self.entries.get(element).is_some_and(|entry| entry.member)
    }

    pub(super) fn below(&self, element: &PathElement) -> Option<&FieldSet> {
        self.entries
            .get(element)
            .map(|entry| &entry.children)
            .filter(|set| !set.is_empty())
    }

    pub(super) fn entry(&mut self, element: PathElement) -> &mut Entry {
        self.entries.entry(element).or_default()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&PathElement, &Entry)> {
        self.entries.iter()
    }

    pub(super) fn attach(&mut self, element: &PathElement, entry: Entry) {
        if entry.member || !entry.children.entries.is_empty() {
            self.entries.insert(element.clone(), entry);
        }
    }

    /// The paths of either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut result = self.clone();
        for (element, entry) in &other.entries {
            let mine = result.entries.entry(element.clone()).or_default();
            mine.member |= entry.member;
            mine.children = mine.children.union(&entry.children);
        }
        result
    }

    /// The paths of both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine && theirs, Self::intersection, false)
    }

    /// The paths of this set that are not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine && !theirs, Self::difference, true)
    }

    /// The paths of this set that are neither in the other nor below one of its paths.
    #[must_use]
    pub fn recursive_difference(&self, other: &Self) -> Self {
        let mut result = Self::default();
        for (element, entry) in &self.entries {
            match other.entries.get(element) {
                None => result.attach(element, entry.clone()),
                Some(theirs) if theirs.member => {}
                Some(theirs) => {
                    let children = entry.children.recursive_difference(&theirs.children);
                    result.attach(
                        element,
                        Entry {
                            member: entry.member,
                            children,
                        },
                    );
                }
            }
        }
        result
    }

    fn combine(
        &self,
        other: &Self,
        member: fn(bool, bool) -> bool,
        children: fn(&Self, &Self) -> Self,
        keep_others: bool,
    ) -> Self {
        let mut result = Self::default();
        for (element, entry) in &self.entries {
            match other.entries.get(element) {
                None if keep_others => result.attach(element, entry.clone()),
                None => {}
                Some(theirs) => result.attach(
                    element,
                    Entry {
                        member: member(entry.member, theirs.member),
                        children: children(&entry.children, &theirs.children),
                    },
                ),
            }
        }
        result
    }

    /// Reads `FieldsV1`.
    pub fn from_wire(value: &Value) -> Result<Self, ParseError> {
        Self::read(value, 0)
    }

    fn read(value: &Value, depth: usize) -> Result<Self, ParseError> {
        let Value::Object(fields) = value else {
            return Err(ParseError("expected an object".to_owned()));
        };
        if depth > MAX_DEPTH {
            return Err(ParseError("nested too deeply".to_owned()));
        }
        let mut set = Self::default();
        for (name, below) in fields.iter().filter(|(name, _)| *name != ".") {
            let entry = set.entries.entry(PathElement::parse(name)?).or_default();
            entry.children = Self::read(below, depth + 1)?;
            entry.member = entry.children.entries.is_empty() || below.get(".").is_some();
        }
        Ok(set)
    }

    /// Writes `FieldsV1`.
    pub fn to_wire(&self) -> Value {
        let mut fields = Map::new();
        for (element, entry) in &self.entries {
            if !entry.member && entry.children.is_empty() {
                continue;
            }
            let mut below = entry.children.to_wire();
            if let Value::Object(map) = &mut below
                && entry.member
                && !map.is_empty()
            {
                map.insert(".".to_owned(), Value::Object(Map::new()));
            }
            fields.insert(element.to_wire(), below);
        }
        Value::Object(fields)
    }
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
        let set = FieldSet::from_wire(&wire).expect("set");
        assert_eq!(set.to_wire(), wire);
        assert_eq!(set.len(), 6);
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
            assert!(FieldSet::from_wire(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn algebra() {
        let set = |wire: Value| FieldSet::from_wire(&wire).expect("set");
        let left = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let right = set(json!({"f:a": {}, "f:d": {}}));
        assert_eq!(
            left.union(&right).to_wire(),
            json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}, "f:d": {}})
        );
        assert_eq!(left.intersection(&right).to_wire(), json!({"f:a": {}}));
        assert_eq!(
            left.difference(&right).to_wire(),
            json!({"f:a": {"f:b": {}}, "f:c": {}})
        );
        assert_eq!(left.recursive_difference(&right).to_wire(), json!({"f:c": {}}));
    }
}
