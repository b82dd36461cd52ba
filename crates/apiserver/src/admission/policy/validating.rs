//! ValidatingAdmissionPolicy.

use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::gvk::GroupVersionKind;
use keelson_api::status::{Reason, Status};
use keelson_cel::Value as CelValue;
use keelson_cel::limits::{MATCH_CONDITIONS_COST_BUDGET, MAX_EVALUATED_MESSAGE_BYTES, RUNTIME_COST_BUDGET};
use serde_json::{Value, json};

use super::parameters::Parameters;
use super::source::{Binding, Hook, Policy, Source, Validation};
use crate::admission::expressions::{Authority, Evaluator, Inputs, Judgement};
use crate::admission::matching::{Invocation, Matcher, convert, is_exempt};
use crate::admission::object::forbidden;
use crate::admission::webhook::{Parts, describe};
use crate::admission::{Attributes, ValidatingPlugin};
use crate::authorization::Authorizer;
use crate::registry::Kind;

/// Longest value of an audit annotation, in bytes.
const MAX_ANNOTATION: usize = 10 * 1024;

/// What both kinds of policies are asked with.
pub(super) struct Dispatcher {
    pub(super) source: Source,
    pub(super) parameters: Parameters,
    pub(super) matcher: Matcher,
    pub(super) authorizer: Arc<dyn Authorizer>,
}

impl Dispatcher {
    /// `kind` is `validating` or `mutating`.
    pub(super) fn new(parts: &Parts<'_>, kind: &str) -> Self {
        Self {
            source: Source::new(parts.resources, kind),
            parameters: Parameters::new(parts.resources, parts.kinds),
            matcher: Matcher {
                namespaces: parts.resources.resource("", "namespaces"),
                kinds: parts.kinds.clone(),
            },
            authorizer: parts.authorizer.clone(),
        }
    }

    /// What `namespaceObject` is: the namespace that the object is in.
    pub(super) async fn namespace(&self, attributes: &Attributes<'_>) -> Result<Option<Value>, Status> {
        let itself = *attributes.kind == GroupVersionKind::new("", "v1", "Namespace");
        if attributes.namespace.is_empty() || itself {
            return Ok(None);
        }
        let namespace = self.matcher.namespace(attributes.namespace).await?;
        Ok(Some(namespace.value().as_ref().clone()))
    }

    /// Whether the binding is about the request, if its policy is.
    pub(super) async fn bound(
        &self,
        binding: &Binding,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
    ) -> Result<bool, Status> {
        match &binding.criteria {
            None => Ok(true),
            Some(criteria) => {
                let matched = self.matcher.invocation(criteria, attributes, object).await?;
                Ok(matched.is_some())
            }
        }
    }
}

/// The ValidatingAdmissionPolicy plugin.
pub(in crate::admission) struct ValidatingPolicies(Dispatcher);

/// A policy's no.
struct Denial {
    policy: String,
    binding: Option<String>,
    message: String,
    reason: String,
}

/// A validation that failed.
struct Failure {
    /// Its place.
    at: usize,
    message: String,
    reason: String,
}

/// What one evaluation says.
#[derive(Default)]
struct Verdict {
    failures: Vec<Failure>,
    /// Annotations for the audit.
    annotations: Vec<(String, String)>,
    /// Annotations that could not be computed and count.
    errors: Vec<String>,
}

/// What the evaluations of one policy share.
struct Asked<'a> {
    policy: &'a Policy,
    object: Option<&'a Value>,
    old_object: Option<&'a Value>,
    request: &'a Value,
    namespace: Option<&'a Value>,
    authority: &'a Authority<'a>,
}

/// All that policies refuse, in order; the first is the answer.
#[derive(Default)]
struct Denials(Vec<Denial>);

impl Denials {
    /// A policy or binding that cannot be asked counts as its failure policy says.
    fn misconfigured(&mut self, hook: &Hook, binding: Option<&Binding>, error: &str) {
        if hook.policy.ignores_failure {
            return;
        }
        let what = if binding.is_some() { "binding" } else { "policy" };
        self.0.push(Denial {
            policy: hook.name.clone(),
            binding: binding.map(|binding| binding.name.clone()),
            message: format!("failed to configure {what}: {error}"),
            reason: String::new(),
        });
    }
}

impl ValidatingPolicies {
    pub(in crate::admission) fn new(parts: &Parts<'_>) -> Self {
        Self(Dispatcher::new(parts, "validating"))
    }

    /// Asks one policy; what it refuses is added to the denials.
    async fn ask(
        &self,
        hook: &Hook,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        authority: &Authority<'_>,
        denials: &mut Denials,
    ) -> Result<(), Status> {
        let policy = &hook.policy;
        let matched = self.0.matcher.invocation(&policy.criteria, attributes, object);
        let prepared = match matched.await {
            Ok(Some(invocation)) => self.prepare(policy, invocation, attributes, object),
            Ok(None) => return Ok(()),
            Err(status) => Err(status.message),
        };
        let (invocation, kind, versioned) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                denials.misconfigured(hook, None, &error);
                return Ok(());
            }
        };
        let request = describe(attributes, &invocation);
        let namespace = self.0.namespace(attributes).await?;
        let asked = Asked {
            policy,
            object: versioned.new.as_ref().or(object),
            old_object: versioned.old.as_ref().or(attributes.old_object),
            request: &request,
            namespace: namespace.as_ref(),
            authority,
        };
        let mut annotations: Vec<(String, Vec<String>)> = Vec::new();
        for binding in &hook.bindings {
            let params = match self.0.bound(binding, attributes, object).await {
                Ok(false) => continue,
                Ok(true) => {
                    let reference = binding.param_ref.as_ref();
                    let collected = self
                        .0
                        .parameters
                        .collect(kind.as_ref(), reference, attributes.namespace);
                    collected.await
                }
                Err(status) => Err(status.message),
            };
            let params = match params {
                Ok(params) => params,
                Err(error) => {
                    denials.misconfigured(hook, Some(binding), &error);
                    continue;
                }
            };
            for param in &params {
                let verdict = asked.verdict(param.as_ref()).await;
                act(hook, binding, attributes, &verdict, denials);
                for (key, value) in verdict.annotations {
                    collect(&mut annotations, key, value);
                }
            }
        }
        for (key, values) in annotations {
            attributes
                .notes
                .annotate(format!("{}/{key}", hook.name), values.join(", "));
        }
        Ok(())
    }

    /// What a policy that matches needs before it can be asked.
    fn prepare(
        &self,
        policy: &Policy,
        invocation: Invocation,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
    ) -> Result<(Invocation, Option<Arc<Kind>>, Versioned), String> {
        let kind = self.0.parameters.kind(policy.param_kind.as_ref())?;
        let versioned = Versioned::of(&invocation, attributes, object);
        let versioned =
            versioned.map_err(|status| format!("failed to convert object version: {}", status.message))?;
        Ok((invocation, kind, versioned))
    }
}

/// Several evaluations can give one annotation different values; each is said once.
fn collect(annotations: &mut Vec<(String, Vec<String>)>, key: String, value: String) {
    match annotations.iter_mut().find(|(known, _)| *known == key) {
        Some((_, values)) if values.contains(&value) => {}
        Some((_, values)) => values.push(value),
        None => annotations.push((key, vec![value])),
    }
}

/// The objects in the version that a policy wants, where it is another one than the request's.
pub(super) struct Versioned {
    pub(super) new: Option<Value>,
    pub(super) old: Option<Value>,
}

impl Versioned {
    pub(super) fn of(
        invocation: &Invocation,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
    ) -> Result<Self, Status> {
        let versioned = |object: Option<&Value>| match (object, &invocation.conversion) {
            (Some(object), Some((from, to))) => convert(from, to, object).map(Some),
            _ => Ok(None),
        };
        Ok(Self {
            new: versioned(object)?,
            old: versioned(attributes.old_object)?,
        })
    }
}

impl Asked<'_> {
    /// Evaluates everything for one parameter.
    async fn verdict(&self, params: Option<&Value>) -> Verdict {
        let inputs = Inputs {
            object: self.object,
            old_object: self.old_object,
            request: self.request,
            namespace: self.namespace,
            params,
            authority: self.authority,
        };
        loop {
            let verdict = judge(self.policy, &inputs);
            if !self.authority.settle().await {
                return verdict;
            }
        }
    }
}

/// Evaluates a policy for one parameter.
fn judge(policy: &Policy, inputs: &Inputs<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let ignore = policy.ignores_failure;
    let failed = |at: usize, message: String| {
        let failure = Failure {
            at,
            message,
            reason: String::new(),
        };
        Some(failure).filter(|_| !ignore)
    };
    let mut evaluator = Evaluator::new(inputs, &policy.variables, MATCH_CONDITIONS_COST_BUDGET);
    match policy.conditions.judge(&mut evaluator, ignore) {
        Judgement::Matches => {}
        Judgement::Differs => return verdict,
        Judgement::Failed(error) => {
            verdict.failures.extend(failed(0, error));
            return verdict;
        }
    }
    evaluator.set_budget(RUNTIME_COST_BUDGET);
    let mut results = Vec::with_capacity(policy.validations.len());
    for validation in &policy.validations {
        match evaluator.run(&validation.expression) {
            Ok(result) => results.push(result),
            Err(error) => {
                verdict.failures.extend(failed(0, error.to_string()));
                return verdict;
            }
        }
    }
    let mut broke = None;
    for (at, (validation, result)) in policy.validations.iter().zip(results).enumerate() {
        match result {
            Ok(CelValue::Bool(true)) => {}
            Err(error) => verdict.failures.extend(failed(at, error)),
            Ok(_) => match message(validation, &mut evaluator, &mut broke) {
                Ok(message) => verdict.failures.push(Failure {
                    at,
                    message,
                    reason: validation.reason.clone(),
                }),
                Err(error) => verdict.failures.extend(failed(at, error)),
            },
        }
    }
    evaluator.set_budget(RUNTIME_COST_BUDGET);
    for annotation in &policy.annotations {
        let error = match evaluator.run(&annotation.expression) {
            Ok(Ok(CelValue::String(text))) => {
                let text = text.trim();
                let mut ends = (0..=MAX_ANNOTATION.min(text.len())).rev();
                let end = ends.find(|end| text.is_char_boundary(*end));
                let value = text[..end.unwrap_or(0)].to_owned();
                if !value.is_empty() {
                    verdict.annotations.push((annotation.key.clone(), value));
                }
                continue;
            }
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => error,
            Err(error) => {
                verdict.failures = failed(0, error.to_string()).into_iter().collect();
                verdict.annotations.clear();
                return verdict;
            }
        };
        if !ignore {
            verdict.errors.push(error);
        }
    }
    verdict
}

/// What a validation that failed says. The error is that there was no budget left to say it.
fn message<'r>(
    validation: &'r Validation,
    evaluator: &mut Evaluator<'r>,
    broke: &mut Option<String>,
) -> Result<String, String> {
    if let Some(error) = broke {
        return Err(error.clone());
    }
    if let Some(expression) = &validation.message_expression {
        match evaluator.run(expression) {
            Err(error) => {
                let error = format!("failed messageExpression: {error}");
                *broke = Some(error.clone());
                return Err(error);
            }
            Ok(Ok(CelValue::String(text))) => {
                let text = text.trim();
                if !text.is_empty() && text.len() <= MAX_EVALUATED_MESSAGE_BYTES && !text.contains('\n') {
                    return Ok(text.to_owned());
                }
            }
            // The other messages stand in.
            Ok(_) => {}
        }
    }
    Ok(if validation.message.is_empty() {
        format!("failed expression: {}", validation.expression.text.trim())
    } else {
        validation.message.clone()
    })
}

/// Carries out a binding's actions.
fn act(
    hook: &Hook,
    binding: &Binding,
    attributes: &Attributes<'_>,
    verdict: &Verdict,
    denials: &mut Denials,
) {
    let denial = |message: &str, reason: &str| Denial {
        policy: hook.name.clone(),
        binding: Some(binding.name.clone()),
        message: message.to_owned(),
        reason: reason.to_owned(),
    };
    for failure in &verdict.failures {
        let Failure { at, message, reason } = failure;
        for action in &binding.actions {
            match action.as_str() {
                "Deny" => denials.0.push(denial(message, reason)),
                "Warn" => attributes.notes.warn(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {message}",
                    hook.name, binding.name
                )),
                "Audit" => {
                    let value = json!([{"message": message, "policy": hook.name, "binding": binding.name,
                        "expressionIndex": at, "validationActions": binding.actions}]);
                    let key = "validation.policy.admission.k8s.io/validation_failure";
                    attributes.notes.annotate(key, value.to_string());
                }
                _ => {}
            }
        }
    }
    for error in &verdict.errors {
        denials.0.push(denial(error, ""));
    }
}

#[async_trait]
impl ValidatingPlugin for ValidatingPolicies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        self.0.source.any() && !is_exempt(attributes)
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let hooks = self.0.source.hooks();
        let authority = Authority::new(self.0.authorizer.as_ref(), attributes.user);
        let mut denials = Denials::default();
        for hook in &hooks.1 {
            self.ask(hook, attributes, object, &authority, &mut denials)
                .await?;
        }
        match denials.0.first() {
            None => Ok(()),
            Some(denial) => Err(denial.status(attributes, object)),
        }
    }
}

impl Denial {
    fn status(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Status {
        let by = match &self.binding {
            Some(binding) => format!("'{}' with binding '{binding}'", self.policy),
            None => format!("'{}'", self.policy),
        };
        let message = format!("ValidatingAdmissionPolicy {by} denied request: {}", self.message);
        let mut status = forbidden(attributes, object, &message).with_cause("", message, "");
        (status.code, status.reason) = match self.reason.as_str() {
            "Forbidden" => (403, Reason::Forbidden),
            "Unauthorized" => (401, Reason::Unauthorized),
            "RequestEntityTooLarge" => (413, Reason::RequestEntityTooLarge),
            _ => (422, Reason::Invalid),
        };
        status
    }
}
