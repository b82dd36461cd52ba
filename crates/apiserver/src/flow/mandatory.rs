//! The objects that must always exist, as upstream's mandatory configuration.

use serde_json::Value;

use crate::user::SYSTEM_MASTERS;

/// Resource and object, levels before the schemas that name them.
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
