//! Lists and sets of values.

use super::{Outcome, operators, strings};
use crate::error::EvalError;
use crate::value::{List, Steps, Value, equal, order};

fn list<'v, 'a>(args: &'v [Value<'a>], index: usize) -> Result<&'v List<'a>, EvalError> {
    match args.get(index) {
        Some(Value::List(list)) => Ok(list),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `list.indexOf(value)` and `s.indexOf(part)`
pub(super) fn index_of<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    position(args, false)
}

/// `list.lastIndexOf(value)` and `s.lastIndexOf(part)`
pub(super) fn last_index_of<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    position(args, true)
}

fn position<'a>(args: &[Value<'a>], last: bool) -> Outcome<'a> {
    let [Value::List(list), value] = args else {
        return if last {
            strings::last_index_of(args)
        } else {
            strings::index_of(args)
        };
    };
    let mut steps = Steps::default();
    let mut found = -1;
    for (index, item) in list.iter().enumerate() {
        if equal(&item?, value, &mut steps)? {
            found = i64::try_from(index).unwrap_or(i64::MAX);
            if !last {
                break;
            }
        }
    }
    Ok(Value::Int(found))
}

/// `list.isSorted()`
pub(super) fn is_sorted<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let mut previous: Option<Value<'a>> = None;
    for item in list(args, 0)?.iter() {
        let item = item?;
        if let Some(previous) = &previous
            && order(previous, &item)?.is_gt()
        {
            return Ok(Value::Bool(false));
        }
        previous = Some(item);
    }
    Ok(Value::Bool(true))
}

/// `list.sum()`; zero for an empty list.
pub(super) fn sum<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let mut total: Option<Value<'a>> = None;
    for item in list(args, 0)?.iter() {
        let item = item?;
        total = Some(match total {
            None => item,
            Some(total) => operators::add(&[total, item])?,
        });
    }
    Ok(total.unwrap_or(Value::Int(0)))
}

/// `list.max()`
pub(super) fn max<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    extreme(args, "max", std::cmp::Ordering::is_gt)
}

/// `list.min()`
pub(super) fn min<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    extreme(args, "min", std::cmp::Ordering::is_lt)
}

fn extreme<'a>(args: &[Value<'a>], name: &str, better: fn(std::cmp::Ordering) -> bool) -> Outcome<'a> {
    let mut best: Option<Value<'a>> = None;
    for item in list(args, 0)?.iter() {
        let item = item?;
        let replace = match &best {
            None => true,
            Some(best) => better(order(&item, best)?),
        };
        if replace {
            best = Some(item);
        }
    }
    best.ok_or_else(|| EvalError::new(format!("{name} called on empty list")))
}

fn contains_all<'a>(one: &List<'a>, other: &List<'a>, steps: &mut Steps) -> Result<bool, EvalError> {
    'items: for item in other.iter() {
        let item = item?;
        for candidate in one.iter() {
            if equal(&candidate?, &item, steps)? {
                continue 'items;
            }
        }
        return Ok(false);
    }
    Ok(true)
}

/// `sets.contains(a, b)`: whether all of b is in a.
pub(super) fn sets_contains<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    contains_all(list(args, 0)?, list(args, 1)?, &mut Steps::default()).map(Value::Bool)
}

/// `sets.equivalent(a, b)`
pub(super) fn sets_equivalent<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (one, other) = (list(args, 0)?, list(args, 1)?);
    let mut steps = Steps::default();
    let both = contains_all(one, other, &mut steps)? && contains_all(other, one, &mut steps)?;
    Ok(Value::Bool(both))
}

/// `sets.intersects(a, b)`
pub(super) fn sets_intersects<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (one, other) = (list(args, 0)?, list(args, 1)?);
    let mut steps = Steps::default();
    for item in one.iter() {
        let item = item?;
        for candidate in other.iter() {
            if equal(&candidate?, &item, &mut steps)? {
                return Ok(Value::Bool(true));
            }
        }
    }
    Ok(Value::Bool(false))
}
