//! `matchConditions`: the last word on whether a webhook or a policy is about a request.

use keelson_cel::Value as CelValue;
use serde_json::Value;

use super::environment::{Surroundings, environment};
use super::evaluation::Evaluator;
use super::expression::{Compiler, Expression, Returns};

/// The compiled conditions of a webhook or a policy.
#[derive(Debug, Default)]
pub(in crate::admission) struct Conditions {
    source: Value,
    expressions: Vec<Expression>,
}

/// What conditions say.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::admission) enum Judgement {
    /// All are true.
    Matches,
    /// One is false, or could not be evaluated where failures are ignored.
    Differs,
    /// Some could not be evaluated, and failures count.
    Failed(String),
}

impl Conditions {
    /// Compiles a list of conditions.
    pub(in crate::admission) fn of(list: &Value, params: bool) -> Self {
        let surroundings = Surroundings {
            params,
            authorizer: true,
            patches: false,
        };
        let given = list.as_array().map(Vec::as_slice).unwrap_or_default();
        if given.is_empty() {
            return Self::default();
        }
        let compiler = Compiler::new(environment(surroundings, None, None));
        let compile = |condition: &Value| {
            let text = condition["expression"].as_str().unwrap_or_default();
            compiler.compile(text, Returns::Bool)
        };
        Self {
            source: list.clone(),
            expressions: given.iter().map(compile).collect(),
        }
    }

    /// Whether they are compiled from this list.
    pub(in crate::admission) fn are_of(&self, list: &Value) -> bool {
        self.source == *list
    }

    /// Whether there is any.
    pub(in crate::admission) fn any(&self) -> bool {
        !self.expressions.is_empty()
    }

    /// Judges a request. False beats errors, which count as the failure policy says.
    pub(in crate::admission) fn judge<'r>(
        &'r self,
        evaluator: &mut Evaluator<'r>,
        ignore_failure: bool,
    ) -> Judgement {
        let mut errors = Vec::new();
        let mut differs = false;
        for expression in &self.expressions {
            match evaluator.run(expression) {
                Err(error) => {
                    errors = vec![error.to_string()];
                    differs = false;
                    break;
                }
                Ok(Ok(CelValue::Bool(true))) => {}
                Ok(Ok(_)) => differs = true,
                Ok(Err(error)) => errors.push(error),
            }
        }
        if differs {
            return Judgement::Differs;
        }
        match errors.as_slice() {
            [] => Judgement::Matches,
            _ if ignore_failure => Judgement::Differs,
            [error] => Judgement::Failed(error.clone()),
            errors => Judgement::Failed(format!("[{}]", errors.join(", "))),
        }
    }
}
