//! Semantic versions.

use std::cmp::Ordering;
use std::sync::Arc;

use super::Outcome;
use super::strings::text;
use crate::error::EvalError;
use crate::value::{Extension, Value};

/// A version. Build metadata takes no part in comparisons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    numbers: [u64; 3],
    prerelease: Vec<String>,
}

impl PartialOrd for Semver {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Semver {
    fn cmp(&self, other: &Self) -> Ordering {
        let released = |version: &Self| version.prerelease.is_empty();
        self.numbers
            .cmp(&other.numbers)
            .then_with(|| released(self).cmp(&released(other)))
            .then_with(|| {
                for (one, two) in self.prerelease.iter().zip(&other.prerelease) {
                    let ordering = match (one.parse::<u64>(), two.parse::<u64>()) {
                        (Ok(one), Ok(two)) => one.cmp(&two),
                        (Ok(_), Err(_)) => Ordering::Less,
                        (Err(_), Ok(_)) => Ordering::Greater,
                        (Err(_), Err(_)) => one.cmp(two),
                    };
                    if ordering.is_ne() {
                        return ordering;
                    }
                }
                self.prerelease.len().cmp(&other.prerelease.len())
            })
    }
}

fn number(text: &str) -> Result<u64, &'static str> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("Invalid character(s) found in number");
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err("Version number must not contain leading zeroes");
    }
    text.parse().map_err(|_| "Version number out of range")
}

fn parse(text: &str) -> Result<Semver, &'static str> {
    let (version, build) = match text.split_once('+') {
        Some((version, build)) => (version, Some(build)),
        None => (text, None),
    };
    let (core, prerelease) = match version.split_once('-') {
        Some((core, prerelease)) => (core, Some(prerelease)),
        None => (version, None),
    };
    let mut parts = core.splitn(3, '.');
    let mut numbers = [0; 3];
    for slot in &mut numbers {
        *slot = number(parts.next().ok_or("No Major.Minor.Patch elements found")?)?;
    }
    let identifier = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let prerelease: Vec<String> = prerelease
        .into_iter()
        .flat_map(|text| text.split('.'))
        .map(str::to_owned)
        .collect();
    for part in &prerelease {
        let numeric = part.bytes().all(|byte| byte.is_ascii_digit());
        if !identifier(part) || numeric && part.len() > 1 && part.starts_with('0') {
            return Err("Prerelease is malformed");
        }
    }
    if build.is_some_and(|build| !build.split('.').all(identifier)) {
        return Err("Build meta data is malformed");
    }
    Ok(Semver { numbers, prerelease })
}

/// Takes off a leading `v` and leading zeros, and adds missing numbers.
fn normalize(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (core, rest) = text.split_at(end);
    let mut parts: Vec<&str> = core
        .splitn(3, '.')
        .map(|part| match part.trim_start_matches('0') {
            "" if !part.is_empty() => "0",
            trimmed => trimmed,
        })
        .collect();
    while parts.len() < 3 {
        parts.push("0");
    }
    format!("{}{rest}", parts.join("."))
}

fn read(args: &[Value<'_>]) -> Result<Result<Semver, &'static str>, EvalError> {
    let source = text(args, 0)?;
    match args.get(1) {
        None | Some(Value::Bool(false)) => Ok(parse(source)),
        Some(Value::Bool(true)) => Ok(parse(&normalize(source))),
        Some(_) => Err(EvalError::no_such_overload()),
    }
}

/// `semver(s[, normalize])`
pub(super) fn semver<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match read(args)? {
        Ok(version) => Ok(Value::Extension(Extension::Semver(Arc::new(version)))),
        Err(problem) => Err(EvalError::new(problem)),
    }
}

/// `isSemver(s[, normalize])`
pub(super) fn is_semver<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(read(args)?.is_ok()))
}

fn part<'a>(args: &[Value<'a>], index: usize) -> Outcome<'a> {
    match args {
        [Value::Extension(Extension::Semver(version))] => Ok(Value::Int(
            i64::try_from(version.numbers[index]).unwrap_or(i64::MAX),
        )),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `v.major()`
pub(super) fn major<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    part(args, 0)
}

/// `v.minor()`
pub(super) fn minor<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    part(args, 1)
}

/// `v.patch()`
pub(super) fn patch<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    part(args, 2)
}
