//! Conversions between types.

use super::Outcome;
use super::numbers::{format_double, overflow, unsigned_overflow};
use super::time::{format_seconds, format_timestamp};
use crate::error::EvalError;
use crate::value::{Cidr, Extension, Text, Value};

/// A value as messages and `string.format` write it.
pub(crate) fn display(value: &Value<'_>) -> String {
    match to_string(std::slice::from_ref(value)) {
        Ok(Value::String(text)) => text.to_string(),
        _ => match value {
            Value::Null => "null".to_owned(),
            other => other
                .to_json()
                .map_or_else(|_| other.type_name().to_owned(), |json| json.to_string()),
        },
    }
}

/// The value has a type that the function does not take.
pub(super) fn unsupported(value: &Value<'_>) -> EvalError {
    EvalError::new(format!("unsupported type '{}'", value.type_name()))
}

fn conversion_error(from: &Value<'_>, to: &str) -> EvalError {
    EvalError::new(format!(
        "type conversion error from '{}' to '{to}'",
        from.type_name()
    ))
}

/// `type(a)`
pub(super) fn type_of<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [value] => Ok(Value::Type(Text::Borrowed(value.type_name()))),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `dyn(a)`
pub(super) fn to_dyn<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    args.first().cloned().ok_or_else(EvalError::no_such_overload)
}

/// `bool(a)`
pub(super) fn to_bool<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Bool(value)] => Ok(Value::Bool(*value)),
        [from @ Value::String(text)] => match &**text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Value::Bool(false)),
            _ => Err(conversion_error(from, "bool")),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `bytes(a)`
pub(super) fn to_bytes<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [value @ Value::Bytes(_)] => Ok(value.clone()),
        [Value::String(text)] => Ok(Value::Bytes(text.as_bytes().into())),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `double(a)`
#[expect(clippy::cast_precision_loss, reason = "that is what the conversion does")]
pub(super) fn to_double<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Double(value)] => Ok(Value::Double(*value)),
        [Value::Int(value)] => Ok(Value::Double(*value as f64)),
        [Value::Uint(value)] => Ok(Value::Double(*value as f64)),
        [from @ Value::String(text)] => text
            .parse()
            .map(Value::Double)
            .map_err(|_| conversion_error(from, "double")),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `int(a)`
pub(super) fn to_int<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(value)] => Ok(Value::Int(*value)),
        [Value::Uint(value)] => i64::try_from(*value).map(Value::Int).map_err(|_| overflow()),
        [Value::Double(value)] => {
            const LIMIT: f64 = 9_223_372_036_854_775_808.0;
            if value.is_finite() && *value > -LIMIT && *value < LIMIT {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "the range is checked; the fraction goes"
                )]
                return Ok(Value::Int(*value as i64));
            }
            Err(overflow())
        }
        [Value::Timestamp(timestamp)] => Ok(Value::Int(timestamp.as_second())),
        [Value::Duration(nanoseconds)] => Ok(Value::Int(*nanoseconds)),
        [from @ Value::String(text)] => text
            .parse()
            .map(Value::Int)
            .map_err(|_| conversion_error(from, "int")),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `uint(a)`
pub(super) fn to_uint<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Uint(value)] => Ok(Value::Uint(*value)),
        [Value::Int(value)] => u64::try_from(*value)
            .map(Value::Uint)
            .map_err(|_| unsigned_overflow()),
        [Value::Double(value)] => {
            const LIMIT: f64 = 18_446_744_073_709_551_616.0;
            if value.is_finite() && *value >= 0.0 && *value < LIMIT {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "the range is checked; the fraction goes"
                )]
                return Ok(Value::Uint(*value as u64));
            }
            Err(unsigned_overflow())
        }
        [from @ Value::String(text)] => text
            .parse()
            .map(Value::Uint)
            .map_err(|_| conversion_error(from, "uint")),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `string(a)`
pub(super) fn to_string<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [value] = args else {
        return Err(EvalError::no_such_overload());
    };
    let text = match value {
        Value::String(_) => return Ok(value.clone()),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => format_double(*value),
        Value::Bytes(bytes) => String::from_utf8(bytes.to_vec())
            .map_err(|_| EvalError::new("invalid UTF-8 in bytes, cannot convert to string"))?,
        Value::Timestamp(timestamp) => format_timestamp(*timestamp),
        Value::Duration(nanoseconds) => format_seconds(*nanoseconds),
        Value::Type(name) => name.to_string(),
        Value::Extension(Extension::Ip(address)) => address.to_string(),
        Value::Extension(Extension::Cidr(Cidr { address, prefix })) => format!("{address}/{prefix}"),
        Value::Extension(Extension::Quantity(quantity)) => quantity.to_string(),
        _ => return Err(EvalError::no_such_overload()),
    };
    Ok(Value::text(text))
}
