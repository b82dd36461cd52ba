//! NamespaceLifecycle: nothing is created in a namespace that is not there or on its way out, and the system's own
//! namespaces stay.

use async_trait::async_trait;
use keelson_api::gvk::GroupResource;
use keelson_api::status::Status;
use serde_json::Value;

use super::object::{forbidden, text};
use super::{Attributes, MutatingPlugin, Operation};
use crate::registry::status_of;
use crate::resources::{Reader, Resources};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// See the module.
pub(super) struct NamespaceLifecycle {
    namespaces: Reader,
}

impl NamespaceLifecycle {
    pub(super) fn new(resources: &Resources) -> Self {
        Self {
            namespaces: resources.resource("", "namespaces"),
        }
    }
}

#[async_trait]
impl MutatingPlugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation != Operation::Connect
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), Status> {
        let is_namespace =
            attributes.resource.group.is_empty() && attributes.resource.resource == "namespaces";
        if is_namespace {
            if attributes.operation == Operation::Delete && IMMORTAL.contains(&attributes.name) {
                return Err(forbidden(attributes, None, "this namespace may not be deleted"));
            }
            return Ok(());
        }
        let namespace = attributes.namespace;
        let review = attributes.resource.resource == "localsubjectaccessreviews";
        if namespace.is_empty() || attributes.operation == Operation::Delete || review {
            return Ok(());
        }
        let found = match self.namespaces.get(namespace_scope(), namespace) {
            Some(found) => Some(found),
            // It may have been created a moment ago.
            None => self
                .namespaces
                .get_latest(namespace_scope(), namespace)
                .await
                .map_err(|e| status_of(&e))?,
        };
        let Some(found) = found else {
            return Err(Status::not_found(
                &GroupResource::new("", "namespaces"),
                namespace,
            ));
        };
        if attributes.operation == Operation::Create && text(found.value(), "/status/phase") == "Terminating"
        {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            return Err(forbidden(attributes, object.as_deref(), why).with_cause(
                "NamespaceTerminating",
                format!("namespace {namespace} is being terminated"),
                "metadata.namespace",
            ));
        }
        Ok(())
    }
}

/// Namespaces are at cluster scope.
fn namespace_scope() -> &'static str {
    ""
}
