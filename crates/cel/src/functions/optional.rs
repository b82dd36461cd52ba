//! Optional values.

use super::Outcome;
use crate::error::EvalError;
use crate::value::Value;

/// `optional.of(a)`
pub(super) fn of<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [value] => Ok(Value::some(value.clone())),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `optional.ofNonZeroValue(a)`
pub(super) fn of_non_zero_value<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [value] = args else {
        return Err(EvalError::no_such_overload());
    };
    let zero = match value {
        Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) | Value::Duration(0) => true,
        Value::Double(value) => *value == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        Value::Optional(inner) => inner.is_none(),
        _ => false,
    };
    Ok(if zero {
        Value::Optional(None)
    } else {
        Value::some(value.clone())
    })
}

/// `optional.none()`
pub(super) fn none<'a>(_args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Optional(None))
}

/// `o.value()`
pub(super) fn value<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Optional(Some(inner))] => Ok(inner.as_ref().clone()),
        [Value::Optional(None)] => Err(EvalError::new("optional.none() dereference")),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `o.hasValue()`
pub(super) fn has_value<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Optional(inner)] => Ok(Value::Bool(inner.is_some())),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `o.or(other)`
pub(super) fn or<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [one @ Value::Optional(Some(_)), _] => Ok(one.clone()),
        [Value::Optional(None), other @ Value::Optional(_)] => Ok(other.clone()),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `o.orValue(other)`
pub(super) fn or_value<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Optional(Some(inner)), _] => Ok(inner.as_ref().clone()),
        [Value::Optional(None), other] => Ok(other.clone()),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `optional.unwrap(list)` and `list.unwrapOpt()`: the values that are there.
pub(super) fn unwrap<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::List(list)] = args else {
        return Err(EvalError::no_such_overload());
    };
    let mut items = Vec::new();
    for item in list.iter() {
        match item? {
            Value::Optional(Some(inner)) => items.push(inner.as_ref().clone()),
            Value::Optional(None) => {}
            _ => return Err(EvalError::no_such_overload()),
        }
    }
    Ok(Value::list(items))
}

fn end<'a>(args: &[Value<'a>], last: bool) -> Outcome<'a> {
    let [Value::List(list)] = args else {
        return Err(EvalError::no_such_overload());
    };
    let index = if last { list.len().saturating_sub(1) } else { 0 };
    match list.get(index) {
        Some(value) => value.map(Value::some),
        None => Ok(Value::Optional(None)),
    }
}

/// `list.first()`
pub(super) fn first<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    end(args, false)
}

/// `list.last()`
pub(super) fn last<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    end(args, true)
}
