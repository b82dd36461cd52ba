//! AdmissionReview v1.

use base64::Engine;
use keelson_api::status::Status;
use serde_json::{Map, Value, json};

use crate::admission::Attributes;
use crate::admission::matching::Invocation;

/// What a hook says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    pub(super) allowed: bool,
    pub(super) status: Option<Value>,
    /// JSON patch.
    pub(super) patch: Option<Vec<u8>>,
    pub(super) warnings: Vec<String>,
    pub(super) annotations: Vec<(String, String)>,
}

/// The question.
pub(super) fn request(
    uid: &str,
    attributes: &Attributes<'_>,
    invocation: &Invocation,
    object: Option<&Value>,
    old_object: Option<&Value>,
) -> Value {
    let mut request = describe(attributes, invocation);
    request["uid"] = json!(uid);
    request["object"] = json!(object);
    request["oldObject"] = json!(old_object);
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request})
}

/// The request without the objects, as hooks get it and expressions see it.
pub(in crate::admission) fn describe(attributes: &Attributes<'_>, invocation: &Invocation) -> Value {
    let user = attributes.user;
    let mut info = Map::new();
    info.insert("username".to_owned(), json!(user.name));
    if !user.uid.is_empty() {
        info.insert("uid".to_owned(), json!(user.uid));
    }
    if !user.groups.is_empty() {
        info.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        info.insert("extra".to_owned(), json!(user.extra));
    }
    let kind = |k: &keelson_api::gvk::GroupVersionKind| json!({"group": k.group, "version": k.version, "kind": k.kind});
    let resource = |r: &keelson_api::gvk::GroupVersionResource| json!({"group": r.group, "version": r.version, "resource": r.resource});
    let mut request = json!({
        "kind": kind(&invocation.kind), "resource": resource(&invocation.resource),
        "requestKind": kind(attributes.kind), "requestResource": resource(attributes.resource),
        "operation": attributes.operation.as_str(),
        "userInfo": info,
        "dryRun": attributes.dry_run, "options": attributes.options,
    });
    for (field, text) in [
        ("name", attributes.name),
        ("namespace", attributes.namespace),
        ("subResource", attributes.subresource),
        ("requestSubResource", attributes.subresource),
    ] {
        if !text.is_empty() {
            request[field] = json!(text);
        }
    }
    request
}

/// The answer; the error is upstream's text.
pub(super) fn response(body: &[u8], uid: &str, mutating: bool) -> Result<Verdict, String> {
    let review: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&review["apiVersion"]), text(&review["kind"]));
    if (version.as_str(), kind.as_str()) != ("admission.k8s.io/v1", "AdmissionReview") {
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        return Err(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {group}/{version}, Kind={kind}"
        ));
    }
    let response = &review["response"];
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let got = text(&response["uid"]);
    if got != uid {
        return Err(format!("expected response.uid={uid:?}, got {got:?}"));
    }
    let patch = response["patch"].as_str().filter(|p| !p.is_empty());
    let patch_type = response["patchType"].as_str();
    let patch = match (mutating, patch, patch_type) {
        (false, ..) | (true, None, None) => None,
        (true, Some(_), None) => {
            return Err("webhook returned response.patch but not response.patchType".to_owned());
        }
        (true, None, Some(_)) => {
            return Err("webhook returned response.patchType but not response.patch".to_owned());
        }
        (true, Some(patch), Some("JSONPatch")) => Some(
            base64::engine::general_purpose::STANDARD
                .decode(patch)
                .map_err(|e| e.to_string())?,
        ),
        (true, Some(_), Some(other)) => {
            return Err(format!(
                "webhook returned invalid response.patchType of {other:?}"
            ));
        }
    };
    let warnings = response["warnings"].as_array().into_iter().flatten();
    let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
    Ok(Verdict {
        allowed: response["allowed"] == true,
        status: response.get("status").filter(|s| s.is_object()).cloned(),
        patch,
        warnings: warnings.filter_map(|w| w.as_str().map(str::to_owned)).collect(),
        annotations: annotations
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
    })
}

/// The failure that a refusal becomes.
pub(super) fn denial(hook: &str, status: Option<&Value>) -> Status {
    let field = |name: &str| status.map_or(Value::Null, |s| s[name].clone());
    let code = field("code")
        .as_u64()
        .and_then(|c| u16::try_from(c).ok())
        .unwrap_or(0);
    // Reasons that Kubernetes does not know stay in the text alone.
    let known = serde_json::from_value(field("reason")).unwrap_or_default();
    let message = field("message").as_str().unwrap_or_default().to_owned();
    let mut result = Status::failure(code.max(400), known, message);
    if let Ok(details) = serde_json::from_value(field("details")) {
        result.details = details;
    }
    let by = format!("admission webhook {hook:?} denied the request");
    let reason = status.and_then(|s| s["reason"].as_str()).unwrap_or_default();
    result.message = match (result.message.as_str(), reason) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: Value, mutating: bool, expected: Result<(bool, Option<&str>), &str>) {
        let got = response(answer.to_string().as_bytes(), "u1", mutating);
        let got = got.map(|v| (v.allowed, v.patch.map(|p| String::from_utf8(p).unwrap())));
        let expected = expected
            .map(|(allowed, patch)| (allowed, patch.map(str::to_owned)))
            .map_err(str::to_owned);
        assert_eq!(got, expected, "{answer}");
    }

    #[test]
    fn answers_are_verified() {
        let review = |response: Value| json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
        check(
            review(json!({"uid": "u1", "allowed": true})),
            true,
            Ok((true, None)),
        );
        check(
            review(json!({"uid": "u1", "allowed": false})),
            false,
            Ok((false, None)),
        );
        let patch = json!({"uid": "u1", "allowed": true, "patch": "W10=", "patchType": "JSONPatch"});
        check(review(patch.clone()), true, Ok((true, Some("[]"))));
        check(review(patch), false, Ok((true, None)));
        check(
            review(json!({"uid": "u2", "allowed": true})),
            true,
            Err("expected response.uid=\"u1\", got \"u2\""),
        );
        check(review(Value::Null), true, Err("webhook response was absent"));
        check(
            review(json!({"uid": "u1", "patch": "W10="})),
            true,
            Err("webhook returned response.patch but not response.patchType"),
        );
        check(
            review(json!({"uid": "u1", "patch": "W10=", "patchType": "Merge"})),
            true,
            Err("webhook returned invalid response.patchType of \"Merge\""),
        );
        check(
            json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1", "response": {"uid": "u1"}}),
            true,
            Err(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got admission.k8s.io/v1beta1, Kind=AdmissionReview",
            ),
        );
    }

    #[test]
    fn denials_in_upstreams_words() {
        for (status, message, code) in [
            (
                None,
                "admission webhook \"w\" denied the request without explanation",
                400,
            ),
            (
                Some(json!({"message": "no", "code": 403})),
                "admission webhook \"w\" denied the request: no",
                403,
            ),
            (
                Some(json!({"reason": "Because"})),
                "admission webhook \"w\" denied the request: Because",
                400,
            ),
            (
                Some(json!({"message": "no", "code": 200, "status": "Success", "reason": "Odd"})),
                "admission webhook \"w\" denied the request: no",
                400,
            ),
        ] {
            let got = denial("w", status.as_ref());
            assert_eq!(
                (got.message.as_str(), got.code, got.status.as_str()),
                (message, code, "Failure")
            );
        }
    }
}
