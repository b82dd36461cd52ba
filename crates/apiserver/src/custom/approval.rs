//! Groups below `k8s.io` and `kubernetes.io` belong to the community: a definition there says who approved it.

use keelson_api::field::{Error, ErrorList, Path};
use serde_json::Value;
use url::Url;

const ANNOTATION: &str = "api-approved.kubernetes.io";
const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

#[derive(Clone, Copy, PartialEq)]
enum Approval {
    Missing,
    Invalid,
    /// It says that it is not approved.
    Bypassed,
    Approved,
}

fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|owned| {
        group
            .strip_suffix(owned)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

fn group(crd: &Value) -> &str {
    crd["spec"]["group"].as_str().unwrap_or_default()
}

fn given(crd: &Value) -> &str {
    crd["metadata"]["annotations"][ANNOTATION]
        .as_str()
        .unwrap_or_default()
}

/// The state, and why.
fn approval(crd: &Value) -> (Approval, String) {
    let text = given(crd);
    let is_url = |text: &str| Url::parse(text).is_ok_and(|url| url.has_host());
    match text {
        "" => (
            Approval::Missing,
            format!("protected groups must have approval annotation {ANNOTATION:?}, {SEE}"),
        ),
        _ if text.starts_with("unapproved") => (Approval::Bypassed, format!("not approved: {text:?}")),
        _ if is_url(text) => (Approval::Approved, format!("approved in {text}")),
        _ => (
            Approval::Invalid,
            format!(
                "protected groups must have approval annotation {ANNOTATION:?} with either a URL or a reason starting with \"unapproved\", {SEE}"
            ),
        ),
    }
}

/// Judges the annotation of a definition in a protected group; one that stays as it is passes.
pub(super) fn validate(crd: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    if !is_protected(group(crd)) {
        return;
    }
    let (state, why) = approval(crd);
    if old.is_some_and(|old| approval(old).0 == state) {
        return;
    }
    let path = Path::new("metadata").child("annotations").key(ANNOTATION);
    match state {
        Approval::Missing => errors.push(Error::required(&path, why)),
        Approval::Invalid => errors.push(Error::invalid(&path, given(crd), why)),
        Approval::Bypassed | Approval::Approved => {}
    }
}

/// Status, reason and message of the condition `KubernetesAPIApprovalPolicyConformant`; `None` for unprotected groups.
pub(super) fn condition(crd: &Value) -> Option<[String; 3]> {
    if !is_protected(group(crd)) {
        return None;
    }
    let (state, why) = approval(crd);
    let (status, reason) = match state {
        Approval::Missing => ("False", "MissingAnnotation"),
        Approval::Invalid => ("False", "InvalidAnnotation"),
        Approval::Bypassed => ("False", "UnapprovedAnnotation"),
        Approval::Approved => ("True", "ApprovedAnnotation"),
    };
    Some([status.to_owned(), reason.to_owned(), why])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_has_to_say_so() {
        for (group, text, reason, refused) in [
            ("example.com", "", None, false),
            ("notk8s.io", "", None, false),
            ("x.k8s.io", "", Some("MissingAnnotation"), true),
            ("x.k8s.io", "because", Some("InvalidAnnotation"), true),
            (
                "x.k8s.io",
                "unapproved, experimental",
                Some("UnapprovedAnnotation"),
                false,
            ),
            (
                "kubernetes.io",
                "https://example.com/1",
                Some("ApprovedAnnotation"),
                false,
            ),
        ] {
            let crd = json!({"metadata": {"annotations": {ANNOTATION: text}}, "spec": {"group": group}});
            let mut errors = Vec::new();
            validate(&crd, None, &mut errors);
            assert_eq!(!errors.is_empty(), refused, "{group} {text}");
            assert_eq!(condition(&crd).map(|c| c[1].clone()).as_deref(), reason);
            errors.clear();
            validate(&crd, Some(&crd), &mut errors);
            assert!(errors.is_empty(), "what stays passes");
        }
    }
}
