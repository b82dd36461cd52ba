//! Running expressions for one request, within budgets.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use keelson_cel::limits::PER_CALL_LIMIT;
use keelson_cel::{Activation, EvalError, Key, Map, Request, Value as CelValue};
use serde_json::Value;

use super::authority::Authority;
use super::environment::{namespace, request};
use super::expression::{Expression, VariableSet};

/// What expressions are about.
pub(in crate::admission) struct Inputs<'r> {
    /// The object, or nothing for a deletion.
    pub(in crate::admission) object: Option<&'r Value>,
    /// The object before.
    pub(in crate::admission) old_object: Option<&'r Value>,
    /// The request.
    pub(in crate::admission) request: &'r Value,
    /// The request's namespace.
    pub(in crate::admission) namespace: Option<&'r Value>,
    /// The parameter.
    pub(in crate::admission) params: Option<&'r Value>,
    /// Answers `authorizer`.
    pub(in crate::admission) authority: &'r Authority<'r>,
}

/// The budget is used up; nothing more is evaluated.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("validation failed due to running out of cost budget, no further validation rules will be run")]
pub(in crate::admission) struct OutOfBudget;

/// Runs expressions one after the other and remembers the variables that they used.
pub(in crate::admission) struct Evaluator<'r> {
    inputs: &'r Inputs<'r>,
    variables: &'r VariableSet,
    values: RefCell<Vec<Option<Result<CelValue<'r>, EvalError>>>>,
    /// What variables cost since this was last charged.
    spent: Cell<u64>,
    budget: i64,
    prepared: bool,
}

impl<'r> Evaluator<'r> {
    /// Over these inputs, with a budget in units of cost.
    pub(in crate::admission) fn new(inputs: &'r Inputs<'r>, variables: &'r VariableSet, budget: i64) -> Self {
        Self {
            inputs,
            variables,
            values: RefCell::new(vec![None; variables.list.len()]),
            spent: Cell::new(0),
            budget,
            prepared: false,
        }
    }

    /// Goes on with another budget.
    pub(in crate::admission) fn set_budget(&mut self, budget: i64) {
        self.budget = budget;
    }

    /// Runs an expression; the inner error is what upstream says about an expression that has no value.
    pub(in crate::admission) fn run(
        &mut self,
        expression: &'r Expression,
    ) -> Result<Result<CelValue<'r>, String>, OutOfBudget> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(problem) => return Ok(Err(format!("compilation error: {problem}"))),
        };
        if !std::mem::replace(&mut self.prepared, true) {
            for (at, variable) in self.variables.list.iter().enumerate() {
                if variable.early {
                    // Whoever uses it gets the error.
                    drop(self.variable(at));
                }
            }
        }
        let outcome = program.evaluate(self, PER_CALL_LIMIT);
        self.charge(self.spent.take())?;
        self.charge(outcome.cost)?;
        Ok(outcome
            .value
            .map_err(|error| format!("expression '{}' resulted in error: {error}", expression.text)))
    }

    fn charge(&mut self, cost: u64) -> Result<(), OutOfBudget> {
        let cost = i64::try_from(cost).unwrap_or(i64::MAX);
        if cost > self.budget {
            return Err(OutOfBudget);
        }
        self.budget -= cost;
        Ok(())
    }

    fn variable(&self, at: usize) -> Result<CelValue<'r>, EvalError> {
        if let Some(known) = &self.values.borrow()[at] {
            return known.clone();
        }
        let variable = &self.variables.list[at];
        let name = &variable.name;
        let value = match &variable.expression.program {
            Err(problem) => Err(EvalError::new(format!(
                "composited variable {name:?} fails to compile: {problem}"
            ))),
            Ok(program) => {
                let outcome = program.evaluate(self, PER_CALL_LIMIT);
                self.spent.set(self.spent.get().saturating_add(outcome.cost));
                outcome.value.map_err(|error| {
                    EvalError::new(format!("composited variable {name:?} fails to evaluate: {error}"))
                })
            }
        };
        self.values.borrow_mut()[at] = Some(value.clone());
        value
    }

    fn all_variables(&self) -> CelValue<'r> {
        let mut map = BTreeMap::new();
        for (at, variable) in self.variables.list.iter().enumerate() {
            if let Ok(value) = self.variable(at) {
                map.insert(Key::String(variable.name.as_str().into()), value);
            }
        }
        CelValue::Map(Map::from(map))
    }

    fn request_resource(&self) -> CelValue<'r> {
        let text = |pointer: &str| {
            let found = self.inputs.request.pointer(pointer);
            found.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let asked = Request {
            group: text("/requestResource/group"),
            resource: text("/requestResource/resource"),
            subresource: text("/requestSubResource"),
            namespace: text("/namespace"),
            name: text("/name"),
            ..Request::default()
        };
        CelValue::resource_check(self.inputs.authority, asked)
    }
}

impl<'r> Activation<'r> for Evaluator<'r> {
    fn resolve(&self, name: &str) -> Option<Result<CelValue<'r>, EvalError>> {
        let any = |value: Option<&'r Value>| Ok(value.map_or(CelValue::Null, CelValue::from_json));
        Some(match name {
            "object" => any(self.inputs.object),
            "oldObject" => any(self.inputs.old_object),
            "params" => any(self.inputs.params),
            "request" => CelValue::typed(self.inputs.request, request()),
            "namespaceObject" => match self.inputs.namespace {
                Some(value) => CelValue::typed(value, namespace()),
                None => Ok(CelValue::Null),
            },
            "authorizer" => Ok(CelValue::authorizer(self.inputs.authority)),
            "authorizer.requestResource" => Ok(self.request_resource()),
            "variables" => Ok(self.all_variables()),
            other => self.variable(self.variables.position(other.strip_prefix("variables.")?)?),
        })
    }
}
