//! MutatingAdmissionPolicy.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::status::{Reason, Status};
use keelson_cel::limits::MATCH_CONDITIONS_COST_BUDGET;
use serde_json::Value;

use super::parameters::Parameter;
use super::patches::{self, MutationError};
use super::source::{Binding, Hook, Mutation, Policy};
use super::validating::{Dispatcher, Versioned};
use crate::admission::expressions::{Authority, Evaluator, Inputs, Judgement};
use crate::admission::matching::{Invocation, convert, is_exempt};
use crate::admission::object::{forbidden, text};
use crate::admission::webhook::{Parts, describe};
use crate::admission::{Attributes, MutatingPlugin, Round};
use crate::registry::Kind;

/// The MutatingAdmissionPolicy plugin.
pub(in crate::admission) struct MutatingPolicies(Dispatcher);

/// Policy, binding, and namespace and name of the parameter.
type CallKey = (String, String, String, String);

/// What the first round leaves for the second.
#[derive(Default)]
struct Invoked {
    /// Calls with `reinvocationPolicy: IfNeeded`.
    reinvocable: HashSet<CallKey>,
    /// Those of them after which the object was changed.
    again: HashSet<CallKey>,
    /// The object after the last policy.
    output: Option<Value>,
}

/// One evaluation of a policy: with one binding and one parameter.
struct Call<'h> {
    hook: &'h Hook,
    binding: &'h Binding,
    invocation: Arc<Invocation>,
    param: Parameter,
}

impl Call<'_> {
    fn key(&self) -> CallKey {
        let of_param = |pointer| self.param.as_ref().map_or("", |param| text(param, pointer));
        (
            self.hook.name.clone(),
            self.binding.name.clone(),
            of_param("/metadata/namespace").to_owned(),
            of_param("/metadata/name").to_owned(),
        )
    }
}

/// What went wrong with policies whose failures count.
#[derive(Default)]
struct Errors(Vec<(String, Reason)>);

impl Errors {
    fn add(&mut self, hook: &Hook, binding: Option<&Binding>, message: &str, reason: Reason) {
        if hook.policy.ignores_failure {
            return;
        }
        let by = match binding {
            Some(binding) => format!("policy '{}' with binding '{}'", hook.name, binding.name),
            None => format!("policy {:?}", hook.name),
        };
        self.0.push((format!("{by} denied request: {message}"), reason));
    }

    fn misconfigured(&mut self, hook: &Hook, binding: Option<&Binding>, error: &str) {
        let what = if binding.is_some() { "binding" } else { "policy" };
        let message = format!("failed to configure {what}: {error}");
        self.add(hook, binding, &message, Reason::Unknown);
    }

    /// The refusal that they are, with all of them as its causes.
    fn status(self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some((message, reason)) = self.0.first().cloned() else {
            return Ok(());
        };
        let mut status = forbidden(attributes, object, "");
        status.message = message;
        if !reason.is_unknown() {
            status.reason = reason;
        }
        for (message, _) in self.0 {
            status = status.with_cause("", message, "");
        }
        Err(status)
    }
}

impl MutatingPolicies {
    pub(in crate::admission) fn new(parts: &Parts<'_>) -> Self {
        Self(Dispatcher::new(parts, "mutating"))
    }

    /// The evaluations that a request needs.
    async fn calls<'h>(
        &self,
        hooks: &'h [Arc<Hook>],
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        errors: &mut Errors,
    ) -> Vec<Call<'h>> {
        let mut calls = Vec::new();
        for hook in hooks {
            let policy = &hook.policy;
            let matched = self.0.matcher.invocation(&policy.criteria, attributes, object);
            let invocation = match matched.await {
                Ok(Some(invocation)) => Arc::new(invocation),
                Ok(None) => continue,
                Err(status) => {
                    errors.misconfigured(hook, None, &status.message);
                    continue;
                }
            };
            let kind = match self.0.parameters.kind(policy.param_kind.as_ref()) {
                Ok(kind) => kind,
                Err(error) => {
                    errors.misconfigured(hook, None, &error);
                    continue;
                }
            };
            for binding in &hook.bindings {
                match self.params(binding, kind.as_ref(), attributes, object).await {
                    Ok(params) => calls.extend(params.into_iter().map(|param| Call {
                        hook,
                        binding,
                        invocation: Arc::clone(&invocation),
                        param,
                    })),
                    Err(error) => errors.misconfigured(hook, Some(binding), &error),
                }
            }
        }
        calls
    }

    /// The parameters of a binding; none when it is not about the request.
    async fn params(
        &self,
        binding: &Binding,
        kind: Option<&Arc<Kind>>,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
    ) -> Result<Vec<Parameter>, String> {
        match self.0.bound(binding, attributes, object).await {
            Ok(true) => {
                let reference = binding.param_ref.as_ref();
                let namespace = attributes.namespace;
                self.0.parameters.collect(kind, reference, namespace).await
            }
            Ok(false) => Ok(Vec::new()),
            Err(status) => Err(status.message),
        }
    }

    /// Carries out one evaluation; says whether its conditions held.
    async fn call(
        &self,
        call: &Call<'_>,
        attributes: &Attributes<'_>,
        namespace: Option<&Value>,
        object: &mut Value,
        errors: &mut Errors,
    ) -> Result<bool, Status> {
        let policy = &call.hook.policy;
        let authority = Authority::new(self.0.authorizer.as_ref(), attributes.user);
        let request = describe(attributes, &call.invocation);
        let versioned = Versioned::of(&call.invocation, attributes, Some(object))?;
        let mut current = versioned.new.unwrap_or_else(|| object.clone());
        let old_object = versioned.old.as_ref().or(attributes.old_object);
        let around = Around {
            old_object,
            request: &request,
            namespace,
            params: call.param.as_ref(),
            authority: &authority,
        };
        let conditions = around.judge(policy, &current).await;
        match conditions {
            Judgement::Matches => {}
            Judgement::Differs => return Ok(false),
            Judgement::Failed(error) => {
                errors.add(call.hook, Some(call.binding), &error, Reason::Invalid);
                return Ok(false);
            }
        }
        let kinds = &self.0.matcher.kinds;
        for mutation in &policy.mutations {
            let result = around.evaluate(policy, mutation, &current).await;
            let changed = result.map_err(MutationError::Failed).and_then(|result| {
                let (kind, notes) = (&call.invocation.kind, attributes.notes);
                patches::apply(kinds, kind, mutation, result, &current, notes)
            });
            match changed {
                Ok(changed) => current = changed,
                Err(MutationError::Refused(status)) => return Err(status),
                Err(MutationError::Failed(error)) => {
                    errors.add(call.hook, Some(call.binding), &error, Reason::Invalid);
                }
            }
        }
        *object = match &call.invocation.conversion {
            Some((from, to)) => convert(to, from, &current)?,
            None => current,
        };
        Ok(true)
    }
}

/// What stays the same while mutations change the object.
struct Around<'a> {
    old_object: Option<&'a Value>,
    request: &'a Value,
    namespace: Option<&'a Value>,
    params: Option<&'a Value>,
    authority: &'a Authority<'a>,
}

impl Around<'_> {
    fn inputs<'b>(&'b self, object: &'b Value) -> Inputs<'b> {
        Inputs {
            object: Some(object),
            old_object: self.old_object,
            request: self.request,
            namespace: self.namespace,
            params: self.params,
            authority: self.authority,
        }
    }

    async fn judge(&self, policy: &Policy, object: &Value) -> Judgement {
        loop {
            let judgement = {
                let inputs = self.inputs(object);
                let mut evaluator = Evaluator::new(&inputs, &policy.variables, MATCH_CONDITIONS_COST_BUDGET);
                policy.conditions.judge(&mut evaluator, policy.ignores_failure)
            };
            if !self.authority.settle().await {
                return judgement;
            }
        }
    }

    async fn evaluate(&self, policy: &Policy, mutation: &Mutation, object: &Value) -> Result<Value, String> {
        loop {
            let result = patches::evaluate(policy, mutation, &self.inputs(object));
            if !self.authority.settle().await {
                return result;
            }
        }
    }
}

#[async_trait]
impl MutatingPlugin for MutatingPolicies {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        self.0.source.any() && !is_exempt(attributes)
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), Status> {
        self.admit_in_round(attributes, object, &mut Round::default())
            .await
    }

    async fn admit_in_round(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        round: &mut Round,
    ) -> Result<(), Status> {
        // There is nothing to change in a deletion.
        let Some(object) = object else { return Ok(()) };
        let hooks = self.0.source.hooks();
        let mut errors = Errors::default();
        let calls = self.calls(&hooks.1, attributes, Some(object), &mut errors).await;
        if calls.is_empty() {
            return errors.status(attributes, Some(object));
        }
        let mut invoked: Invoked = round.take(self.name()).unwrap_or_default();
        let again = round.is_reinvocation();
        if again && invoked.output.as_ref() != Some(object) {
            // Other plugins changed the object after the last policy.
            invoked.again.extend(invoked.reinvocable.drain());
        }
        let namespace = self.0.namespace(attributes).await?;
        for call in &calls {
            let key = call.key();
            if again && !invoked.again.contains(&key) {
                continue;
            }
            let before = object.clone();
            let called = self.call(call, attributes, namespace.as_ref(), object, &mut errors);
            if !called.await? {
                continue;
            }
            if *object != before {
                invoked.again.extend(invoked.reinvocable.drain());
                round.require_reinvocation();
            }
            if call.hook.policy.if_needed {
                invoked.reinvocable.insert(key);
            }
        }
        invoked.output = Some(object.clone());
        round.keep(self.name(), invoked);
        errors.status(attributes, Some(object))
    }
}
