//! The authorizer: expressions may ask whether somebody may do something.

use std::fmt;
use std::sync::Arc;

use super::Outcome;
use super::strings::text;
use crate::error::EvalError;
use crate::value::{Extension, Value};

/// Decides requests. It must not block: it answers from what is in memory.
pub trait Authorizer: Send + Sync {
    /// Whether the request is allowed.
    fn decide(&self, request: &Request) -> Decision;
}

/// What is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Namespace and name of the service account that asks instead of the request's user.
    pub service_account: Option<(String, String)>,
    /// The verb.
    pub verb: String,
    /// The path of a request that is for no resource.
    pub path: Option<String>,
    /// The API group.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// The subresource, or nothing.
    pub subresource: String,
    /// The namespace, or nothing.
    pub namespace: String,
    /// The name, or nothing.
    pub name: String,
    /// The field selector, or nothing.
    pub field_selector: String,
    /// The label selector, or nothing.
    pub label_selector: String,
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong when deciding.
    pub error: Option<String>,
}

/// A value on the way from the authorizer to a decision.
#[derive(Clone)]
pub struct Authorization<'a> {
    authorizer: &'a dyn Authorizer,
    stage: Stage,
    request: Arc<Request>,
    decision: Option<Arc<Decision>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Authorizer,
    Path,
    Group,
    Resource,
    Decision,
}

impl fmt::Debug for Authorization<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization")
            .field("stage", &self.stage)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

impl Authorization<'_> {
    pub(crate) fn type_name(&self) -> &'static str {
        match self.stage {
            Stage::Authorizer => "kubernetes.authorization.Authorizer",
            Stage::Path => "kubernetes.authorization.PathCheck",
            Stage::Group => "kubernetes.authorization.GroupCheck",
            Stage::Resource => "kubernetes.authorization.ResourceCheck",
            Stage::Decision => "kubernetes.authorization.Decision",
        }
    }
}

impl<'a> Value<'a> {
    /// The authorizer as a value.
    pub fn authorizer(authorizer: &'a dyn Authorizer) -> Self {
        Self::Extension(Extension::Authorization(Authorization {
            authorizer,
            stage: Stage::Authorizer,
            request: Arc::default(),
            decision: None,
        }))
    }

    /// A check of one resource as a value; the verb is still to come.
    pub fn resource_check(authorizer: &'a dyn Authorizer, request: Request) -> Self {
        Self::Extension(Extension::Authorization(Authorization {
            authorizer,
            stage: Stage::Resource,
            request: Arc::new(request),
            decision: None,
        }))
    }
}

fn step<'a>(
    args: &[Value<'a>],
    from: Stage,
    to: Stage,
    change: impl FnOnce(&mut Request, &str),
) -> Outcome<'a> {
    match args {
        [
            Value::Extension(Extension::Authorization(current)),
            Value::String(text),
        ] if current.stage == from => {
            let mut next = current.clone();
            next.stage = to;
            change(Arc::make_mut(&mut next.request), text);
            Ok(Value::Extension(Extension::Authorization(next)))
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `authorizer.path(s)`
pub(super) fn path<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    if text(args, 1)?.is_empty() {
        return Err(EvalError::new("path must not be empty"));
    }
    step(args, Stage::Authorizer, Stage::Path, |request, text| {
        request.path = Some(text.to_owned());
    })
}

/// `authorizer.group(s)`
pub(super) fn group<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    step(args, Stage::Authorizer, Stage::Group, |request, text| {
        text.clone_into(&mut request.group)
    })
}

/// `authorizer.serviceAccount(namespace, name)`
pub(super) fn service_account<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (namespace, name) = (text(args, 1)?.to_string(), text(args, 2)?.to_string());
    let problems = keelson_api::names::dns1123_subdomain(&name);
    if !problems.is_empty() {
        return Err(EvalError::new(format!("Invalid service account name: {name}")));
    }
    step(&args[..2], Stage::Authorizer, Stage::Authorizer, |request, _| {
        request.service_account = Some((namespace, name));
    })
}

/// `group.resource(s)`
pub(super) fn resource<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    step(args, Stage::Group, Stage::Resource, |request, text| {
        text.clone_into(&mut request.resource)
    })
}

/// `resource.subresource(s)`
pub(super) fn subresource<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    step(args, Stage::Resource, Stage::Resource, |request, text| {
        text.clone_into(&mut request.subresource);
    })
}

/// `resource.namespace(s)`
pub(super) fn namespace<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    step(args, Stage::Resource, Stage::Resource, |request, text| {
        text.clone_into(&mut request.namespace)
    })
}

/// `resource.name(s)`
pub(super) fn name<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    step(args, Stage::Resource, Stage::Resource, |request, text| {
        text.clone_into(&mut request.name)
    })
}

/// `resource.fieldSelector(s)`
pub(super) fn field_selector<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    step(args, Stage::Resource, Stage::Resource, |request, text| {
        text.clone_into(&mut request.field_selector);
    })
}

/// `resource.labelSelector(s)`
pub(super) fn label_selector<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    step(args, Stage::Resource, Stage::Resource, |request, text| {
        text.clone_into(&mut request.label_selector);
    })
}

/// `path.check(verb)` and `resource.check(verb)`
pub(super) fn check<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let Some(Value::Extension(Extension::Authorization(current))) = args.first() else {
        return Err(EvalError::no_such_overload());
    };
    if !matches!(current.stage, Stage::Path | Stage::Resource) {
        return Err(EvalError::no_such_overload());
    }
    let mut next = current.clone();
    text(args, 1)?
        .to_string()
        .clone_into(&mut Arc::make_mut(&mut next.request).verb);
    next.stage = Stage::Decision;
    next.decision = Some(Arc::new(next.authorizer.decide(&next.request)));
    Ok(Value::Extension(Extension::Authorization(next)))
}

fn decision<'v>(args: &'v [Value<'_>]) -> Result<&'v Decision, EvalError> {
    match args {
        [
            Value::Extension(Extension::Authorization(Authorization {
                decision: Some(decision),
                ..
            })),
        ] => Ok(decision),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `decision.errored()`
pub(super) fn errored<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(decision(args)?.error.is_some()))
}

/// `decision.error()`
pub(super) fn error<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(decision(args)?.error.clone().unwrap_or_default()))
}

/// `decision.allowed()`
pub(super) fn allowed<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(decision(args)?.allowed))
}

/// `decision.reason()`
pub(super) fn reason<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(decision(args)?.reason.clone()))
}
