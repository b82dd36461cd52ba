//! Nobody lets a policy read for him what he cannot read: who names parameters has to be allowed to get them. Upstream does
//! this in the storage of policies and bindings; here it is a validating step.

use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::field::{Error, Path};
use keelson_api::gvk::{GroupKind, GroupVersion};
use keelson_api::status::Status;
use serde_json::Value;

use crate::admission::object::text;
use crate::admission::webhook::Parts;
use crate::admission::{Attributes, Operation, ValidatingPlugin};
use crate::authorization::{Authorizer, Decision};
use crate::registry::KindSource;
use crate::request_info::RequestInfo;
use crate::resources::Resources;
use crate::user::UserInfo;

/// Judges `paramKind` of policies and `paramRef` of bindings.
pub(in crate::admission) struct PolicyReferences {
    resources: Resources,
    kinds: KindSource,
    authorizer: Arc<dyn Authorizer>,
}

impl PolicyReferences {
    pub(in crate::admission) fn new(parts: &Parts<'_>) -> Self {
        Self {
            resources: parts.resources.clone(),
            kinds: parts.kinds.clone(),
            authorizer: parts.authorizer.clone(),
        }
    }

    /// A request to get objects of this kind; what is not known stands for all.
    fn question(&self, kind: &Value, namespace: &str, name: &str) -> RequestInfo {
        let mut question = RequestInfo {
            is_resource: true,
            verb: "get".to_owned(),
            api_prefix: "apis".to_owned(),
            api_group: "*".to_owned(),
            api_version: "*".to_owned(),
            resource: "*".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        if let Ok(version) = GroupVersion::parse(text(kind, "/apiVersion"))
            && kind.is_object()
        {
            question.api_group = version.group.to_string();
            question.api_version = version.version.to_string();
            let gvk = version.with_kind(text(kind, "/kind").to_owned());
            if let Some(row) = self.kinds.load().by_kind(&gvk) {
                question.resource = row.info.plural.to_string();
            }
        }
        question
    }

    /// What a policy or binding asks to read, and what is said if that is not allowed.
    fn wanted(&self, attributes: &Attributes<'_>, object: &Value) -> Option<(RequestInfo, Error)> {
        let user = shown(attributes.user);
        if attributes.resource.resource.ends_with("policies") {
            let kind = Some(&object["spec"]["paramKind"]).filter(|kind| kind.is_object())?;
            let why = format!(
                "user {user} must have \"get\" permission on all objects of the referenced paramKind (kind={}, apiVersion={})",
                text(kind, "/kind"),
                text(kind, "/apiVersion")
            );
            let path = Path::new("spec").child("paramKind");
            return Some((self.question(kind, "*", "*"), Error::forbidden(&path, why)));
        }
        let reference = Some(&object["spec"]["paramRef"]).filter(|reference| reference.is_object())?;
        let policies = attributes.resource.resource.replace("policybindings", "policies");
        let policies = self.resources.resource(&attributes.resource.group, &policies);
        let policy = policies.get("", text(object, "/spec/policyName"));
        let kind = policy.map_or(Value::Null, |policy| policy.value()["spec"]["paramKind"].clone());
        let why =
            format!("user {user} does not have \"get\" permission on the object referenced by paramRef");
        let path = Path::new("spec").child("paramRef");
        let question = self.question(&kind, text(reference, "/namespace"), text(reference, "/name"));
        Some((question, Error::forbidden(&path, why)))
    }
}

/// A user as Go prints one.
fn shown(user: &UserInfo) -> String {
    let extra: Vec<String> = user
        .extra
        .iter()
        .map(|(key, values)| format!("{key}:[{}]", values.join(" ")))
        .collect();
    let UserInfo {
        name, uid, groups, ..
    } = user;
    format!(
        "&{{{name} {uid} [{}] map[{}]}}",
        groups.join(" "),
        extra.join(" ")
    )
}

#[async_trait]
impl ValidatingPlugin for PolicyReferences {
    fn name(&self) -> &'static str {
        "PolicyReferences"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        matches!(attributes.operation, Operation::Create | Operation::Update)
            && attributes.resource.group == "admissionregistration.k8s.io"
            && attributes.subresource.is_empty()
            && attributes.resource.resource.contains("admissionpolic")
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(object) = object else { return Ok(()) };
        let same = |field: &str| {
            attributes
                .old_object
                .is_some_and(|old| old["spec"][field] == object["spec"][field])
        };
        if same("paramKind") && same("paramRef") && same("policyName") {
            return Ok(());
        }
        let Some((question, error)) = self.wanted(attributes, object) else {
            return Ok(());
        };
        if self.authorizer.authorize(attributes.user, &question).await.0 == Decision::Allow {
            return Ok(());
        }
        let kind = GroupKind::new(attributes.kind.group.clone(), attributes.kind.kind.clone());
        Err(Status::invalid(&kind, text(object, "/metadata/name"), &[error]))
    }
}
