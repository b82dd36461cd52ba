//! Regular expressions.

use regex::Regex;

use super::Outcome;
use super::strings::{optional_int, text};
use crate::error::EvalError;
use crate::pattern::compile_pattern;
use crate::value::Value;

/// Runs `matches`, `find` or `findAll` with a pattern that is already compiled.
pub(crate) fn regex_call<'a>(name: &str, regex: &Regex, args: &[Value<'a>]) -> Outcome<'a> {
    let source = text(args, 0)?;
    match name {
        "matches" => Ok(Value::Bool(regex.is_match(source))),
        "find" => {
            let found = regex.find(source).map(|found| found.as_str()).unwrap_or_default();
            Ok(Value::text(found))
        }
        _ => {
            let limit = usize::try_from(optional_int(args, 2)?.unwrap_or(-1)).unwrap_or(usize::MAX);
            let found = regex.find_iter(source).take(limit);
            Ok(Value::list(
                found.map(|found| Value::text(found.as_str())).collect(),
            ))
        }
    }
}

fn with_pattern<'a>(name: &str, args: &[Value<'a>]) -> Outcome<'a> {
    let regex = compile_pattern(text(args, 1)?)
        .map_err(|error| EvalError::new(format!("error parsing regexp: {error}")))?;
    regex_call(name, &regex, args)
}

/// `s.matches(pattern)`
pub(super) fn matches<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    with_pattern("matches", args)
}

/// `s.find(pattern)`
pub(super) fn find<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    with_pattern("find", args)
}

/// `s.findAll(pattern[, limit])`
pub(super) fn find_all<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    with_pattern("findAll", args)
}
