//! SubjectAccessReview and its kin: the authorizers' answers as objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::gvk::GroupKind;
use keelson_api::status::Status;
use serde_json::{Value, json};

use super::{Authorizer, Authorizers, Decision, PolicyRule, Verdict};
use crate::endpoints::reviews::{ReviewHandler, ReviewHandlers};
use crate::request_info::RequestInfo;
use crate::user::UserInfo;

const GROUP: &str = "authorization.k8s.io";

/// Adds the handlers of the four access reviews.
pub(crate) fn handlers(handlers: &mut ReviewHandlers, authorizers: &Arc<Authorizers>) {
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
                authorizers: authorizers.clone(),
            }),
        );
    }
    let rules = RulesReview {
        authorizers: authorizers.clone(),
    };
    handlers.insert(GROUP, "selfsubjectrulesreviews", Arc::new(rules));
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
    authorizers: Arc<Authorizers>,
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
    let is_set = |(name, value): (&String, &Value)| {
        let expected = name == "managedFields" || (review == Review::Local && name == "namespace");
        let empty = match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        };
        !expected && !empty
    };
    if object["metadata"]
        .as_object()
        .is_some_and(|metadata| metadata.iter().any(is_set))
    {
        let detail = match review {
            Review::Local => "must be empty except for namespace",
            _ => "must be empty",
        };
        errors.push(Error::invalid(
            &Path::new("metadata"),
            object["metadata"].clone(),
            detail,
        ));
    }
    for field in ["fieldSelector", "labelSelector"] {
        let selector = &spec["resourceAttributes"][field];
        validate_selector(
            selector,
            &path.children(&["resourceAttributes", field]),
            &mut errors,
        );
    }
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

fn validate_selector(selector: &Value, path: &Path, errors: &mut ErrorList) {
    if selector.is_null() {
        return;
    }
    let raw = text(selector, "rawSelector");
    let requirements = selector["requirements"].as_array().map_or(&[][..], Vec::as_slice);
    match (raw.is_empty(), requirements.is_empty()) {
        (false, false) => {
            let detail = "may not specified at the same time as requirements";
            errors.push(Error::invalid(&path.child("rawSelector"), raw, detail));
        }
        (true, true) => {
            let detail = format!("when {path} is specified, requirements or rawSelector is required");
            errors.push(Error::required(&path.child("requirements"), detail));
        }
        _ => {}
    }
    for (at, requirement) in requirements.iter().enumerate() {
        let path = path.child("requirements").index(at);
        let values = strings(requirement.get("values"));
        if text(requirement, "key").is_empty() {
            errors.push(Error::required(&path.child("key"), "must be specified"));
        }
        match text(requirement, "operator").as_str() {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(Error::required(&path.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(Error::forbidden(&path.child("values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(Error::invalid(
                &path.child("operator"),
                other,
                "not a valid selector operator",
            )),
        }
    }
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
            field_selector: selector(resource, "fieldSelector", field_term),
            label_selector: selector(resource, "labelSelector", label_term),
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

/// A selector of the spec as text: `rawSelector`, or the requirements that can be written; what cannot narrows nothing.
fn selector(resource: &Value, field: &str, write: fn(&str, &str, &[String]) -> Option<String>) -> String {
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
        .filter_map(|r| write(&text(r, "key"), &text(r, "operator"), &strings(r.get("values"))))
        .collect();
    terms.join(",")
}

fn field_term(key: &str, operator: &str, values: &[String]) -> Option<String> {
    let escaped = |value: &str| {
        value
            .replace('\\', "\\\\")
            .replace(',', "\\,")
            .replace('=', "\\=")
    };
    match (operator, values) {
        ("In", [one]) => Some(format!("{key}={}", escaped(one))),
        ("NotIn", [one]) => Some(format!("{key}!={}", escaped(one))),
        _ => None,
    }
}

fn label_term(key: &str, operator: &str, values: &[String]) -> Option<String> {
    match (operator, values) {
        ("In", [_, ..]) => Some(format!("{key} in ({})", values.join(","))),
        ("NotIn", [_, ..]) => Some(format!("{key} notin ({})", values.join(","))),
        ("Exists", []) => Some(key.to_owned()),
        ("DoesNotExist", []) => Some(format!("!{key}")),
        _ => None,
    }
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
fn status(verdict: &Verdict) -> Value {
    let mut status = json!({"allowed": verdict.decision == Decision::Allow});
    if verdict.decision == Decision::Deny {
        status["denied"] = true.into();
    }
    if !verdict.reason.is_empty() {
        status["reason"] = verdict.reason.as_str().into();
    }
    if let Some(error) = &verdict.error {
        status["evaluationError"] = error.as_str().into();
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
        let request = described_request(&object["spec"]);
        let verdict = self.authorizers.review(&subject, &request).await;
        object["status"] = status(&verdict);
        Ok(object)
    }
}

struct RulesReview {
    authorizers: Arc<Authorizers>,
}

/// The status of a SelfSubjectRulesReview.
fn rules_status(rules: &[PolicyRule], problems: &[String]) -> Value {
    let (mut resource, mut other) = (Vec::new(), Vec::new());
    for rule in rules {
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
    let mut status =
        json!({"resourceRules": resource, "nonResourceRules": other, "incomplete": !problems.is_empty()});
    match problems {
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
        let (rules, problems) = self.authorizers.rules_for(user, &namespace);
        object["status"] = rules_status(&rules, &problems);
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
