//! Namespaces, priority classes, and the objects of priority and fairness that exist in every cluster.

use serde_json::{Value, json};

const FLOW: &str = "flowcontrol.apiserver.k8s.io/v1";

/// The namespaces of the system.
pub(super) fn namespaces() -> Vec<Value> {
    ["kube-system", "default", "kube-public", "kube-node-lease"]
        .iter()
        .map(|name| {
            json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
                "spec": {"finalizers": ["kubernetes"]},
                "status": {"phase": "Active"},
            })
        })
        .collect()
}

/// `system-node-critical` and `system-cluster-critical`.
pub(super) fn priority_classes() -> Vec<Value> {
    let class = |name: &str, value: i64, description: &str| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name, "generation": 1},
            "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority",
        })
    };
    vec![
        class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ]
}

/// Priority levels: name, nominal shares, lendable percent, queues, hand size, queue length (no queues: reject).
const LEVELS: [(&str, i64, i64, i64, i64, i64); 7] = [
    ("system", 30, 33, 64, 6, 50),
    ("node-high", 40, 25, 64, 6, 50),
    ("leader-election", 10, 0, 16, 4, 50),
    ("workload-high", 40, 50, 128, 6, 50),
    ("workload-low", 100, 90, 128, 6, 50),
    ("global-default", 20, 50, 128, 6, 50),
    ("catch-all", 5, 0, 0, 0, 0),
];

/// The priority levels, mandatory and suggested ones.
pub(super) fn priority_levels() -> Vec<Value> {
    let level = |name: &str, spec: Value| {
        json!({
            "apiVersion": FLOW, "kind": "PriorityLevelConfiguration",
            "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}}, "spec": spec,
        })
    };
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let mut all = vec![level("exempt", exempt)];
    for (name, shares, lendable, queues, hand, length) in LEVELS {
        let response = match queues {
            0 => json!({"type": "Reject"}),
            _ => json!({"type": "Queue",
                "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}}),
        };
        let limited = json!({
            "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response,
        });
        all.push(level(name, json!({"type": "Limited", "limited": limited})));
    }
    all
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn accounts(namespace: &str, name: &str) -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}})
}

fn resources(
    verbs: &[&str],
    groups: &[&str],
    resources: &[&str],
    namespaces: &[&str],
    cluster: bool,
) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": groups, "resources": resources});
    if cluster {
        rule["clusterScope"] = true.into();
    }
    if !namespaces.is_empty() {
        rule["namespaces"] = json!(namespaces);
    }
    rule
}

fn everything() -> (Vec<Value>, Vec<Value>) {
    (
        vec![resources(&["*"], &["*"], &["*"], &["*"], true)],
        vec![json!({"verbs": ["*"], "nonResourceURLs": ["*"]})],
    )
}

/// The flow schemas, mandatory and suggested ones.
pub(super) fn flow_schemas() -> Vec<Value> {
    let leases = |namespaces: &[&str]| {
        vec![resources(
            &["get", "create", "update"],
            &["coordination.k8s.io"],
            &["leases"],
            namespaces,
            false,
        )]
    };
    let schema = |name: &str,
                  level: &str,
                  precedence: i64,
                  by: Option<&str>,
                  subjects: Vec<Value>,
                  (resources, other): (Vec<Value>, Vec<Value>)| {
        let mut rule = json!({"subjects": subjects});
        if !resources.is_empty() {
            rule["resourceRules"] = resources.into();
        }
        if !other.is_empty() {
            rule["nonResourceRules"] = other.into();
        }
        let mut spec = json!({
            "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule],
        });
        if let Some(by) = by {
            spec["distinguisherMethod"] = json!({"type": by});
        }
        json!({
            "apiVersion": FLOW, "kind": "FlowSchema",
            "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}}, "spec": spec,
        })
    };
    let user_flow = Some("ByUser");
    let anyone = || vec![group("system:unauthenticated"), group("system:authenticated")];
    let probes = (
        vec![],
        vec![json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]})],
    );
    let controllers = [
        "endpoint-controller",
        "endpointslice-controller",
        "endpointslicemirroring-controller",
    ];
    let mut endpoint_subjects = vec![user("system:kube-controller-manager")];
    endpoint_subjects.extend(controllers[..1].iter().map(|c| accounts("kube-system", c)));
    endpoint_subjects.extend(controllers[1..].iter().map(|c| accounts("kube-system", c)));
    let endpoints = vec![
        resources(&["get", "create", "update"], &[""], &["endpoints"], &["*"], false),
        resources(
            &["get", "create", "update"],
            &["discovery.k8s.io"],
            &["endpointslices"],
            &["*"],
            false,
        ),
    ];
    let node_high = vec![
        resources(&["*"], &[""], &["nodes", "nodes/status"], &["*"], true),
        resources(&["*"], &["coordination.k8s.io"], &["leases"], &["*"], false),
    ];
    let leaders = vec![
        user("system:kube-controller-manager"),
        user("system:kube-scheduler"),
        accounts("kube-system", "*"),
    ];
    let (controller_manager, scheduler) = (
        user("system:kube-controller-manager"),
        user("system:kube-scheduler"),
    );
    vec![
        schema(
            "exempt",
            "exempt",
            1,
            None,
            vec![group("system:masters")],
            everything(),
        ),
        schema("probes", "exempt", 2, None, anyone(), probes),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            user_flow,
            leaders,
            (leases(&["kube-system"]), vec![]),
        ),
        schema(
            "endpoint-controller",
            "workload-high",
            150,
            user_flow,
            endpoint_subjects,
            (endpoints, vec![]),
        ),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            user_flow,
            vec![accounts("kube-system", "*")],
            (leases(&["*"]), vec![]),
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            user_flow,
            vec![group("system:nodes")],
            (node_high, vec![]),
        ),
        schema(
            "system-nodes",
            "system",
            500,
            user_flow,
            vec![group("system:nodes")],
            everything(),
        ),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            Some("ByNamespace"),
            vec![controller_manager],
            everything(),
        ),
        schema(
            "kube-scheduler",
            "workload-high",
            800,
            Some("ByNamespace"),
            vec![scheduler],
            everything(),
        ),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            Some("ByNamespace"),
            vec![accounts("kube-system", "*")],
            everything(),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            user_flow,
            vec![group("system:serviceaccounts")],
            everything(),
        ),
        schema(
            "global-default",
            "global-default",
            9900,
            user_flow,
            anyone(),
            everything(),
        ),
        schema("catch-all", "catch-all", 10000, user_flow, anyone(), everything()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_go_to_levels_that_exist() {
        let levels = priority_levels();
        for schema in flow_schemas() {
            let level = &schema["spec"]["priorityLevelConfiguration"]["name"];
            assert!(levels.iter().any(|l| l["metadata"]["name"] == *level), "{level}");
        }
    }
}
