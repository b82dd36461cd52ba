//! The plugins.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::patch::json_patch;
use keelson_api::schema::Schema;
use keelson_api::status::Status;
use keelson_cel::limits::MATCH_CONDITIONS_COST_BUDGET;
use serde_json::{Value, json};

use super::call::{CallError, call};
use super::hook::{Connections, Hook, Hooks};
use super::review::{Verdict, describe};
use crate::admission::expressions::{Authority, Evaluator, Inputs, Judgement, VariableSet};
use crate::admission::matching::{Invocation, Matcher, convert, is_exempt};
use crate::admission::{Attributes, MutatingPlugin, Round, ValidatingPlugin};
use crate::authorization::Authorizer;
use crate::registry::options::FieldValidation;
use crate::registry::{KindSource, model};
use crate::resources::Resources;

/// What the plugins are made of.
pub(in crate::admission) struct Parts<'a> {
    /// Reads configurations and namespaces.
    pub(in crate::admission) resources: &'a Resources,
    /// What is served.
    pub(in crate::admission) kinds: &'a KindSource,
    /// How hooks are called.
    pub(in crate::admission) connections: &'a Connections,
    /// Asked by match conditions.
    pub(in crate::admission) authorizer: &'a Arc<dyn Authorizer>,
}

/// What both plugins have.
struct Dispatcher {
    hooks: Hooks,
    matcher: Matcher,
    authorizer: Arc<dyn Authorizer>,
}

impl Dispatcher {
    fn new(parts: &Parts<'_>, resource: &str) -> Self {
        let Parts {
            resources,
            kinds,
            connections,
            authorizer,
        } = parts;
        Self {
            hooks: Hooks::new(resources, resource, connections),
            matcher: Matcher {
                namespaces: resources.resource("", "namespaces"),
                kinds: (*kinds).clone(),
            },
            authorizer: (*authorizer).clone(),
        }
    }

    /// How the hook is asked about the request; `None` when it is not asked.
    async fn invocation(
        &self,
        hook: &Hook,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
    ) -> Result<Option<Invocation>, Status> {
        let invocation = self.matcher.invocation(&hook.criteria, attributes, object);
        let Some(invocation) = invocation.await? else {
            return Ok(None);
        };
        if !hook.conditions.any() {
            return Ok(Some(invocation));
        }
        match self.judge(hook, attributes, &invocation, object).await? {
            Judgement::Matches => Ok(Some(invocation)),
            Judgement::Differs => Ok(None),
            Judgement::Failed(error) => {
                tracing::warn!(
                    webhook = hook.name,
                    error,
                    "Failed evaluating match conditions, failing closed"
                );
                let resource = attributes.resource.group_resource();
                Err(Status::forbidden(&resource, attributes.name, error))
            }
        }
    }

    /// What the hook's match conditions say.
    async fn judge(
        &self,
        hook: &Hook,
        attributes: &Attributes<'_>,
        invocation: &Invocation,
        object: Option<&Value>,
    ) -> Result<Judgement, Status> {
        let versioned = |object: Option<&Value>| match (object, &invocation.conversion) {
            (Some(object), Some((from, to))) => convert(from, to, object).map(Some),
            _ => Ok(None),
        };
        let (new, old) = (versioned(object)?, versioned(attributes.old_object)?);
        let authority = Authority::new(self.authorizer.as_ref(), attributes.user);
        let request = describe(attributes, invocation);
        let inputs = Inputs {
            object: new.as_ref().or(object),
            old_object: old.as_ref().or(attributes.old_object),
            request: &request,
            namespace: None,
            params: None,
            authority: &authority,
        };
        let variables = VariableSet::default();
        loop {
            let judgement = {
                let mut evaluator = Evaluator::new(&inputs, &variables, MATCH_CONDITIONS_COST_BUDGET);
                hook.conditions.judge(&mut evaluator, hook.ignores_failure)
            };
            if !authority.settle().await {
                return Ok(judgement);
            }
        }
    }

    /// What a failed call means; `None` when the request goes on.
    fn failed(
        hook: &Hook,
        attributes: &Attributes<'_>,
        error: CallError,
        annotation: &str,
    ) -> Option<Status> {
        match error {
            CallError::Refused(status) => Some(status),
            CallError::Failed(reason) => {
                let text = format!("failed calling webhook {:?}: {reason}", hook.name);
                if !hook.ignores_failure {
                    tracing::warn!(
                        webhook = hook.name,
                        reason,
                        "Failed calling webhook, failing closed"
                    );
                    return Some(Status::internal(text));
                }
                tracing::warn!(
                    webhook = hook.name,
                    reason,
                    "Failed calling webhook, failing open"
                );
                let value = json!({"configuration": hook.configuration, "webhook": hook.name});
                attributes.notes.annotate(annotation, value.to_string());
                None
            }
        }
    }
}

/// MutatingAdmissionWebhook.
pub(in crate::admission) struct MutatingWebhook(Dispatcher);

/// What the first round leaves for the second.
#[derive(Default)]
struct Invoked {
    /// Hooks with `reinvocationPolicy: IfNeeded` that were called.
    reinvocable: HashSet<String>,
    /// Those of them after whose call the object was changed.
    again: HashSet<String>,
    /// The object after the last hook.
    output: Option<Value>,
}

impl MutatingWebhook {
    pub(in crate::admission) fn new(parts: &Parts<'_>) -> Self {
        Self(Dispatcher::new(parts, "mutatingwebhookconfigurations"))
    }

    /// Calls a hook and applies its patch; true when the object is another one now.
    async fn call(
        &self,
        hook: &Hook,
        invocation: &Invocation,
        attributes: &Attributes<'_>,
        object: &mut Option<&mut Value>,
    ) -> Result<bool, CallError> {
        let versioned = match (object.as_deref(), &invocation.conversion) {
            (Some(object), Some((from, to))) => Some(convert(from, to, object).map_err(CallError::Refused)?),
            _ => None,
        };
        let asked = versioned.as_ref().or(object.as_deref());
        let verdict = call(hook, attributes, invocation, asked, true).await?;
        let Some(mut patched) = self.patched(hook, attributes, invocation, asked, &verdict)? else {
            return Ok(false);
        };
        if let Some((from, to)) = &invocation.conversion {
            patched = convert(to, from, &patched).map_err(CallError::Refused)?;
        }
        let object = object
            .as_deref_mut()
            .expect("invariant: there is no patch without an object");
        let changed = *object != patched;
        *object = patched;
        Ok(changed)
    }

    /// The object after the verdict's patch, pruned and defaulted; `None` when there is no patch.
    fn patched(
        &self,
        hook: &Hook,
        attributes: &Attributes<'_>,
        invocation: &Invocation,
        object: Option<&Value>,
        verdict: &Verdict,
    ) -> Result<Option<Value>, CallError> {
        let Some(patch) = &verdict.patch else {
            return Ok(None);
        };
        let patch: Value = serde_json::from_slice(patch)
            .map_err(|e| CallError::Failed(format!("received undecodable patch in webhook response: {e}")))?;
        if patch.as_array().is_some_and(Vec::is_empty) {
            return Ok(None);
        }
        let Some(object) = object else {
            return Err(CallError::Refused(Status::internal(format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            ))));
        };
        let internal = |status: Status| CallError::Refused(Status::internal(status.message));
        let mut patched = object.clone();
        json_patch(&mut patched, &patch).map_err(internal)?;
        let kind = &invocation.kind;
        let row = self.0.matcher.kinds.load().by_kind(kind);
        let schema: Option<&Schema> = match &row {
            Some(row) if row.traits.typed_items => Some(row.schema().map_err(CallError::Refused)?),
            _ => model::schema_of(kind),
        };
        let Some(schema) = schema else {
            return Ok(Some(patched));
        };
        let validation = FieldValidation::Ignore;
        let finished = model::finish_decode(kind, schema, patched, &[], validation, attributes.notes);
        finished.map(Some).map_err(internal)
    }
}

#[async_trait]
impl MutatingPlugin for MutatingWebhook {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        !is_exempt(attributes) && !self.0.hooks.all().1.is_empty()
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), Status> {
        self.admit_in_round(attributes, object, &mut Round::default())
            .await
    }

    async fn admit_in_round(
        &self,
        attributes: &Attributes<'_>,
        mut object: Option<&mut Value>,
        round: &mut Round,
    ) -> Result<(), Status> {
        let mut invoked: Invoked = round.take(self.name()).unwrap_or_default();
        let again = round.is_reinvocation();
        if again && invoked.output.as_ref() != object.as_deref() {
            // Other plugins changed the object after the last hook.
            invoked.again.extend(invoked.reinvocable.drain());
        }
        let hooks = self.0.hooks.all();
        for (at, hook) in hooks.1.iter().enumerate() {
            if again && !invoked.again.remove(&hook.uid) {
                continue;
            }
            let invocation = self.0.invocation(hook, attributes, object.as_deref()).await?;
            let Some(invocation) = invocation else { continue };
            let result = self.call(hook, &invocation, attributes, &mut object).await;
            let place = format!("webhook.admission.k8s.io/round_{}_index_{at}", u8::from(again));
            let changed = match result {
                Ok(changed) => changed,
                Err(error) => {
                    let annotation = format!("failed-open.mutation.{place}");
                    if let Some(status) = Dispatcher::failed(hook, attributes, error, &annotation) {
                        return Err(status);
                    }
                    false
                }
            };
            let value =
                json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": changed});
            attributes
                .notes
                .annotate(format!("mutation.{place}"), value.to_string());
            if changed {
                invoked.again.extend(invoked.reinvocable.drain());
                round.require_reinvocation();
            }
            if hook.if_needed {
                invoked.reinvocable.insert(hook.uid.clone());
            }
        }
        invoked.output = object.as_deref().cloned();
        round.keep(self.name(), invoked);
        Ok(())
    }
}

/// ValidatingAdmissionWebhook.
pub(in crate::admission) struct ValidatingWebhook(Dispatcher);

impl ValidatingWebhook {
    pub(in crate::admission) fn new(parts: &Parts<'_>) -> Self {
        Self(Dispatcher::new(parts, "validatingwebhookconfigurations"))
    }

    async fn ask(
        &self,
        at: usize,
        hook: Arc<Hook>,
        invocation: Invocation,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
    ) -> Result<(), Status> {
        let versioned = match (object, &invocation.conversion) {
            (Some(object), Some((from, to))) => Some(convert(from, to, object)?),
            _ => None,
        };
        let asked = versioned.as_ref().or(object);
        let Err(error) = call(&hook, attributes, &invocation, asked, false).await else {
            return Ok(());
        };
        let annotation = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{at}");
        match Dispatcher::failed(&hook, attributes, error, &annotation) {
            Some(status) => Err(status),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl ValidatingPlugin for ValidatingWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        !is_exempt(attributes) && !self.0.hooks.all().1.is_empty()
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let hooks = self.0.hooks.all();
        let mut asked = Vec::new();
        for (at, hook) in hooks.1.iter().enumerate() {
            if let Some(invocation) = self.0.invocation(hook, attributes, object).await? {
                asked.push(self.ask(at, hook.clone(), invocation, attributes, object));
            }
        }
        // All are asked at once; the first refusal in their order is the answer.
        let answers = futures::future::join_all(asked).await;
        answers.into_iter().find(Result::is_err).unwrap_or(Ok(()))
    }
}
