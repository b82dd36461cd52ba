//! YAML, read as the JSON that it stands for.

use serde::Deserialize;
use serde_json::{Map as JsonMap, Number, Value};
use serde_yaml_ng::Value as Yaml;

/// The bytes are not YAML that JSON can express.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not YAML, or nested too deeply, or growing too large by aliases.
    #[error("error converting YAML to JSON: yaml: {0}")]
    Yaml(#[from] serde_yaml_ng::Error),
    /// A map's key is a list or a map.
    #[error("error converting YAML to JSON: unsupported map key of type {0}")]
    Key(&'static str),
    /// A number that JSON has not.
    #[error("error converting YAML to JSON: unsupported number {0}")]
    Number(String),
}

/// Decodes one document.
pub fn to_json(bytes: &[u8]) -> Result<Value, DecodeError> {
    convert(serde_yaml_ng::from_slice(bytes)?)
}

/// Decodes every document of a stream, leaving out empty ones.
pub fn documents(bytes: &[u8]) -> Result<Vec<Value>, DecodeError> {
    let mut values = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_slice(bytes) {
        let value = convert(Yaml::deserialize(document)?)?;
        if !value.is_null() {
            values.push(value);
        }
    }
    Ok(values)
}

fn convert(yaml: Yaml) -> Result<Value, DecodeError> {
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::Number(number) => convert_number(&number)?,
        Yaml::String(text) => Value::String(text),
        Yaml::Sequence(items) => Value::Array(items.into_iter().map(convert).collect::<Result<_, _>>()?),
        Yaml::Mapping(mapping) => {
            let mut fields = JsonMap::new();
            for (key, value) in mapping {
                fields.insert(convert_key(key)?, convert(value)?);
            }
            Value::Object(fields)
        }
        Yaml::Tagged(tagged) => convert(tagged.value)?,
    })
}

fn convert_number(number: &serde_yaml_ng::Number) -> Result<Value, DecodeError> {
    if let Some(n) = number.as_i64() {
        return Ok(n.into());
    }
    if let Some(n) = number.as_u64() {
        return Ok(n.into());
    }
    number
        .as_f64()
        .and_then(Number::from_f64)
        .map(Value::Number)
        .ok_or_else(|| DecodeError::Number(number.to_string()))
}

fn convert_key(key: Yaml) -> Result<String, DecodeError> {
    match key {
        Yaml::String(text) => Ok(text),
        Yaml::Bool(value) => Ok(value.to_string()),
        Yaml::Number(number) => Ok(number.to_string()),
        Yaml::Null => Ok("null".to_owned()),
        Yaml::Sequence(_) => Err(DecodeError::Key("[]interface {}")),
        Yaml::Mapping(_) => Err(DecodeError::Key("map[interface {}]interface {}")),
        Yaml::Tagged(tagged) => convert_key(tagged.value),
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
