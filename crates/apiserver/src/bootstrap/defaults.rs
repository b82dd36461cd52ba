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

/// What a flow schema matches: resource rules and other rules.
type Rules = (Vec<Value>, Vec<Value>);

const BY_USER: Option<&str> = Some("ByUser");
const BY_NAMESPACE: Option<&str> = Some("ByNamespace");

fn schema(
    name: &str,
    level: &str,
    precedence: i64,
    by: Option<&str>,
    subjects: &[Value],
    rules: Rules,
) -> Value {
    let mut rule = json!({"subjects": subjects});
    if !rules.0.is_empty() {
        rule["resourceRules"] = rules.0.into();
    }
    if !rules.1.is_empty() {
        rule["nonResourceRules"] = rules.1.into();
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
}

/// The flow schemas, mandatory and suggested ones.
pub(super) fn flow_schemas() -> Vec<Value> {
    const WRITE: [&str; 3] = ["get", "create", "update"];
    let leases = |namespaces: &[&str]| -> Rules {
        (
            vec![resources(
                &WRITE,
                &["coordination.k8s.io"],
                &["leases"],
                namespaces,
                false,
            )],
            vec![],
        )
    };
    let anyone = [group("system:unauthenticated"), group("system:authenticated")];
    let probes = json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]});
    let (manager, scheduler) = (
        user("system:kube-controller-manager"),
        user("system:kube-scheduler"),
    );
    let system_accounts = accounts("kube-system", "*");
    let endpoint_controllers = [
        manager.clone(),
        accounts("kube-system", "endpoint-controller"),
        accounts("kube-system", "endpointslice-controller"),
        accounts("kube-system", "endpointslicemirroring-controller"),
    ];
    let endpoints = vec![
        resources(&WRITE, &[""], &["endpoints"], &["*"], false),
        resources(&WRITE, &["discovery.k8s.io"], &["endpointslices"], &["*"], false),
    ];
    let node_high = vec![
        resources(&["*"], &[""], &["nodes", "nodes/status"], &["*"], true),
        resources(&["*"], &["coordination.k8s.io"], &["leases"], &["*"], false),
    ];
    let leaders = [manager.clone(), scheduler.clone(), system_accounts.clone()];
    let nodes = [group("system:nodes")];
    let every_account = [group("system:serviceaccounts")];
    let all = everything;
    vec![
        schema("exempt", "exempt", 1, None, &[group("system:masters")], all()),
        schema("probes", "exempt", 2, None, &anyone, (vec![], vec![probes])),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            BY_USER,
            &leaders,
            leases(&["kube-system"]),
        ),
        schema(
            "endpoint-controller",
            "workload-high",
            150,
            BY_USER,
            &endpoint_controllers,
            (endpoints, vec![]),
        ),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            BY_USER,
            std::slice::from_ref(&system_accounts),
            leases(&["*"]),
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            BY_USER,
            &nodes,
            (node_high, vec![]),
        ),
        schema("system-nodes", "system", 500, BY_USER, &nodes, all()),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            BY_NAMESPACE,
            &[manager],
            all(),
        ),
        schema(
            "kube-scheduler",
            "workload-high",
            800,
            BY_NAMESPACE,
            &[scheduler],
            all(),
        ),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            BY_NAMESPACE,
            &[system_accounts],
            all(),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            BY_USER,
            &every_account,
            all(),
        ),
        schema("global-default", "global-default", 9900, BY_USER, &anyone, all()),
        schema("catch-all", "catch-all", 10000, BY_USER, &anyone, all()),
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
