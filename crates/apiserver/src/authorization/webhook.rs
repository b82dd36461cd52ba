//! Another server that decides, asked by SubjectAccessReview.

use std::time::Duration;

use keelson_api::selector::{FieldSelector, LabelSelector, Operator};
use serde_json::{Value, json};

use super::configuration::WebhookSettings;
use super::{Decision, Verdict};
use crate::admission::Connections;
use crate::expiring::Expiring;
use crate::outbound::Remote;
use crate::request_info::RequestInfo;
use crate::user::UserInfo;

/// Requests whose parts are longer than this together are not remembered: somebody may want to fill the memory.
const MOST_REMEMBERED: usize = 10_000;

/// A webhook.
pub(super) struct WebhookAuthorizer {
    settings: WebhookSettings,
    remote: Remote,
    known: Expiring<(Decision, String)>,
}

impl WebhookAuthorizer {
    /// Reads the kubeconfig.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(super) fn open(settings: WebhookSettings, connections: &Connections) -> Result<Self, String> {
        Ok(Self {
            remote: Remote::open(&settings.kubeconfig, connections)?,
            settings,
            known: Expiring::default(),
        })
    }

    fn failed(&self, error: String) -> Verdict {
        Verdict {
            decision: if self.settings.denies_on_error {
                Decision::Deny
            } else {
                Decision::NoOpinion
            },
            reason: String::new(),
            error: Some(error),
        }
    }

    /// What the webhook says, or what `failurePolicy` says when it cannot be asked.
    pub(super) async fn decide(&self, user: &UserInfo, request: &RequestInfo) -> Verdict {
        let spec = review_spec(user, request);
        match self.settings.conditions.hold(&spec) {
            Ok(true) => {}
            Ok(false) => return Verdict::from((Decision::NoOpinion, String::new())),
            Err(error) => return self.failed(error),
        }
        let key = Expiring::<(Decision, String)>::key(&[&spec.to_string()]);
        if let Some(known) = self.known.get(&key) {
            return Verdict::from(known);
        }
        let answer = match self.remote.ask(&self.question(spec), self.settings.timeout).await {
            Ok(answer) => answer,
            Err(error) => {
                let name = &self.settings.name;
                tracing::error!(%error, name, "Failed to make webhook authorizer request");
                return self.failed(error.to_string());
            }
        };
        let status = &answer["status"];
        if answer["kind"] != "SubjectAccessReview" || !status["allowed"].is_boolean() {
            return self.failed(
                "the webhook did not answer with a SubjectAccessReview that has a status".to_owned(),
            );
        }
        let reason = status["reason"].as_str().unwrap_or_default().to_owned();
        let (allowed, denied) = (status["allowed"] == true, status["denied"] == true);
        if allowed && denied {
            return Verdict {
                decision: Decision::Deny,
                reason,
                error: Some("webhook subject access review returned both allow and deny response".to_owned()),
            };
        }
        let (decision, lifetime): (_, Duration) = match (allowed, denied) {
            (true, _) => (Decision::Allow, self.settings.authorized_ttl),
            (_, true) => (Decision::Deny, self.settings.unauthorized_ttl),
            _ => (Decision::NoOpinion, self.settings.unauthorized_ttl),
        };
        if length(request) < MOST_REMEMBERED {
            self.known.insert(key, (decision, reason.clone()), lifetime);
        }
        Verdict::from((decision, reason))
    }

    fn question(&self, mut spec: Value) -> Value {
        if self.settings.version == "v1beta1"
            && let Some(fields) = spec.as_object_mut()
            && let Some(groups) = fields.remove("groups")
        {
            fields.insert("group".to_owned(), groups);
        }
        json!({
            "kind": "SubjectAccessReview",
            "apiVersion": format!("authorization.k8s.io/{}", self.settings.version),
            "metadata": {"creationTimestamp": null},
            "spec": spec,
            "status": {"allowed": false},
        })
    }
}

/// Length of what a client can choose.
fn length(request: &RequestInfo) -> usize {
    let RequestInfo {
        namespace,
        verb,
        api_group,
        api_version,
        resource,
        subresource,
        name,
        path,
        field_selector,
        label_selector,
        ..
    } = request;
    let all = [
        namespace,
        verb,
        api_group,
        api_version,
        resource,
        subresource,
        name,
        path,
        field_selector,
        label_selector,
    ];
    all.into_iter().map(String::len).sum()
}

/// The spec of the SubjectAccessReview for a request; empty fields are left out.
fn review_spec(user: &UserInfo, request: &RequestInfo) -> Value {
    let filled = |fields: &[(&str, &str)]| -> Value {
        let fields = fields.iter().filter(|(_, value)| !value.is_empty());
        let fields = fields.map(|(name, value)| ((*name).to_owned(), Value::from(*value)));
        Value::Object(fields.collect())
    };
    let mut spec = filled(&[("user", &user.name), ("uid", &user.uid)]);
    if !user.groups.is_empty() {
        spec["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        spec["extra"] = json!(user.extra);
    }
    if !request.is_resource {
        spec["nonResourceAttributes"] = filled(&[("path", &request.path), ("verb", &request.verb)]);
        return spec;
    }
    let mut attributes = filled(&[
        ("namespace", &request.namespace),
        ("verb", &request.verb),
        ("group", &request.api_group),
        ("version", &request.api_version),
        ("resource", &request.resource),
        ("subresource", &request.subresource),
        ("name", &request.name),
    ]);
    for (field, requirements) in [
        ("fieldSelector", field_requirements(&request.field_selector)),
        ("labelSelector", label_requirements(&request.label_selector)),
    ] {
        if !requirements.is_empty() {
            attributes[field] = json!({"requirements": requirements});
        }
    }
    spec["resourceAttributes"] = attributes;
    spec
}

/// A selector that cannot be read narrows nothing: the request itself will fail of it.
fn field_requirements(text: &str) -> Vec<Value> {
    let selector = FieldSelector::parse(text).unwrap_or_default();
    let requirements = selector.requirements().iter().map(|r| {
        let operator = if r.negated { "NotIn" } else { "In" };
        json!({"key": r.field, "operator": operator, "values": [r.value]})
    });
    requirements.collect()
}

fn label_requirements(text: &str) -> Vec<Value> {
    let selector = LabelSelector::parse(text).unwrap_or_default();
    let requirements = selector.requirements().iter().filter_map(|r| {
        let operator = match r.operator() {
            Operator::Equals | Operator::DoubleEquals | Operator::In => "In",
            Operator::NotEquals | Operator::NotIn => "NotIn",
            Operator::Exists => return Some(json!({"key": r.key(), "operator": "Exists"})),
            Operator::DoesNotExist => return Some(json!({"key": r.key(), "operator": "DoesNotExist"})),
            // The review has no such operators; without them it speaks of more than is asked for.
            Operator::GreaterThan | Operator::LessThan => return None,
        };
        Some(json!({"key": r.key(), "operator": operator, "values": r.values()}))
    });
    requirements.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        let mut user = UserInfo::new("jane", &["a"]);
        user.extra.insert("scopes".into(), vec!["x".into()]);
        let request = RequestInfo {
            is_resource: true,
            verb: "list".into(),
            api_version: "v1".into(),
            resource: "pods".into(),
            field_selector: "spec.nodeName=n,status.phase!=Failed".into(),
            label_selector: "app in (b,a),!old,new,x>3,tier!=db".into(),
            ..RequestInfo::default()
        };
        let spec = review_spec(&user, &request);
        assert_eq!(
            spec,
            json!({"user": "jane", "groups": ["a", "system:authenticated"], "extra": {"scopes": ["x"]},
                "resourceAttributes": {"verb": "list", "version": "v1", "resource": "pods",
                    "fieldSelector": {"requirements": [
                        {"key": "spec.nodeName", "operator": "In", "values": ["n"]},
                        {"key": "status.phase", "operator": "NotIn", "values": ["Failed"]}]},
                    "labelSelector": {"requirements": [
                        {"key": "app", "operator": "In", "values": ["a", "b"]},
                        {"key": "new", "operator": "Exists"},
                        {"key": "old", "operator": "DoesNotExist"},
                        {"key": "tier", "operator": "NotIn", "values": ["db"]}]}}})
        );
        let request = RequestInfo {
            verb: "get".into(),
            path: "/metrics".into(),
            ..RequestInfo::default()
        };
        let spec = review_spec(&UserInfo::anonymous(), &request);
        assert_eq!(
            spec["nonResourceAttributes"],
            json!({"path": "/metrics", "verb": "get"})
        );
    }
}
