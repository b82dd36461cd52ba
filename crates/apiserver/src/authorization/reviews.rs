//! SubjectAccessReview and its kin: the authorizers' answers as objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::gvk::GroupKind;
use keelson_api::status::Status;
use serde_json::{Value, json};

use super::{Authorizer, Decision, PolicyRule, Rbac};
use crate::endpoints::reviews::{ReviewHandler, ReviewHandlers};
use crate::request_info::RequestInfo;
use crate::user::{SYSTEM_MASTERS, UserInfo};

const GROUP: &str = "authorization.k8s.io";

/// Adds the handlers of the four access reviews.
pub fn handlers(handlers: &mut ReviewHandlers, authorizer: &Arc<dyn Authorizer>, rbac: Rbac) {
    for (resource, review) in [
        ("subjectaccessreviews", Review::Subject),
        ("localsubjectaccessreviews", Review::Local),
        ("selfsubjectaccessreviews", Review::OneSelf),
    ] {
        handlers.insert(
            GROUP,
            resource,
            Arc::new(AccessReview {
                review,
                authorizer: authorizer.clone(),
            }),
        );
    }
    handlers.insert(GROUP, "selfsubjectrulesreviews", Arc::new(RulesReview { rbac }));
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Review {
    Subject,
    Local,
    OneSelf,
}

impl Review {
    fn kind(self) -> &'static str {
        match self {
            Self::Subject => "SubjectAccessReview",
            Self::Local => "LocalSubjectAccessReview",
            Self::OneSelf => "SelfSubjectAccessReview",
        }
    }
}

struct AccessReview {
    review: Review,
    authorizer: Arc<dyn Authorizer>,
}

fn text(value: &Value, field: &str) -> String {
    value
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|s| s.as_str().map(str::to_owned)).collect()
}

/// Upstream's validation of the spec.
fn validate(review: Review, object: &Value, request: &RequestInfo) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = &object["spec"];
    let path = Path::new("spec");
    let present = |field: &str| spec.get(field).is_some_and(|v| !v.is_null());
    match (present("resourceAttributes"), present("nonResourceAttributes")) {
        (true, true) => errors.push(Error::invalid(
            &path.child("nonResourceAttributes"),
            spec["nonResourceAttributes"].clone(),
            "cannot be specified in combination with resourceAttributes",
        )),
        (false, false) => errors.push(Error::invalid(
            &path.child("resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    if review != Review::OneSelf && text(spec, "user").is_empty() && strings(spec.get("groups")).is_empty() {
        errors.push(Error::invalid(
            &path.child("user"),
            "",
            "at least one of user or group must be specified",
        ));
    }
    if review == Review::Local {
        if present("nonResourceAttributes") {
            errors.push(Error::invalid(
                &path.child("nonResourceAttributes"),
                spec["nonResourceAttributes"].clone(),
                "disallowed on this kind of request",
            ));
        }
        let namespace = spec
            .pointer("/resourceAttributes/namespace")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if present("resourceAttributes") && namespace != request.namespace {
            errors.push(Error::invalid(
                &path.children(&["resourceAttributes", "namespace"]),
                namespace,
                "must match metadata.namespace",
            ));
        }
    }
    errors
}

/// The request that a review's spec describes.
fn described_request(spec: &Value) -> RequestInfo {
    if let Some(resource) = spec.get("resourceAttributes").filter(|v| !v.is_null()) {
        return RequestInfo {
            is_resource: true,
            verb: text(resource, "verb"),
            api_group: text(resource, "group"),
            api_version: text(resource, "version"),
            namespace: text(resource, "namespace"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            name: text(resource, "name"),
            field_selector: selector(resource, "fieldSelector", "="),
            label_selector: selector(resource, "labelSelector", "="),
            ..RequestInfo::default()
        };
    }
    let other = &spec["nonResourceAttributes"];
    RequestInfo {
        verb: text(other, "verb"),
        path: text(other, "path"),
        ..RequestInfo::default()
    }
}

/// A selector of the spec as text: `rawSelector`, or the requirements that demand one value.
fn selector(resource: &Value, field: &str, equals: &str) -> String {
    let Some(selector) = resource.get(field) else {
        return String::new();
    };
    let raw = text(selector, "rawSelector");
    if !raw.is_empty() {
        return raw;
    }
    let requirements = selector
        .get("requirements")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let terms: Vec<String> = requirements
        .filter_map(
            |r| match (text(r, "operator").as_str(), strings(r.get("values")).as_slice()) {
                ("In", [one]) => Some(format!("{}{equals}{one}", text(r, "key"))),
                _ => None,
            },
        )
        .collect();
    terms.join(",")
}

fn described_user(spec: &Value) -> UserInfo {
    let extra = spec.get("extra").and_then(Value::as_object);
    let extra: BTreeMap<_, _> = extra
        .into_iter()
        .flatten()
        .map(|(key, v)| (key.to_lowercase(), strings(Some(v))))
        .collect();
    UserInfo {
        name: text(spec, "user"),
        uid: text(spec, "uid"),
        groups: strings(spec.get("groups")),
        extra,
    }
}

/// The status of a review.
fn status(decision: Decision, reason: &str) -> Value {
    let mut status = json!({"allowed": decision == Decision::Allow});
    if decision == Decision::Deny {
        status["denied"] = true.into();
    }
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    status
}

#[async_trait]
impl ReviewHandler for AccessReview {
    async fn create(
        &self,
        user: &UserInfo,
        request: &RequestInfo,
        mut object: Value,
    ) -> Result<Value, Status> {
        let errors = validate(self.review, &object, request);
        if !errors.is_empty() {
            return Err(Status::invalid(
                &GroupKind::new(GROUP, self.review.kind()),
                "",
                &errors,
            ));
        }
        let subject = match self.review {
            Review::OneSelf => user.clone(),
            _ => described_user(&object["spec"]),
        };
        let (decision, reason) = self
            .authorizer
            .authorize(&subject, &described_request(&object["spec"]))
            .await;
        object["status"] = status(decision, &reason);
        Ok(object)
    }
}

struct RulesReview {
    rbac: Rbac,
}

/// The status of a SelfSubjectRulesReview.
fn rules_status(user: &UserInfo, rules: &[PolicyRule], missing: &[String]) -> Value {
    let (mut resource, mut other) = (Vec::new(), Vec::new());
    let everything = PolicyRule {
        api_groups: vec!["*".into()],
        resources: vec!["*".into()],
        verbs: vec!["*".into()],
        ..PolicyRule::default()
    };
    let everywhere = PolicyRule {
        non_resource_urls: vec!["*".into()],
        verbs: vec!["*".into()],
        ..PolicyRule::default()
    };
    let masters = [everything, everywhere];
    let granted: &[PolicyRule] = if user.in_group(SYSTEM_MASTERS) {
        &masters
    } else {
        &[]
    };
    for rule in granted.iter().chain(rules) {
        if !rule.resources.is_empty() {
            let mut item =
                json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
            if !rule.resource_names.is_empty() {
                item["resourceNames"] = json!(rule.resource_names);
            }
            resource.push(item);
        }
        if !rule.non_resource_urls.is_empty() {
            other.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
        }
    }
    let mut problems: Vec<String> = missing.to_vec();
    if super::node_of(user).is_some() {
        problems.insert(
            0,
            "node authorizer does not support user rule resolution".to_owned(),
        );
    }
    let mut status =
        json!({"resourceRules": resource, "nonResourceRules": other, "incomplete": !problems.is_empty()});
    match problems.as_slice() {
        [] => {}
        [one] => status["evaluationError"] = one.as_str().into(),
        many => status["evaluationError"] = format!("[{}]", many.join(", ")).into(),
    }
    status
}

#[async_trait]
impl ReviewHandler for RulesReview {
    async fn create(&self, user: &UserInfo, _: &RequestInfo, mut object: Value) -> Result<Value, Status> {
        let namespace = text(&object["spec"], "namespace");
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let (rules, missing) = self.rbac.rules_for(user, &namespace);
        object["status"] = rules_status(user, &rules, &missing);
        Ok(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        let spec = json!({"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "a",
            "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n"]}]}}});
        let request = described_request(&spec);
        assert_eq!(
            (request.verb.as_str(), request.field_selector.as_str()),
            ("list", "spec.nodeName=n")
        );
        let user = described_user(&json!({"user": "u", "groups": ["g"], "extra": {"Scopes": ["x"]}}));
        assert_eq!(user.extra["scopes"], ["x"]);
    }

    #[test]
    fn refusals() {
        let here = RequestInfo {
            namespace: "a".into(),
            ..RequestInfo::default()
        };
        let check = |review, spec: Value, wanted: &str| {
            let errors = validate(review, &json!({ "spec": spec }), &here);
            let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(text.join("; "), wanted);
        };
        check(
            Review::OneSelf,
            json!({"nonResourceAttributes": {"path": "/"}}),
            "",
        );
        check(
            Review::Subject,
            json!({"resourceAttributes": {}}),
            "spec.user: Invalid value: \"\": at least one of user or group must be specified",
        );
        check(
            Review::Local,
            json!({"user": "u", "resourceAttributes": {"namespace": "b"}}),
            "spec.resourceAttributes.namespace: Invalid value: \"b\": must match metadata.namespace",
        );
    }
}
