//! `intstr.IntOrString`: a number or a text, where the text is often a percentage.

use std::fmt;

use serde_json::Value;

/// A number or a text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum IntOrString {
    /// A number.
    Int(i32),
    /// A text.
    String(String),
}

/// Why a value cannot be scaled; the texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScaleError {
    /// The text is no percentage.
    #[error("invalid value for IntOrString: invalid type: string is not a percentage")]
    NotPercentage,
    /// The text before the percent sign is no number.
    #[error("invalid value for IntOrString: invalid value {text}: {source}", text = crate::field::quote(.text))]
    Invalid {
        /// The text.
        text: String,
        /// What is wrong with its number.
        source: std::num::ParseIntError,
    },
}

impl IntOrString {
    /// The value that a JSON value holds; `None` unless it is a 32-bit number or a string.
    pub fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => number.as_i64().and_then(|n| i32::try_from(n).ok()).map(Self::Int),
            Value::String(text) => Some(Self::String(text.clone())),
            _ => None,
        }
    }

    /// The number; a text counts as the number that it spells, else 0.
    pub fn int_value(&self) -> i32 {
        match self {
            Self::Int(n) => *n,
            Self::String(text) => text.parse().unwrap_or(0),
        }
    }

    /// The number, or the percentage of `total`, rounded up or down.
    pub fn scaled(&self, total: i32, round_up: bool) -> Result<i32, ScaleError> {
        let text = match self {
            Self::Int(n) => return Ok(*n),
            Self::String(text) => text,
        };
        let number = text.strip_suffix('%').ok_or(ScaleError::NotPercentage)?;
        let percent: i32 = number.parse().map_err(|source| ScaleError::Invalid {
            text: text.clone(),
            source,
        })?;
        let product = i64::from(percent) * i64::from(total);
        let scaled = if round_up {
            product.div_euclid(100) + i64::from(product.rem_euclid(100) != 0)
        } else {
            product.div_euclid(100)
        };
        Ok(i32::try_from(scaled).unwrap_or(i32::MAX))
    }

    /// The JSON value.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Int(n) => Value::from(*n),
            Self::String(text) => Value::from(text.as_str()),
        }
    }
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(n) => write!(f, "{n}"),
            Self::String(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scales() {
        let check = |value: Value, total, up, expected| {
            let value = IntOrString::from_value(&value).expect("int or string");
            assert_eq!(value.scaled(total, up).ok(), expected, "{value}");
        };
        check(json!(3), 10, true, Some(3));
        check(json!("25%"), 10, true, Some(3));
        check(json!("25%"), 10, false, Some(2));
        check(json!("100%"), 7, false, Some(7));
        check(json!("0%"), 7, true, Some(0));
        check(json!("abc"), 7, true, None);
        check(json!("a%"), 7, true, None);
        assert_eq!(IntOrString::from_value(&json!(1.5)), None);
        assert_eq!(IntOrString::from_value(&json!(3_000_000_000_i64)), None);
    }
}
