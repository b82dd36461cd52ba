//! Which of the feasible nodes is the best.

use serde_json::{Value, json};

use super::with;
use crate::testing::{World, node, requesting};

#[track_caller]
fn best(what: &str, world: &[Value], pod: Value, expected: &str) {
    let ranked = World::new(world).ranked(pod);
    assert_eq!(ranked[0].0, expected, "{what}: {ranked:?}");
    assert!(ranked[0].1 > ranked[1].1, "{what} is no tie: {ranked:?}");
}

#[tokio::test]
async fn each_plugin_can_decide() {
    let cpu = |name: &str, node: &str, cpu: &str| requesting(name, node, 0, json!({"cpu": cpu}));
    best(
        "least allocated",
        &[node("a", ""), node("b", ""), cpu("p", "a", "2")],
        cpu("new", "", "1"),
        "b",
    );
    let dislike = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    best(
        "soft taint",
        &[with(node("a", ""), dislike), node("b", "")],
        json!({}),
        "b",
    );
    let preferred = json!([{"weight": 1, "preference": {"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}]}}]);
    let affinity = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}});
    best(
        "preferred node",
        &[node("a", ""), node("b", "")],
        json!({"spec": {"affinity": affinity}}),
        "b",
    );
    let image = |size: i64| json!({"status": {"images": [{"names": ["docker.io/library/i:latest"], "sizeBytes": size}]}});
    let wants = json!({"spec": {"containers": [{"name": "c", "image": "docker.io/library/i"}]}});
    best(
        "image",
        &[node("a", ""), with(node("b", ""), image(900_000_000))],
        wants,
        "b",
    );
    let fill = |node: &str, memory: &str, cpu: &str| {
        requesting(
            &format!("on-{node}"),
            node,
            0,
            json!({"memory": memory, "cpu": cpu}),
        )
    };
    let world = [
        node("a", ""),
        node("b", ""),
        fill("a", "1Gi", "3"),
        fill("b", "4Gi", "1500m"),
    ];
    best(
        "balance",
        &world,
        requesting("new", "", 0, json!({"cpu": "100m", "memory": "100Mi"})),
        "b",
    );
}

#[tokio::test]
async fn pods_of_a_service_are_spread_by_default() {
    let service = json!({"kind": "Service", "metadata": {"name": "s", "namespace": "default"},
        "spec": {"selector": {"app": "web"}}});
    let web = |name: &str, node: &str| json!({"kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}}, "spec": {"nodeName": node}});
    // Node a runs more that is not the service's, so that only spreading speaks against b.
    let other = requesting("other", "a", 0, json!({"cpu": "100m", "memory": "200Mi"}));
    let world = [node("a", ""), node("b", ""), service, web("one", "b"), other];
    best("the emptier node", &world, web("new", ""), "a");
}

#[tokio::test]
async fn pods_attract_and_repel_each_other() {
    let term = |weight: i32| {
        json!([{"weight": weight, "podAffinityTerm": {"topologyKey": "topology.kubernetes.io/zone",
            "labelSelector": {"matchLabels": {"app": "db"}}}}])
    };
    let db = json!({"kind": "Pod", "metadata": {"name": "db", "labels": {"app": "db"}}, "spec": {"nodeName": "a"}});
    let world = [node("a", "x"), node("b", "y"), db];
    let prefers = |kind: &str| json!({"spec": {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": term(100)}}}});
    best("affinity", &world, prefers("podAffinity"), "a");
    best("anti-affinity", &world, prefers("podAntiAffinity"), "b");
}
