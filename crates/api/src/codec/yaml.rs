//! YAML, read as the JSON that it stands for.
//!
//! A key that occurs twice in a map counts with its last value, as in upstream's decoder. [`to_json_strict`] tells where
//! that happened, in the words of upstream's strict decoder.

use std::cell::Cell;
use std::fmt;

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde_json::{Map as JsonMap, Number, Value};

/// So many keys that occur twice are told; each costs a pass over the document.
const TOLD: usize = 16;

/// The bytes are not YAML that JSON can express.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not YAML, nested too deeply, growing too large by aliases, or with keys or numbers that JSON has not.
    #[error("error converting YAML to JSON: yaml: {0}")]
    Yaml(#[from] serde_yaml_ng::Error),
}

/// Decodes one document.
pub fn to_json(bytes: &[u8]) -> Result<Value, DecodeError> {
    let state = State::default();
    Ok(Node(&state).deserialize(serde_yaml_ng::Deserializer::from_slice(bytes))?)
}

/// Decodes one document and names keys that occur twice: `line 9: key "foo" already set in map`.
pub fn to_json_strict(bytes: &[u8]) -> Result<(Value, Vec<String>), DecodeError> {
    let state = State::default();
    let value = Node(&state).deserialize(serde_yaml_ng::Deserializer::from_slice(bytes))?;
    let told = (0..state.duplicates.get().min(TOLD)).filter_map(|nth| {
        let state = State {
            stop_at: Some(nth),
            ..State::default()
        };
        // The value behind the second key refuses itself, so the error knows the line.
        let refused = Node(&state).deserialize(serde_yaml_ng::Deserializer::from_slice(bytes));
        let line = refused.err()?.location()?.line();
        let key = crate::field::quote(&state.key.take());
        Some(format!("line {line}: key {key} already set in map"))
    });
    let told = told.collect();
    Ok((value, told))
}

/// What a strict decoder says about keys that occur twice, as one text.
pub fn strict_error(duplicates: &[String]) -> String {
    let mut text = "yaml: unmarshal errors:".to_owned();
    for duplicate in duplicates {
        text.push_str("\n  ");
        text.push_str(duplicate);
    }
    text
}

/// Decodes every document of a stream, leaving out empty ones.
pub fn documents(bytes: &[u8]) -> Result<Vec<Value>, DecodeError> {
    let mut values = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_slice(bytes) {
        let state = State::default();
        let value = Node(&state).deserialize(document)?;
        if !value.is_null() {
            values.push(value);
        }
    }
    Ok(values)
}

/// What one pass over a document knows.
#[derive(Default)]
struct State {
    /// Keys that occurred before in their map, so far.
    duplicates: Cell<usize>,
    /// Stop at this one of them.
    stop_at: Option<usize>,
    /// The key at which it stopped.
    key: Cell<String>,
}

/// Reads any value.
#[derive(Clone, Copy)]
struct Node<'s>(&'s State);

/// Refuses any value.
struct Refuse;

impl<'de> DeserializeSeed<'de> for Refuse {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! refuse {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E: de::Error>(self, _: $type) -> Result<Value, E> {
            Err(E::custom("duplicate key"))
        })*
    };
}

impl<'de> Visitor<'de> for Refuse {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("another key")
    }

    refuse!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Err(E::custom("duplicate key"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(de::Error::custom("duplicate key"))
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(de::Error::custom("duplicate key"))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(de::Error::custom("duplicate key"))
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).map(Value::Number);
        number.ok_or_else(|| E::custom(format_args!("unsupported number {value}")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let state = self.0;
        let mut fields = JsonMap::new();
        while let Some(key) = access.next_key_seed(Key)? {
            if fields.contains_key(&key) {
                let nth = state.duplicates.get();
                state.duplicates.set(nth + 1);
                if state.stop_at == Some(nth) {
                    state.key.set(key);
                    return access.next_value_seed(Refuse);
                }
            }
            let value = access.next_value_seed(self)?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        // A tag says nothing that JSON could say.
        let (_tag, value) = access.variant::<String>()?;
        value.newtype_variant_seed(self)
    }
}

/// Reads the key of a map.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that JSON can have")
    }

    fn visit_bool<E>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E>(self, value: f64) -> Result<String, E> {
        Ok(serde_yaml_ng::Number::from(value).to_string())
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_unit<E>(self) -> Result<String, E> {
        Ok("null".to_owned())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        Err(de::Error::custom("unsupported map key of type []interface {}"))
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        Err(de::Error::custom(
            "unsupported map key of type map[interface {}]interface {}",
        ))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<String, A::Error> {
        let (_tag, value) = access.variant::<String>()?;
        value.newtype_variant_seed(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn converts() {
        let value = to_json(b"a: 1\nb: [x, 1.5, null, true]\n1: {2: \"3\"}\n").expect("yaml");
        assert_eq!(
            value,
            json!({"a": 1, "b": ["x", 1.5, null, true], "1": {"2": "3"}})
        );
        assert_eq!(
            documents(b"a: 1\n---\n---\nb: 2\n").expect("yaml"),
            [json!({"a": 1}), json!({"b": 2})]
        );
    }

    #[test]
    fn the_last_of_two_counts_and_both_are_named() {
        let text =
            b"\nkind: X\nspec:\n  foo: a\n  foo: b\n  list:\n  - x: 1\n    x:\n      y: 2\n  foo: !tag c\n";
        let expected = json!({"kind": "X", "spec": {"foo": "c", "list": [{"x": {"y": 2}}]}});
        assert_eq!(to_json(text).expect("yaml"), expected);
        let (value, told) = to_json_strict(text).expect("yaml");
        assert_eq!(value, expected);
        assert_eq!(
            told,
            [
                "line 5: key \"foo\" already set in map",
                "line 9: key \"x\" already set in map",
                "line 10: key \"foo\" already set in map",
            ]
        );
        assert_eq!(
            strict_error(&told[..1]),
            "yaml: unmarshal errors:\n  line 5: key \"foo\" already set in map"
        );
        let json = b"{\n\"a\": 1,\n\"a\": [2]}";
        let (value, told) = to_json_strict(json).expect("yaml");
        assert_eq!(
            (value, told),
            (
                json!({"a": [2]}),
                vec!["line 3: key \"a\" already set in map".to_owned()]
            )
        );
        assert!(to_json_strict(b"a: 1\nb: 1").expect("yaml").1.is_empty());
    }

    #[test]
    fn bad_input_is_an_error() {
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned()
            + &(b'b'..=b'i')
                .map(|c| {
                    let (c, p) = (c as char, (c - 1) as char);
                    format!("{c}: &{c} [*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p}]\n")
                })
                .collect::<String>();
        let deep = "[".repeat(50_000);
        for text in [
            "a: b: c",
            "[a",
            "? [a]\n: b",
            "a: .nan",
            bomb.as_str(),
            deep.as_str(),
        ] {
            assert!(to_json(text.as_bytes()).is_err(), "{text:.40}");
        }
    }
}
