//! Nobody grants what he does not hold: the checks of writes to roles and bindings, which upstream does in the storage of
//! these kinds. Here it is the last validating step of the admission chain.

use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::gvk::GroupResource;
use keelson_api::status::Status;
use serde_json::Value;

use super::covers::{describe, uncovered};
use super::{Authorizer, Decision, PolicyRule, Rbac};
use crate::admission::{Attributes, Operation, ValidatingPlugin};
use crate::request_info::RequestInfo;
use crate::user::{SYSTEM_MASTERS, UserInfo};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The escalation (`escalate`) and binding (`bind`) checks.
pub struct RbacEscalation {
    rbac: Rbac,
    authorizer: Arc<dyn Authorizer>,
}

impl RbacEscalation {
    /// Judges by the rules in `rbac`; the verbs `bind` and `escalate` are asked of `authorizer`.
    pub fn new(rbac: Rbac, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { rbac, authorizer }
    }

    async fn has_verb(
        &self,
        user: &UserInfo,
        verb: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> bool {
        let request = RequestInfo {
            is_resource: true,
            verb: verb.to_owned(),
            api_prefix: "apis".to_owned(),
            api_group: GROUP.to_owned(),
            api_version: "*".to_owned(),
            namespace: namespace.to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        self.authorizer.authorize(user, &request).await.0 == Decision::Allow
    }

    fn check_covered(
        &self,
        attributes: &Attributes<'_>,
        name: &str,
        namespace: &str,
        wanted: &[PolicyRule],
    ) -> Result<(), Status> {
        let user = attributes.user;
        let (held, missing_roles) = self.rbac.rules_for(user, namespace);
        let missing = uncovered(&held, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let groups: Vec<String> = user.groups.iter().map(|g| format!("{g:?}")).collect();
        let rules: Vec<String> = missing.iter().map(describe).collect();
        let mut message = format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            groups.join(" "),
            rules.join("\n")
        );
        if !missing_roles.is_empty() {
            message += &format!("; resolution errors: [{}]", missing_roles.join(", "));
        }
        let resource = GroupResource::new(GROUP, attributes.resource.resource.clone());
        Err(Status::forbidden(&resource, name, message))
    }
}

fn unchanged(attributes: &Attributes<'_>, object: &Value, fields: &[&str]) -> bool {
    attributes
        .old_object
        .is_some_and(|old| fields.iter().all(|field| old.get(field) == object.get(field)))
}

#[async_trait]
impl ValidatingPlugin for RbacEscalation {
    fn name(&self) -> &'static str {
        "RBACEscalationCheck"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        matches!(attributes.operation, Operation::Create | Operation::Update)
            && attributes.resource.group == GROUP
            && attributes.subresource.is_empty()
            && !attributes.user.in_group(SYSTEM_MASTERS)
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(object) = object else { return Ok(()) };
        let resource: &str = &attributes.resource.resource;
        let namespace = attributes.namespace;
        let own = object
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let name = if attributes.name.is_empty() {
            own
        } else {
            attributes.name
        };
        if matches!(resource, "roles" | "clusterroles") {
            if unchanged(attributes, object, &["rules", "aggregationRule"])
                || self
                    .has_verb(attributes.user, "escalate", resource, namespace, name)
                    .await
            {
                return Ok(());
            }
            let mut rules = PolicyRule::of_role(object);
            if object.get("aggregationRule").is_some_and(|rule| !rule.is_null()) {
                // Aggregation can bring any rule: full power is asked for.
                rules.extend(PolicyRule::everything());
            }
            return self.check_covered(attributes, name, namespace, &rules);
        }
        if unchanged(attributes, object, &["roleRef", "subjects"]) {
            return Ok(());
        }
        let role = |f: &str| {
            object
                .pointer(&format!("/roleRef/{f}"))
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let (kind, role_name) = (role("kind"), role("name"));
        let plural = if kind == "Role" { "roles" } else { "clusterroles" };
        if self
            .has_verb(attributes.user, "bind", plural, namespace, role_name)
            .await
        {
            return Ok(());
        }
        let Some(rules) = self.rbac.rules_of(kind, namespace, role_name) else {
            return Err(Status::not_found(&GroupResource::new(GROUP, plural), role_name));
        };
        self.check_covered(attributes, name, namespace, &rules)
    }
}
