//! Runs the rules of a definition over an object. Errors about what has not changed are warnings (ratcheting), unless the
//! rule compares with the old object.

use keelson_api::field::{Error, ErrorList, Path};
use keelson_cel::limits::{MAX_EVALUATED_MESSAGE_BYTES, PER_CALL_LIMIT, RUNTIME_COST_BUDGET};
use keelson_cel::{EvalError, Program, Value as CelValue, Variables};
use serde_json::Value;

use super::rules::{FieldStep, Rule, RuleNode};
use crate::admission::Notes;

/// Evaluates all rules; says what is wrong.
pub(super) fn evaluate(node: &RuleNode, new: &Value, old: Option<&Value>, notes: &Notes) -> ErrorList {
    let mut run = Run {
        budget: RUNTIME_COST_BUDGET,
        errors: Vec::new(),
        notes,
    };
    let unchanged = old.is_some_and(|old| old == new);
    // Running out of budget ends the evaluation; the error is recorded.
    let _ended = run.visit(node, &Path::root(), new, old, unchanged);
    run.errors
}

/// The evaluation ends.
struct Stop;

struct Run<'n> {
    budget: i64,
    errors: ErrorList,
    notes: &'n Notes,
}

const NO_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

impl Run<'_> {
    /// `unchanged` says that the value, or the nearest part around it that can be compared, is as it was.
    fn visit(
        &mut self,
        node: &RuleNode,
        path: &Path,
        new: &Value,
        old: Option<&Value>,
        unchanged: bool,
    ) -> Result<(), Stop> {
        if new.is_null() {
            return Ok(());
        }
        for rule in &node.rules {
            self.rule(node, rule, path, new, old, unchanged)?;
        }
        match new {
            Value::Object(map) => {
                for (name, value) in map {
                    let before = old.and_then(|old| old.get(name));
                    let same = before.map_or(unchanged, |before| before == value);
                    if let Some(sub) = node.properties.get(name) {
                        self.visit(sub, &path.child_owned(name.as_str()), value, before, same)?;
                    }
                    if let Some(sub) = &node.values {
                        self.visit(sub, &path.key(name.as_str()), value, before, same)?;
                    }
                }
            }
            Value::Array(items) => {
                if let Some(sub) = &node.items {
                    for (at, item) in items.iter().enumerate() {
                        let before = correlated(node, old, item);
                        let same = before.map_or(unchanged, |before| before == item);
                        self.visit(sub, &path.index(at), item, before, same)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn rule(
        &mut self,
        node: &RuleNode,
        rule: &Rule,
        path: &Path,
        new: &Value,
        old: Option<&Value>,
        unchanged: bool,
    ) -> Result<(), Stop> {
        let invalid = |detail: String| Error::invalid(path, node.type_name.as_str(), detail);
        let program = match &rule.program {
            Ok(program) => program,
            Err(error) => {
                self.errors.push(invalid(format!("rule compile error: {error}")));
                return Ok(());
            }
        };
        if rule.uses_old_self && old.is_none() && !rule.optional_old_self {
            return Ok(());
        }
        let variables = match variables(node, rule, new, old) {
            Ok(variables) => variables,
            Err(error) => {
                self.errors
                    .push(invalid(format!("{error} evaluating rule: {}", rule.shown())));
                return Ok(());
            }
        };
        let outcome = program.evaluate(&variables, PER_CALL_LIMIT);
        self.charge(outcome.cost, || invalid(NO_BUDGET.to_owned()))?;
        let detail = match outcome.value {
            Ok(CelValue::Bool(true)) => return Ok(()),
            Ok(_) => self.message(node, rule, path, &variables)?,
            Err(error @ EvalError::CostLimit) => {
                let shown = rule.shown();
                self.errors.push(invalid(format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}"
                )));
                return Err(Stop);
            }
            Err(error) => {
                let (text, shown) = (error.to_string(), rule.shown());
                self.errors.push(invalid(if text.starts_with("no such overload") {
                    format!(
                        "'{text}': call arguments did not match a supported operator, function or macro signature for rule: {shown}"
                    )
                } else {
                    format!("{text} evaluating rule: {shown}")
                }));
                return Ok(());
            }
        };
        let mut at = path.clone();
        for step in &rule.field_path {
            at = match step {
                FieldStep::Child(name) => at.child_owned(name.as_str()),
                FieldStep::Key(name) => at.key(name.as_str()),
            };
        }
        let error = match rule.reason.as_deref() {
            Some("FieldValueForbidden") => Error::forbidden(&at, detail),
            Some("FieldValueRequired") => Error::required(&at, detail),
            Some("FieldValueDuplicate") => Error::duplicate(&at, node.type_name.as_str()),
            _ => Error::invalid(&at, node.type_name.as_str(), detail),
        };
        if unchanged && !rule.uses_old_self {
            self.notes.warn(format!("{at}: {}", error.body()));
        } else {
            self.errors.push(error);
        }
        Ok(())
    }

    fn charge(&mut self, cost: u64, error: impl FnOnce() -> Error) -> Result<(), Stop> {
        self.budget = self
            .budget
            .saturating_sub(i64::try_from(cost).unwrap_or(i64::MAX));
        if self.budget < 0 {
            self.errors.push(error());
            return Err(Stop);
        }
        Ok(())
    }

    /// What a failed rule says.
    fn message(
        &mut self,
        node: &RuleNode,
        rule: &Rule,
        path: &Path,
        variables: &Variables<'_>,
    ) -> Result<String, Stop> {
        if let Some(Ok(program)) = &rule.message_program
            && let Some(message) = self.expressed(program, node, path, variables)?
        {
            return Ok(message);
        }
        Ok(if rule.message.trim().is_empty() {
            format!("failed rule: {}", rule.text.trim())
        } else {
            rule.message.trim().to_owned()
        })
    }

    /// The text of a messageExpression, if it gives one that may be shown.
    fn expressed(
        &mut self,
        program: &Program,
        node: &RuleNode,
        path: &Path,
        variables: &Variables<'_>,
    ) -> Result<Option<String>, Stop> {
        let outcome = program.evaluate(variables, PER_CALL_LIMIT);
        self.charge(outcome.cost, || {
            let why = "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run";
            Error::invalid(path, node.type_name.as_str(), why)
        })?;
        Ok(match outcome.value {
            Ok(CelValue::String(text)) => {
                let text = text.trim();
                let fits =
                    !text.is_empty() && !text.contains('\n') && text.len() <= MAX_EVALUATED_MESSAGE_BYTES;
                fits.then(|| text.to_owned())
            }
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(%error, "messageExpression evaluation failed");
                None
            }
        })
    }
}

fn variables<'a>(
    node: &'a RuleNode,
    rule: &Rule,
    new: &'a Value,
    old: Option<&'a Value>,
) -> Result<Variables<'a>, EvalError> {
    let mut variables = Variables(vec![("self", CelValue::typed(new, &node.decl)?)]);
    if rule.uses_old_self {
        let before = old.map(|old| CelValue::typed(old, &node.decl)).transpose()?;
        let before = match (rule.optional_old_self, before) {
            (true, Some(before)) => CelValue::some(before),
            (true, None) | (false, None) => CelValue::Optional(None),
            (false, Some(before)) => before,
        };
        variables.0.push(("oldSelf", before));
    }
    Ok(variables)
}

/// The old element that an element of a keyed list corresponds to.
pub(super) fn correlated_by<'a>(keys: &[String], old: Option<&'a Value>, item: &Value) -> Option<&'a Value> {
    let same = |before: &&Value| keys.iter().all(|key| before.get(key) == item.get(key));
    old?.as_array()?.iter().find(same)
}

fn correlated<'a>(node: &RuleNode, old: Option<&'a Value>, item: &Value) -> Option<&'a Value> {
    correlated_by(node.list_keys.as_deref()?, old, item)
}
