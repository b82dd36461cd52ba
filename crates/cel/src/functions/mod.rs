//! The functions of the language, of its extensions and of Kubernetes' libraries. What they are declared as stands
//! in `check/signatures.txt`; here is what they do.

mod addresses;
pub(crate) mod authorizer;
mod conversions;
mod format;
pub(crate) mod formats;
mod lists;
mod numbers;
mod operators;
mod optional;
mod quantities;
mod regexes;
pub(crate) mod semver;
mod strings;
mod table;
pub(crate) mod time;
mod urls;

pub(crate) use conversions::display;
pub(crate) use regexes::regex_call;
pub(crate) use table::{Builtin, builtin};

use crate::error::EvalError;
use crate::value::Value;

/// What a function returns.
pub(crate) type Outcome<'a> = Result<Value<'a>, EvalError>;
