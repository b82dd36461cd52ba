//! Equality and order.

use std::cmp::Ordering;

use super::data::{Extension, Value};
use super::list::List;
use super::map::Map;
use crate::decl::ListType;
use crate::error::EvalError;
use crate::limits::MAX_VALUE_STEPS;

/// A bound on the work that one operation on values may do.
#[derive(Debug, Default)]
pub(crate) struct Steps(usize);

impl Steps {
    /// Takes one step.
    pub(crate) fn take(&mut self) -> Result<(), EvalError> {
        self.0 += 1;
        if self.0 > MAX_VALUE_STEPS {
            return Err(EvalError::CostLimit);
        }
        Ok(())
    }
}

/// Whether two values are equal. Numbers compare across types; other values of different types differ.
pub(crate) fn equal<'a>(one: &Value<'a>, other: &Value<'a>, steps: &mut Steps) -> Result<bool, EvalError> {
    steps.take()?;
    Ok(match (one, other) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(one), Value::Bool(other)) => one == other,
        (Value::String(one), Value::String(other)) | (Value::Type(one), Value::Type(other)) => one == other,
        (Value::Bytes(one), Value::Bytes(other)) => one == other,
        (Value::Timestamp(one), Value::Timestamp(other)) => one == other,
        (Value::Duration(one), Value::Duration(other)) => one == other,
        (Value::List(one), Value::List(other)) => equal_lists(one, other, steps)?,
        (Value::Map(one), Value::Map(other)) => equal_maps(one, other, steps)?,
        (Value::Optional(None), Value::Optional(None)) => true,
        (Value::Optional(Some(one)), Value::Optional(Some(other))) => equal(one, other, steps)?,
        (Value::Extension(one), Value::Extension(other)) => match (one, other) {
            (Extension::Quantity(one), Extension::Quantity(other)) => one == other,
            (Extension::Url(one), Extension::Url(other)) => one == other,
            (Extension::Ip(one), Extension::Ip(other)) => one == other,
            (Extension::Cidr(one), Extension::Cidr(other)) => one == other,
            (Extension::Semver(one), Extension::Semver(other)) => one == other,
            (Extension::Format(one), Extension::Format(other)) => one.name == other.name,
            (Extension::Unknown(one), Extension::Unknown(other)) => one == other,
            _ => false,
        },
        _ => numbers(one, other) == Some(Ordering::Equal),
    })
}

fn equal_lists<'a>(one: &List<'a>, other: &List<'a>, steps: &mut Steps) -> Result<bool, EvalError> {
    if one.len() != other.len() {
        return Ok(false);
    }
    match one.list_type() {
        ListType::Atomic => {
            for (one, other) in one.iter().zip(other.iter()) {
                if !equal(&one?, &other?, steps)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        unordered => {
            let own = one.values()?;
            'elements: for value in other.iter() {
                let value = value?;
                for candidate in &own {
                    let same = match unordered {
                        ListType::Map(keys) => {
                            same_keys(candidate, &value, keys, steps)? && equal(candidate, &value, steps)?
                        }
                        _ => equal(candidate, &value, steps)?,
                    };
                    if same {
                        continue 'elements;
                    }
                }
                return Ok(false);
            }
            Ok(true)
        }
    }
}

/// Whether two elements of a keyed list have the same keys.
pub(super) fn same_keys<'a>(
    one: &Value<'a>,
    other: &Value<'a>,
    keys: &[String],
    steps: &mut Steps,
) -> Result<bool, EvalError> {
    let (Value::Map(one), Value::Map(other)) = (one, other) else {
        return Ok(false);
    };
    for key in keys {
        let key = crate::decl::escape(key).unwrap_or_else(|| key.clone());
        let same = match (one.get_str(&key), other.get_str(&key)) {
            (None, None) => true,
            (Some(one), Some(other)) => equal(&one?, &other?, steps)?,
            _ => false,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn equal_maps<'a>(one: &Map<'a>, other: &Map<'a>, steps: &mut Steps) -> Result<bool, EvalError> {
    if one.len() != other.len() {
        return Ok(false);
    }
    for (key, value) in one.entries()? {
        let Some(partner) = other.get(&key.value()) else {
            return Ok(false);
        };
        if !equal(&value, &partner?, steps)? {
            return Ok(false);
        }
    }
    let (own, others) = (one.undeclared(), other.undeclared());
    if own.len() != others.len() {
        return Ok(false);
    }
    for ((name, value), (other_name, other_value)) in own.iter().zip(&others) {
        if name != other_name || !equal(value, other_value, steps)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The order of two numbers of any type; nothing for other values and for NaN.
fn numbers(one: &Value<'_>, other: &Value<'_>) -> Option<Ordering> {
    match (one, other) {
        (Value::Int(one), Value::Int(other)) => Some(one.cmp(other)),
        (Value::Uint(one), Value::Uint(other)) => Some(one.cmp(other)),
        (Value::Int(one), Value::Uint(other)) => Some(i128::from(*one).cmp(&i128::from(*other))),
        (Value::Uint(one), Value::Int(other)) => Some(i128::from(*one).cmp(&i128::from(*other))),
        (Value::Double(one), Value::Double(other)) => one.partial_cmp(other),
        (Value::Int(one), Value::Double(other)) => whole_and_double(i128::from(*one), *other),
        (Value::Uint(one), Value::Double(other)) => whole_and_double(i128::from(*one), *other),
        (Value::Double(one), Value::Int(other)) => {
            whole_and_double(i128::from(*other), *one).map(Ordering::reverse)
        }
        (Value::Double(one), Value::Uint(other)) => {
            whole_and_double(i128::from(*other), *one).map(Ordering::reverse)
        }
        _ => None,
    }
}

fn whole_and_double(whole: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the cast saturates, which keeps the order"
    )]
    let floor = double.floor() as i128;
    Some(whole.cmp(&floor).then(if double.fract() == 0.0 {
        Ordering::Equal
    } else {
        Ordering::Less
    }))
}

/// The order of two values of types that have one.
pub(crate) fn order(one: &Value<'_>, other: &Value<'_>) -> Result<Ordering, EvalError> {
    match (one, other) {
        (Value::Bool(one), Value::Bool(other)) => Ok(one.cmp(other)),
        (Value::String(one), Value::String(other)) => Ok(one.cmp(other)),
        (Value::Bytes(one), Value::Bytes(other)) => Ok(one.cmp(other)),
        (Value::Timestamp(one), Value::Timestamp(other)) => Ok(one.cmp(other)),
        (Value::Duration(one), Value::Duration(other)) => Ok(one.cmp(other)),
        (
            Value::Int(_) | Value::Uint(_) | Value::Double(_),
            Value::Int(_) | Value::Uint(_) | Value::Double(_),
        ) => numbers(one, other).ok_or_else(|| EvalError::new("NaN values cannot be ordered")),
        _ => Err(EvalError::no_such_overload()),
    }
}
