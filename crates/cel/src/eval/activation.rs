//! Where an evaluation gets the values of variables from, and what it gives back.

use crate::error::EvalError;
use crate::value::Value;

/// The values of variables.
pub trait Activation<'a> {
    /// The value of a variable; nothing if it has none.
    fn resolve(&self, name: &str) -> Option<Result<Value<'a>, EvalError>>;
}

/// No variables at all.
#[derive(Debug)]
pub struct NoVariables;

impl<'a> Activation<'a> for NoVariables {
    fn resolve(&self, _name: &str) -> Option<Result<Value<'a>, EvalError>> {
        None
    }
}

/// Variables in a list.
#[derive(Debug, Default)]
pub struct Variables<'a>(pub Vec<(&'a str, Value<'a>)>);

impl<'a> Activation<'a> for Variables<'a> {
    fn resolve(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        let found = self.0.iter().find(|(known, _)| *known == name)?;
        Some(Ok(found.1.clone()))
    }
}

/// The outcome of one evaluation.
#[derive(Debug)]
pub struct Evaluated<'a> {
    /// The value, or why there is none.
    pub value: Result<Value<'a>, EvalError>,
    /// What it cost.
    pub cost: u64,
}
