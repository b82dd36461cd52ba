//! Quantities. `isGreaterThan`, `isLessThan` and `compareTo` also serve semantic versions.

use std::cmp::Ordering;

use keelson_api::quantity::{Format, Quantity};

use super::Outcome;
use super::strings::text;
use crate::error::EvalError;
use crate::value::{Extension, Value};

fn at(args: &[Value<'_>], index: usize) -> Result<Quantity, EvalError> {
    match args.get(index) {
        Some(Value::Extension(Extension::Quantity(quantity))) => Ok(*quantity),
        Some(Value::Int(value)) if index > 0 => Ok(Quantity::from_value(*value, Format::DecimalSI)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn value<'a>(quantity: Quantity) -> Value<'a> {
    Value::Extension(Extension::Quantity(quantity))
}

/// `quantity(s)`
pub(super) fn quantity<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Quantity::parse(text(args, 0)?)
        .map(value)
        .map_err(|error| EvalError::new(error.to_string()))
}

/// `isQuantity(s)`
pub(super) fn is_quantity<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(Quantity::parse(text(args, 0)?).is_ok()))
}

/// `q.sign()`
pub(super) fn sign<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Int(i64::from(at(args, 0)?.sign())))
}

fn whole(quantity: Quantity) -> Option<i64> {
    const NANOS: i128 = 1_000_000_000;
    let nanos = quantity.nanos();
    (nanos % NANOS == 0).then(|| i64::try_from(nanos / NANOS).ok())?
}

/// `q.isInteger()`
pub(super) fn is_integer<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(whole(at(args, 0)?).is_some()))
}

/// `q.asInteger()`
pub(super) fn as_integer<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    whole(at(args, 0)?)
        .map(Value::Int)
        .ok_or_else(|| EvalError::new("cannot convert value to integer"))
}

/// `q.asApproximateFloat()`
pub(super) fn as_approximate_float<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Double(at(args, 0)?.as_f64()))
}

/// `q.add(other)`
pub(super) fn add<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(value(at(args, 0)?.add(at(args, 1)?)))
}

/// `q.sub(other)`
pub(super) fn sub<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(value(at(args, 0)?.sub(at(args, 1)?)))
}

fn order(args: &[Value<'_>]) -> Result<Ordering, EvalError> {
    match args {
        [
            Value::Extension(Extension::Quantity(one)),
            Value::Extension(Extension::Quantity(other)),
        ] => Ok(one.cmp(other)),
        [
            Value::Extension(Extension::Semver(one)),
            Value::Extension(Extension::Semver(other)),
        ] => Ok(one.as_ref().cmp(other)),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `q.isGreaterThan(other)`
pub(super) fn is_greater_than<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(order(args)?.is_gt()))
}

/// `q.isLessThan(other)`
pub(super) fn is_less_than<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(order(args)?.is_lt()))
}

/// `q.compareTo(other)`
pub(super) fn compare_to<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Int(order(args)? as i64))
}
