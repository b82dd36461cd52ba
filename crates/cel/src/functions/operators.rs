//! Operators and what containers have in common.

use std::cmp::Ordering;

use super::numbers::{overflow, unsigned_overflow};
use super::time::{add_duration, subtract_timestamps};
use super::{Outcome, conversions};
use crate::error::EvalError;
use crate::value::{Map, Steps, Value, equal, order};

/// `!a`
pub(super) fn not<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Bool(value)] => Ok(Value::Bool(!value)),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `-a`
pub(super) fn negate<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(value)] => value.checked_neg().map(Value::Int).ok_or_else(overflow),
        [Value::Double(value)] => Ok(Value::Double(-value)),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `a == b`
pub(super) fn equals<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [one, other] => equal(one, other, &mut Steps::default()).map(Value::Bool),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `a != b`
pub(super) fn not_equals<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    not(&[equals(args)?])
}

/// `a + b`
pub(super) fn add<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(one), Value::Int(other)] => one.checked_add(*other).map(Value::Int).ok_or_else(overflow),
        [Value::Uint(one), Value::Uint(other)] => one
            .checked_add(*other)
            .map(Value::Uint)
            .ok_or_else(unsigned_overflow),
        [Value::Double(one), Value::Double(other)] => Ok(Value::Double(one + other)),
        [Value::String(one), Value::String(other)] => Ok(Value::text(format!("{one}{other}"))),
        [Value::Bytes(one), Value::Bytes(other)] => Ok(Value::Bytes([&one[..], &other[..]].concat().into())),
        [Value::List(one), Value::List(other)] => one.concat(other).map(Value::List),
        [Value::Duration(one), Value::Duration(other)] => one
            .checked_add(*other)
            .map(Value::Duration)
            .ok_or_else(|| EvalError::new("duration overflow")),
        [Value::Timestamp(timestamp), Value::Duration(duration)]
        | [Value::Duration(duration), Value::Timestamp(timestamp)] => {
            add_duration(*timestamp, i128::from(*duration))
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `a - b`
pub(super) fn subtract<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(one), Value::Int(other)] => one.checked_sub(*other).map(Value::Int).ok_or_else(overflow),
        [Value::Uint(one), Value::Uint(other)] => one
            .checked_sub(*other)
            .map(Value::Uint)
            .ok_or_else(unsigned_overflow),
        [Value::Double(one), Value::Double(other)] => Ok(Value::Double(one - other)),
        [Value::Duration(one), Value::Duration(other)] => one
            .checked_sub(*other)
            .map(Value::Duration)
            .ok_or_else(|| EvalError::new("duration overflow")),
        [Value::Timestamp(timestamp), Value::Duration(duration)] => {
            add_duration(*timestamp, -i128::from(*duration))
        }
        [Value::Timestamp(one), Value::Timestamp(other)] => subtract_timestamps(*one, *other),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `a * b`
pub(super) fn multiply<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(one), Value::Int(other)] => one.checked_mul(*other).map(Value::Int).ok_or_else(overflow),
        [Value::Uint(one), Value::Uint(other)] => one
            .checked_mul(*other)
            .map(Value::Uint)
            .ok_or_else(unsigned_overflow),
        [Value::Double(one), Value::Double(other)] => Ok(Value::Double(one * other)),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `a / b`
pub(super) fn divide<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            Err(EvalError::new("division by zero"))
        }
        [Value::Int(one), Value::Int(other)] => one.checked_div(*other).map(Value::Int).ok_or_else(overflow),
        [Value::Uint(one), Value::Uint(other)] => Ok(Value::Uint(one / other)),
        [Value::Double(one), Value::Double(other)] => Ok(Value::Double(one / other)),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `a % b`
pub(super) fn modulo<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            Err(EvalError::new("modulus by zero"))
        }
        [Value::Int(one), Value::Int(other)] => one.checked_rem(*other).map(Value::Int).ok_or_else(overflow),
        [Value::Uint(one), Value::Uint(other)] => Ok(Value::Uint(one % other)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn ordered<'a>(args: &[Value<'a>], verdict: fn(Ordering) -> bool) -> Outcome<'a> {
    match args {
        [one, other] => order(one, other).map(|ordering| Value::Bool(verdict(ordering))),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `a < b`
pub(super) fn less<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    ordered(args, Ordering::is_lt)
}

/// `a <= b`
pub(super) fn less_equals<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    ordered(args, Ordering::is_le)
}

/// `a > b`
pub(super) fn greater<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    ordered(args, Ordering::is_gt)
}

/// `a >= b`
pub(super) fn greater_equals<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    ordered(args, Ordering::is_ge)
}

/// `a in b`
pub(super) fn contained<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [value, Value::List(list)] => {
            let mut steps = Steps::default();
            for item in list.iter() {
                if equal(&item?, value, &mut steps)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        [key, Value::Map(map)] => Ok(Value::Bool(map.get(key).is_some())),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `size(a)` and `a.size()`
pub(super) fn size<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [value @ (Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_))] => {
            Ok(Value::Int(i64::try_from(value.size()).unwrap_or(i64::MAX)))
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

/// The step of `transformMap` and `transformMapEntry`.
pub(super) fn map_insert<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Map(map), key, value] => {
            let mut map: Map<'a> = map.clone();
            map.insert(key, value.clone())?;
            Ok(Value::Map(map))
        }
        [Value::Map(map), Value::Map(update)] => {
            let mut map = map.clone();
            for (key, value) in update.entries()? {
                map.insert(&key.value(), value)?;
            }
            Ok(Value::Map(map))
        }
        [other, ..] => Err(conversions::unsupported(other)),
        [] => Err(EvalError::no_such_overload()),
    }
}
