//! The table of functions: `signatures.txt`, one overload a line.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use super::types::Type;
use crate::decl::ObjectType;

/// A function with its overloads in order.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) overloads: Vec<Overload>,
}

/// One overload. A member function's target is its first argument.
#[derive(Debug)]
pub(crate) struct Overload {
    pub(crate) id: &'static str,
    pub(crate) member: bool,
    pub(crate) args: Vec<Type>,
    pub(crate) result: Type,
    pub(crate) generic: bool,
}

static TABLE: LazyLock<HashMap<&'static str, Function>> = LazyLock::new(|| {
    let mut table: HashMap<&'static str, Function> = HashMap::new();
    let mut objects = HashMap::new();
    for line in include_str!("signatures.txt").lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, overload) = row(line, &mut objects)
            .unwrap_or_else(|| panic!("invariant: the table of functions is well-formed: {line}"));
        table
            .entry(name)
            .or_insert_with(|| Function {
                name,
                overloads: Vec::new(),
            })
            .overloads
            .push(overload);
    }
    table
});

/// The function with this name.
pub(crate) fn function(name: &str) -> Option<&'static Function> {
    TABLE.get(name)
}

type Objects = HashMap<&'static str, Arc<ObjectType>>;

fn row(line: &'static str, objects: &mut Objects) -> Option<(&'static str, Overload)> {
    let mut words = line.splitn(3, char::is_whitespace);
    let (name, id, signature) = (words.next()?, words.next()?, words.next()?.trim());
    let (call, result) = signature.rsplit_once("->")?;
    let call = call.trim();
    let (target, args) = match call.find(".(") {
        Some(dot) => (Some(&call[..dot]), &call[dot + 1..]),
        None => (None, call),
    };
    let args = args.strip_prefix('(')?.strip_suffix(')')?;
    let mut types = Vec::new();
    if let Some(target) = target {
        types.push(parse_type(target, objects)?);
    }
    for arg in split(args) {
        types.push(parse_type(arg, objects)?);
    }
    let result = parse_type(result, objects)?;
    let generic = types.iter().chain([&result]).any(has_param);
    Some((
        name,
        Overload {
            id,
            member: target.is_some(),
            args: types,
            result,
            generic,
        },
    ))
}

fn has_param(ty: &Type) -> bool {
    match ty {
        Type::Param(_) => true,
        Type::List(inner) | Type::Optional(inner) | Type::Type(Some(inner)) => has_param(inner),
        Type::Map(key, value) => has_param(key) || has_param(value),
        _ => false,
    }
}

/// Splits at commas outside of parentheses.
fn split(text: &'static str) -> Vec<&'static str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        parts.push(text[start..].trim());
    }
    parts
}

fn parse_type(text: &'static str, objects: &mut Objects) -> Option<Type> {
    let text = text.trim();
    if let Some((name, inner)) = text.split_once('(') {
        let mut args = Vec::new();
        for part in split(inner.strip_suffix(')')?) {
            args.push(Arc::new(parse_type(part, objects)?));
        }
        return match (name, args.as_slice()) {
            ("list", [element]) => Some(Type::List(Arc::clone(element))),
            ("map", [key, value]) => Some(Type::Map(Arc::clone(key), Arc::clone(value))),
            ("optional", [inner]) => Some(Type::Optional(Arc::clone(inner))),
            ("type", [inner]) => Some(Type::Type(Some(Arc::clone(inner)))),
            _ => None,
        };
    }
    Some(match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        _ if text.len() == 1 => Type::Param(text.chars().next()?),
        _ => Type::Object(Arc::clone(objects.entry(text).or_insert_with(|| object(text)))),
    })
}

fn object(name: &str) -> Arc<ObjectType> {
    Arc::new(ObjectType {
        name: name.to_owned(),
        fields: std::collections::BTreeMap::new(),
        open: false,
    })
}
