//! Reads labels and selectable fields out of an object's JSON without building the object.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A field that field selectors may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectableField {
    /// The name in selectors, e.g. `spec.nodeName`.
    pub label: String,
    /// Where it stands.
    pub path: Vec<String>,
    /// Where it is read instead when it is absent or empty there; empty for nowhere.
    pub fallback: Vec<String>,
    /// What an absent field counts as.
    pub default: String,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Extracted {
    /// `metadata.labels`.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// The selectable fields in the extractor's order.
    pub fields: Vec<Box<str>>,
}

#[derive(Default, Debug)]
struct Node {
    /// More than one where several labels mean the same field.
    slots: Vec<usize>,
    labels: bool,
    children: BTreeMap<String, Node>,
}

/// The paths of one kind, ready for use.
#[derive(Debug)]
pub struct FieldExtractor {
    root: Node,
    fields: Vec<SelectableField>,
}

impl FieldExtractor {
    /// An extractor of labels and these fields.
    pub fn new(fields: Vec<SelectableField>) -> Self {
        let mut root = Node::default();
        // The fallbacks' slots follow those of the fields.
        let fallbacks = fields.iter().map(|field| &field.fallback);
        let paths = fields.iter().map(|field| &field.path).chain(fallbacks);
        for (slot, path) in paths.enumerate().filter(|(_, path)| !path.is_empty()) {
            let mut node = &mut root;
            for part in path {
                node = node.children.entry(part.clone()).or_default();
            }
            node.slots.push(slot);
        }
        root.children
            .entry("metadata".to_owned())
            .or_default()
            .children
            .entry("labels".to_owned())
            .or_default()
            .labels = true;
        Self { root, fields }
    }

    /// The fields, in slot order.
    pub fn fields(&self) -> &[SelectableField] {
        &self.fields
    }

    /// The slot of the field selector label.
    pub fn slot(&self, label: &str) -> Option<usize> {
        self.fields.iter().position(|f| f.label == label)
    }

    /// Reads one object.
    pub fn extract(&self, json: &[u8]) -> Result<Extracted, serde_json::Error> {
        let mut out = Extracted {
            labels: Vec::new(),
            fields: self.fields.iter().map(|f| f.default.as_str().into()).collect(),
        };
        out.fields.resize(2 * self.fields.len(), "".into());
        let mut de = serde_json::Deserializer::from_slice(json);
        Seed {
            node: &self.root,
            out: &mut out,
        }
        .deserialize(&mut de)?;
        let fallbacks = out.fields.split_off(self.fields.len());
        for (field, fallback) in out.fields.iter_mut().zip(fallbacks) {
            if field.is_empty() {
                *field = fallback;
            }
        }
        Ok(out)
    }
}

struct Seed<'a> {
    node: &'a Node,
    out: &'a mut Extracted,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Seed<'_> {
    fn scalar(&mut self, value: &str) {
        for slot in &self.node.slots {
            self.out.fields[*slot] = value.into();
        }
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_bool<E>(mut self, v: bool) -> Result<(), E> {
        self.scalar(if v { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E>(mut self, v: i64) -> Result<(), E> {
        self.scalar(&v.to_string());
        Ok(())
    }

    fn visit_u64<E>(mut self, v: u64) -> Result<(), E> {
        self.scalar(&v.to_string());
        Ok(())
    }

    fn visit_f64<E>(mut self, v: f64) -> Result<(), E> {
        self.scalar(&v.to_string());
        Ok(())
    }

    fn visit_str<E>(mut self, v: &str) -> Result<(), E> {
        self.scalar(v);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if self.node.labels {
            while let Some((k, v)) = map.next_entry::<Box<str>, Box<str>>()? {
                self.out.labels.push((k, v));
            }
            return Ok(());
        }
        while let Some(child) = map.next_key_seed(KeySeed { node: self.node })? {
            match child {
                Some(node) => map.next_value_seed(Seed {
                    node,
                    out: &mut *self.out,
                })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct KeySeed<'a> {
    node: &'a Node,
}

impl<'de, 'a> DeserializeSeed<'de> for KeySeed<'a> {
    type Value = Option<&'a Node>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for KeySeed<'a> {
    type Value = Option<&'a Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
        Ok(self.node.children.get(v))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extracts_labels_and_fields() {
        let field = |label: &str, default: &str| SelectableField {
            label: label.to_owned(),
            path: label.split('.').map(str::to_owned).collect(),
            fallback: Vec::new(),
            default: default.to_owned(),
        };
        let e = FieldExtractor::new(vec![
            field("spec.nodeName", ""),
            field("spec.hostNetwork", "false"),
            field("status.replicas", "0"),
        ]);
        let json = br#"{"metadata":{"name":"a","labels":{"x":"y","z":""}},"spec":{"nodeName":"n1","list":[{"nodeName":"no"}]},"status":{"replicas":3}}"#;
        let got = e.extract(json).unwrap();
        assert_eq!(got.labels, [("x".into(), "y".into()), ("z".into(), "".into())]);
        let fields: Vec<&str> = got.fields.iter().map(AsRef::as_ref).collect();
        assert_eq!(fields, ["n1", "false", "3"]);
        assert!(e.extract(b"{\"metadata\":").is_err());
    }

    #[test]
    fn labels_share_a_path_and_fall_back() {
        let field = |label: &str, path: &[&str], fallback: &[&str]| SelectableField {
            label: label.to_owned(),
            path: path.iter().map(ToString::to_string).collect(),
            fallback: fallback.iter().map(ToString::to_string).collect(),
            default: String::new(),
        };
        let e = FieldExtractor::new(vec![
            field("source", &["source", "component"], &["reporter"]),
            field("reporter", &["reporter"], &[]),
            field("other", &["reporter"], &[]),
        ]);
        let fields = |json: &str| -> Vec<String> {
            let got = e.extract(json.as_bytes()).unwrap();
            got.fields.iter().map(ToString::to_string).collect()
        };
        assert_eq!(fields(r#"{"reporter":"r"}"#), ["r", "r", "r"]);
        assert_eq!(
            fields(r#"{"source":{"component":"s"},"reporter":"r"}"#),
            ["s", "r", "r"]
        );
        assert_eq!(fields(r#"{"source":{"component":""}}"#), ["", "", ""]);
    }
}
