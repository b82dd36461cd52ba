//! What an admission plugin is.

use std::any::Any;
use std::collections::HashMap;

use async_trait::async_trait;
use keelson_api::gvk::{GroupVersionKind, GroupVersionResource};
use keelson_api::status::Status;
use parking_lot::Mutex;
use serde_json::Value;

use crate::user::UserInfo;

/// What the request does to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change, by PUT, PATCH or a subresource.
    Update,
    /// A deletion; `old_object` is what is deleted.
    Delete,
    /// A stream (exec, attach, portforward, proxy); `object` is the options.
    Connect,
}

impl Operation {
    /// Upstream's name, e.g. `CREATE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// What a plugin may know about a request besides the object.
pub struct Attributes<'a> {
    /// What the request does.
    pub operation: Operation,
    /// Group, version and plural.
    pub resource: &'a GroupVersionResource,
    /// Group, version and kind of the object in the request (the subresource's kind where it has its own).
    pub kind: &'a GroupVersionKind,
    /// E.g. `status`, or empty.
    pub subresource: &'a str,
    /// The namespace, empty at cluster scope.
    pub namespace: &'a str,
    /// The name; empty when the server generates it.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a UserInfo,
    /// The object before the request, for update and delete.
    pub old_object: Option<&'a Value>,
    /// CreateOptions, UpdateOptions, PatchOptions or DeleteOptions as given.
    pub options: &'a Value,
    /// Nothing may be changed outside the object itself.
    pub dry_run: bool,
    /// Collects `Warning` headers and audit annotations.
    pub notes: &'a Notes,
}

impl Attributes<'_> {
    /// Whether the request is for this resource itself (`subresource` empty) of this group.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.subresource.is_empty() && self.resource.group == group && self.resource.resource == resource
    }
}

/// What plugins say besides yes and no.
#[derive(Debug, Default)]
pub struct Notes {
    warnings: Mutex<Vec<String>>,
    audit: Mutex<Vec<(String, String)>>,
}

impl Notes {
    /// Adds a `Warning: 299` header to the answer.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Adds an annotation to the request's audit event.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.audit.lock().push((key.into(), value.into()));
    }

    /// The audit annotations so far, taken out.
    pub fn take_annotations(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.audit.lock())
    }

    /// The warnings so far, taken out.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock())
    }
}

/// A plugin that may change the object.
#[async_trait]
pub trait MutatingPlugin: Send + Sync + 'static {
    /// Upstream's name, e.g. `ServiceAccount`.
    fn name(&self) -> &'static str;

    /// Cheap test whether [`Self::admit`] wants this request at all.
    fn handles(&self, attributes: &Attributes<'_>) -> bool;

    /// Changes the object or refuses the request. `object` is `None` for deletions.
    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), Status>;

    /// As [`Self::admit`], for plugins that tell the rounds apart.
    async fn admit_in_round(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        _round: &mut Round,
    ) -> Result<(), Status> {
        self.admit(attributes, object).await
    }
}

/// One of at most two rounds of the mutating plugins: when a plugin that asks outsiders changed the object, all run once
/// more.
#[derive(Default)]
pub struct Round {
    reinvocation: bool,
    required: bool,
    kept: HashMap<&'static str, Box<dyn Any + Send>>,
}

impl Round {
    /// Whether this is the second round.
    pub fn is_reinvocation(&self) -> bool {
        self.reinvocation
    }

    /// Asks for a second round.
    pub fn require_reinvocation(&mut self) {
        self.required = true;
    }

    /// Keeps what a plugin wants to know in the second round.
    pub fn keep<T: Any + Send>(&mut self, plugin: &'static str, state: T) {
        self.kept.insert(plugin, Box::new(state));
    }

    /// What the plugin kept.
    pub fn take<T: Any>(&mut self, plugin: &'static str) -> Option<T> {
        let kept = self.kept.remove(plugin)?;
        kept.downcast().ok().map(|state| *state)
    }
}

/// A plugin that only judges.
#[async_trait]
pub trait ValidatingPlugin: Send + Sync + 'static {
    /// Upstream's name, e.g. `NodeRestriction`.
    fn name(&self) -> &'static str;

    /// Cheap test whether [`Self::validate`] wants this request at all.
    fn handles(&self, attributes: &Attributes<'_>) -> bool;

    /// Refuses the request or not. `object` is `None` for deletions.
    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status>;
}

/// The plugins in the order they run; all mutating ones first.
#[derive(Default)]
pub struct Chain {
    /// Run in order, before validation of the object.
    pub mutating: Vec<Box<dyn MutatingPlugin>>,
    /// Run in order, after validation of the object.
    pub validating: Vec<Box<dyn ValidatingPlugin>>,
}

impl Chain {
    /// Runs the mutating plugins, a second time when one of them requires it.
    pub async fn admit(
        &self,
        attributes: &Attributes<'_>,
        mut object: Option<&mut Value>,
    ) -> Result<(), Status> {
        let mut round = Round::default();
        loop {
            for plugin in &self.mutating {
                if plugin.handles(attributes) {
                    plugin
                        .admit_in_round(attributes, object.as_deref_mut(), &mut round)
                        .await?;
                }
            }
            if round.reinvocation || !round.required {
                return Ok(());
            }
            round.reinvocation = true;
        }
    }

    /// Runs the validating plugins.
    pub async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        for plugin in &self.validating {
            if plugin.handles(attributes) {
                plugin.validate(attributes, object).await?;
            }
        }
        Ok(())
    }
}
