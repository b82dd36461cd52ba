//! The extension of strings. Indexes count code points.

use super::Outcome;
use crate::error::EvalError;
use crate::value::{Text, Value};

/// The argument at an index as text.
pub(super) fn text<'v, 'a>(args: &'v [Value<'a>], index: usize) -> Result<&'v Text<'a>, EvalError> {
    match args.get(index) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// The argument at an index as an integer, if it is there.
pub(super) fn optional_int(args: &[Value<'_>], index: usize) -> Result<Option<i64>, EvalError> {
    match args.get(index) {
        None => Ok(None),
        Some(Value::Int(value)) => Ok(Some(*value)),
        Some(_) => Err(EvalError::no_such_overload()),
    }
}

fn out_of_range(index: i64) -> EvalError {
    EvalError::new(format!("index out of range: {index}"))
}

/// An index into a text of this length; the end counts.
fn position(index: i64, length: usize) -> Result<usize, EvalError> {
    usize::try_from(index)
        .ok()
        .filter(|position| *position <= length)
        .ok_or_else(|| out_of_range(index))
}

/// `s.contains(part)`
pub(super) fn contains<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(text(args, 0)?.contains(&**text(args, 1)?)))
}

/// `s.startsWith(part)`
pub(super) fn starts_with<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(text(args, 0)?.starts_with(&**text(args, 1)?)))
}

/// `s.endsWith(part)`
pub(super) fn ends_with<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(text(args, 0)?.ends_with(&**text(args, 1)?)))
}

/// `s.charAt(index)`
pub(super) fn char_at<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let characters: Vec<char> = text(args, 0)?.chars().collect();
    let index = optional_int(args, 1)?.ok_or_else(EvalError::no_such_overload)?;
    let at = position(index, characters.len())?;
    Ok(Value::text(
        characters.get(at).map(ToString::to_string).unwrap_or_default(),
    ))
}

fn int_value<'a>(index: Option<usize>) -> Value<'a> {
    Value::Int(index.and_then(|index| i64::try_from(index).ok()).unwrap_or(-1))
}

/// `s.indexOf(part[, from])`
pub(super) fn index_of<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let characters: Vec<char> = text(args, 0)?.chars().collect();
    let part: Vec<char> = text(args, 1)?.chars().collect();
    let from = optional_int(args, 2)?;
    if part.is_empty() {
        return Ok(Value::Int(from.unwrap_or(0)));
    }
    let from = position(from.unwrap_or(0), characters.len())?;
    let found = characters[from..]
        .windows(part.len())
        .position(|window| window == part);
    Ok(int_value(found.map(|found| found + from)))
}

/// `s.lastIndexOf(part[, from])`
pub(super) fn last_index_of<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let characters: Vec<char> = text(args, 0)?.chars().collect();
    let part: Vec<char> = text(args, 1)?.chars().collect();
    let from = match optional_int(args, 2)? {
        Some(from) => position(from, characters.len())?,
        None => characters.len(),
    };
    if part.is_empty() {
        return Ok(int_value(Some(from)));
    }
    let found = characters
        .windows(part.len())
        .enumerate()
        .rev()
        .find(|(at, window)| *at <= from && **window == part);
    Ok(int_value(found.map(|(at, _)| at)))
}

/// `s.lowerAscii()`
pub(super) fn lower_ascii<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(text(args, 0)?.to_ascii_lowercase()))
}

/// `s.upperAscii()`
pub(super) fn upper_ascii<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(text(args, 0)?.to_ascii_uppercase()))
}

/// `s.trim()`
pub(super) fn trim<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(text(args, 0)?.trim()))
}

/// `s.replace(old, new[, count])`
pub(super) fn replace<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (source, old, new) = (text(args, 0)?, text(args, 1)?, text(args, 2)?);
    let count = optional_int(args, 3)?.unwrap_or(-1);
    Ok(Value::text(match usize::try_from(count) {
        Ok(count) => source.replacen(&**old, new, count),
        Err(_) => source.replace(&**old, new),
    }))
}

/// `s.split(separator[, count])`
pub(super) fn split<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (source, separator) = (text(args, 0)?, text(args, 1)?);
    let count = usize::try_from(optional_int(args, 2)?.unwrap_or(-1)).unwrap_or(usize::MAX);
    let parts: Vec<Value<'a>> = if count == 0 {
        Vec::new()
    } else if separator.is_empty() {
        let mut parts = Vec::new();
        let mut rest: &str = source;
        while let Some(character) = rest.chars().next() {
            if parts.len() + 1 == count {
                break;
            }
            parts.push(Value::text(character));
            rest = &rest[character.len_utf8()..];
        }
        if !rest.is_empty() {
            parts.push(Value::text(rest));
        }
        parts
    } else {
        source.splitn(count, &**separator).map(Value::text).collect()
    };
    Ok(Value::list(parts))
}

/// `s.substring(start[, end])`
pub(super) fn substring<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let characters: Vec<char> = text(args, 0)?.chars().collect();
    let start = optional_int(args, 1)?.ok_or_else(EvalError::no_such_overload)?;
    let end = optional_int(args, 2)?;
    if let Some(end) = end
        && start > end
    {
        return Err(EvalError::new(format!(
            "invalid substring range. start: {start}, end: {end}"
        )));
    }
    let from = position(start, characters.len())?;
    let to = end.map_or(Ok(characters.len()), |end| position(end, characters.len()))?;
    Ok(Value::text(characters[from..to].iter().collect::<String>()))
}

/// `list.join([separator])`
pub(super) fn join<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let Some(Value::List(list)) = args.first() else {
        return Err(EvalError::no_such_overload());
    };
    let separator = if args.len() > 1 {
        text(args, 1)?.to_string()
    } else {
        String::new()
    };
    let mut joined = String::new();
    for (index, item) in list.iter().enumerate() {
        if index > 0 {
            joined.push_str(&separator);
        }
        match item? {
            Value::String(text) => joined.push_str(&text),
            other => {
                return Err(EvalError::new(format!(
                    "join: invalid input: {}",
                    super::display(&other)
                )));
            }
        }
    }
    Ok(Value::text(joined))
}

/// `strings.quote(s)`
pub(super) fn quote<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let mut quoted = String::from("\"");
    for character in text(args, 0)?.chars() {
        match character {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    Ok(Value::text(quoted))
}

/// `jsonpatch.escapeKey(s)`
pub(super) fn escape_json_pointer<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(text(args, 0)?.replace('~', "~0").replace('/', "~1")))
}
