//! What a mutation makes of an object.

use keelson_api::codec::json;
use keelson_api::gvk::GroupVersionKind;
use keelson_api::patch::apply::merge_configuration;
use keelson_api::patch::json_patch;
use keelson_api::schema::Schema;
use keelson_api::status::Status;
use keelson_cel::Value as CelValue;
use keelson_cel::limits::RUNTIME_COST_BUDGET;
use serde_json::{Value, json};

use super::source::{Mutation, Policy};
use crate::admission::Notes;
use crate::admission::expressions::{Evaluator, Inputs};
use crate::registry::options::FieldValidation;
use crate::registry::{KindSource, model};

/// Why a mutation came to nothing.
#[expect(clippy::large_enum_variant, reason = "made once per refused request")]
pub(super) enum MutationError {
    /// The failure policy decides.
    Failed(String),
    /// The request is refused.
    Refused(Status),
}

/// The value of a mutation's expression, as JSON.
pub(super) fn evaluate(policy: &Policy, mutation: &Mutation, inputs: &Inputs<'_>) -> Result<Value, String> {
    let expression = match mutation {
        Mutation::Apply(expression) | Mutation::Patch(expression) => expression,
    };
    if let Err(problem) = &expression.program {
        return Err(problem.clone());
    }
    let mut evaluator = Evaluator::new(inputs, &policy.variables, RUNTIME_COST_BUDGET);
    let value: CelValue<'_> = evaluator.run(expression).map_err(|e| e.to_string())??;
    value.to_json().map_err(|error| match mutation {
        Mutation::Apply(_) => format!("invalid return type: {error}"),
        Mutation::Patch(_) => {
            format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {error}")
        }
    })
}

/// The object after a mutation, defaulted.
pub(super) fn apply(
    kinds: &KindSource,
    kind: &GroupVersionKind,
    mutation: &Mutation,
    result: Value,
    object: &Value,
    notes: &Notes,
) -> Result<Value, MutationError> {
    let row = kinds.load().by_kind(kind);
    let custom = row.as_ref().filter(|row| row.traits.typed_items);
    let schema = match custom {
        Some(row) => Some(row.schema().map_err(MutationError::Refused)?),
        None => model::schema_of(kind),
    };
    let Some(schema) = schema else {
        return Err(MutationError::Refused(Status::service_unavailable(format!(
            "Resource kind {kind} not found. There can be a delay between when CustomResourceDefinitions are created and when they are available."
        ))));
    };
    let changed = match mutation {
        Mutation::Apply(_) => configured(schema, kind, result, object),
        Mutation::Patch(_) => patched(&result, object),
    };
    let changed = changed.map_err(MutationError::Failed)?;
    let internal = |status: Status| MutationError::Refused(Status::internal(status.message));
    let problems = if custom.is_some() {
        Vec::new()
    } else {
        json::unknown_fields(&changed, schema)
    };
    if !problems.is_empty() {
        return Err(internal(Status::internal(json::strict_error(&problems))));
    }
    model::finish_decode(kind, schema, changed, &[], FieldValidation::Ignore, notes).map_err(internal)
}

fn configured(
    schema: &Schema,
    kind: &GroupVersionKind,
    mut configuration: Value,
    object: &Value,
) -> Result<Value, String> {
    if !configuration.is_object() {
        return Err("unsupported return type from ApplyConfiguration expression".to_owned());
    }
    configuration["apiVersion"] = json!(kind.api_version());
    configuration["kind"] = json!(kind.kind);
    merge_configuration(schema, object, &configuration)
        .map_err(|error| format!("error applying patch: {error}"))
}

/// A patch whose `test` fails changes nothing.
fn patched(operations: &Value, object: &Value) -> Result<Value, String> {
    let mut operations = operations.as_array().cloned().unwrap_or_default();
    for operation in &mut operations {
        for field in ["op", "path"] {
            if operation[field].is_null() {
                operation[field] = json!("");
            }
        }
    }
    let attempt = |count: usize| {
        let mut document = object.clone();
        json_patch(&mut document, &Value::Array(operations[..count].to_vec())).map(|()| document)
    };
    match attempt(operations.len()) {
        Ok(document) => Ok(document),
        Err(status) => {
            // The first operation that does not apply.
            let (mut good, mut bad) = (0, operations.len());
            while bad - good > 1 {
                let middle = usize::midpoint(good, bad);
                if attempt(middle).is_ok() {
                    good = middle;
                } else {
                    bad = middle;
                }
            }
            match operations.get(good).map(|operation| &operation["op"]) {
                Some(op) if op == "test" => Ok(object.clone()),
                _ => Err(format!("JSONPath: {}", status.message)),
            }
        }
    }
}
