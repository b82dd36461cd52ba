//! Priority and fairness, as far as it is visible in every answer: which FlowSchema and PriorityLevelConfiguration a request
//! belongs to. Requests are not queued by it.

use http::HeaderMap;
use http::header::HeaderValue;
use serde_json::Value;

use crate::resources::{Reader, Resources};
use crate::user::{SYSTEM_MASTERS, UserInfo};

/// Reads the flow control objects.
pub(crate) struct Flow {
    schemas: Reader,
    levels: Reader,
}

impl Flow {
    pub(crate) fn new(resources: &Resources) -> Self {
        Self {
            schemas: resources.resource("flowcontrol.apiserver.k8s.io", "flowschemas"),
            levels: resources.resource("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
        }
    }

    /// Adds the `X-Kubernetes-PF-*` headers.
    pub(crate) fn mark(&self, user: &UserInfo, headers: &mut HeaderMap) {
        let name = if user.in_group(SYSTEM_MASTERS) {
            "exempt"
        } else {
            "catch-all"
        };
        let uid = |reader: &Reader| -> Option<HeaderValue> {
            let object = reader.get("", name)?;
            let uid = object.value()["metadata"]["uid"].as_str()?.to_owned();
            HeaderValue::from_str(&uid).ok()
        };
        if let Some(uid) = uid(&self.schemas) {
            headers.insert("X-Kubernetes-Pf-Flowschema-Uid", uid);
        }
        if let Some(uid) = uid(&self.levels) {
            headers.insert("X-Kubernetes-Pf-Prioritylevel-Uid", uid);
        }
    }
}

/// The two objects that must always exist, as upstream's mandatory configuration.
pub(crate) fn mandatory() -> [(&'static str, Value); 4] {
    use serde_json::json;
    let level = |name: &str, spec: Value| {
        json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
            "metadata": {"name": name}, "spec": spec})
    };
    let schema = |name: &str, precedence: i64, subjects: Value, extra: Value| {
        let mut object = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
        "metadata": {"name": name}, "spec": {
            "priorityLevelConfiguration": {"name": name},
            "matchingPrecedence": precedence,
            "rules": [{
                "subjects": subjects,
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
                    "clusterScope": true, "namespaces": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            }],
        }});
        if !extra.is_null() {
            object["spec"]["distinguisherMethod"] = extra;
        }
        object
    };
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    [
        (
            "prioritylevelconfigurations",
            level(
                "exempt",
                json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
            ),
        ),
        (
            "prioritylevelconfigurations",
            level(
                "catch-all",
                json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5,
                "lendablePercent": 0, "limitResponse": {"type": "Reject"}}}),
            ),
        ),
        (
            "flowschemas",
            schema("exempt", 1, json!([group(SYSTEM_MASTERS)]), Value::Null),
        ),
        (
            "flowschemas",
            schema(
                "catch-all",
                10000,
                json!([group("system:unauthenticated"), group("system:authenticated")]),
                json!({"type": "ByUser"}),
            ),
        ),
    ]
}
