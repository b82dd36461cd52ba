//! URLs: absolute URLs and absolute paths.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use url::Url;

use super::Outcome;
use super::strings::text;
use crate::error::EvalError;
use crate::value::{Extension, Key, Map, Text, Value};

/// Stands for the scheme and host of a URL that is a path only.
const NO_HOST: &str = "path-only://path-only";

static BASE: LazyLock<Option<Url>> = LazyLock::new(|| Url::parse(NO_HOST).ok());

fn parse(text: &str) -> Option<Url> {
    if text.contains(|character: char| character.is_ascii_control() || character == ' ') {
        return None;
    }
    if text.starts_with('/') {
        return BASE
            .as_ref()?
            .join(&text.replacen("//", "/", usize::from(text.starts_with("//"))))
            .ok();
    }
    let url = Url::parse(text).ok()?;
    (!url.cannot_be_a_base()).then_some(url)
}

fn target<'v>(args: &'v [Value<'_>]) -> Result<&'v Url, EvalError> {
    match args {
        [Value::Extension(Extension::Url(url))] => Ok(url),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn path_only(url: &Url) -> bool {
    url.scheme() == "path-only"
}

/// `url(s)`
pub(super) fn url<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let source = text(args, 0)?;
    parse(source)
        .map(|url| Value::Extension(Extension::Url(Arc::new(url))))
        .ok_or_else(|| {
            EvalError::new(format!(
                "URL parse error during conversion from string: parse \"{source}\": invalid URI for request"
            ))
        })
}

/// `isURL(s)`
pub(super) fn is_url<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(parse(text(args, 0)?).is_some()))
}

/// `u.getScheme()`
pub(super) fn get_scheme<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let url = target(args)?;
    Ok(Value::text(if path_only(url) { "" } else { url.scheme() }))
}

/// `u.getHost()`, with the port
pub(super) fn get_host<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let url = target(args)?;
    let host = if path_only(url) {
        ""
    } else {
        url.host_str().unwrap_or_default()
    };
    Ok(Value::text(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }))
}

/// `u.getHostname()`
pub(super) fn get_hostname<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let url = target(args)?;
    let host = if path_only(url) {
        ""
    } else {
        url.host_str().unwrap_or_default()
    };
    Ok(Value::text(host.trim_matches(['[', ']'])))
}

/// `u.getPort()`
pub(super) fn get_port<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(
        target(args)?
            .port()
            .map(|port| port.to_string())
            .unwrap_or_default(),
    ))
}

/// `u.getEscapedPath()`
pub(super) fn get_escaped_path<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(target(args)?.path()))
}

/// `u.getQuery()`
pub(super) fn get_query<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let mut query: BTreeMap<Key<'a>, Vec<Value<'a>>> = BTreeMap::new();
    for (name, value) in target(args)?.query_pairs() {
        let key = Key::String(Text::from(name.into_owned()));
        query.entry(key).or_default().push(Value::text(value));
    }
    let entries = query.into_iter().map(|(key, values)| (key, Value::list(values)));
    Ok(Value::Map(Map::from(entries.collect::<BTreeMap<_, _>>())))
}
