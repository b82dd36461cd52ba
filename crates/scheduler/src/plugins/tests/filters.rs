//! Filters that look at one node alone.

use serde_json::json;

use super::{check, hopeless, no_victims, with};
use crate::testing::{node, requesting};

#[tokio::test]
async fn node_name_and_cordon() {
    let cordoned = with(node("a", ""), json!({"spec": {"unschedulable": true}}));
    let world = [cordoned, node("b", "")];
    check("cordoned", &world, json!({}), Ok(&["b"]));
    let tolerations = json!([{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]);
    check(
        "tolerated",
        &world,
        json!({"spec": {"tolerations": tolerations}}),
        Ok(&["a", "b"]),
    );
    let message = format!(
        "0/2 nodes are available: 1 node(s) didn't match the requested node name, 1 node(s) were unschedulable. {}",
        hopeless(2)
    );
    check("named", &world, json!({"spec": {"nodeName": "a"}}), Err(message));
}

#[tokio::test]
async fn taints() {
    let tainted = |effect: &str| {
        with(
            node("a", ""),
            json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}}),
        )
    };
    let refused = || {
        format!(
            "0/1 nodes are available: 1 node(s) had untolerated taint(s). {}",
            hopeless(1)
        )
    };
    for (effect, toleration, fits) in [
        ("NoSchedule", json!(null), false),
        ("NoExecute", json!(null), false),
        ("PreferNoSchedule", json!(null), true),
        (
            "NoSchedule",
            json!({"key": "k", "operator": "Equal", "value": "v"}),
            true,
        ),
        (
            "NoSchedule",
            json!({"key": "k", "value": "v", "effect": "NoSchedule"}),
            true,
        ),
        (
            "NoSchedule",
            json!({"key": "k", "value": "v", "effect": "NoExecute"}),
            false,
        ),
        ("NoSchedule", json!({"key": "k", "value": "w"}), false),
        ("NoSchedule", json!({"key": "k", "operator": "Exists"}), true),
        ("NoSchedule", json!({"operator": "Exists"}), true),
        ("NoSchedule", json!({"key": "l", "operator": "Exists"}), false),
    ] {
        let tolerations = if toleration.is_null() {
            json!([])
        } else {
            json!([toleration])
        };
        let what = format!("{effect} {tolerations}");
        let expected: Result<&[&str], _> = if fits { Ok(&["a"]) } else { Err(refused()) };
        check(
            &what,
            &[tainted(effect)],
            json!({"spec": {"tolerations": tolerations}}),
            expected,
        );
    }
}

#[tokio::test]
async fn node_affinity() {
    let world = [
        with(
            node("a", "x"),
            json!({"metadata": {"labels": {"disk": "ssd", "cpus": "4"}}}),
        ),
        with(
            node("b", "y"),
            json!({"metadata": {"labels": {"disk": "hdd", "cpus": "8"}}}),
        ),
    ];
    let refused = || {
        let reason = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
        format!("{reason} {}", hopeless(2))
    };
    let required = |terms| {
        json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": terms}}}}})
    };
    let term = |key: &str, operator: &str, values: &[&str]| json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]);
    let name =
        |name: &str| json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]);
    let selector = |disk: &str| json!({"spec": {"nodeSelector": {"disk": disk}}});
    check("selector", &world, selector("ssd"), Ok(&["a"]));
    check("selector of nothing", &world, selector("tape"), Err(refused()));
    check(
        "In",
        &world,
        required(term("disk", "In", &["hdd", "tape"])),
        Ok(&["b"]),
    );
    check(
        "NotIn",
        &world,
        required(term("disk", "NotIn", &["hdd"])),
        Ok(&["a"]),
    );
    check(
        "Exists",
        &world,
        required(term("disk", "Exists", &[])),
        Ok(&["a", "b"]),
    );
    check(
        "DoesNotExist",
        &world,
        required(term("disk", "DoesNotExist", &[])),
        Err(refused()),
    );
    check("Gt", &world, required(term("cpus", "Gt", &["4"])), Ok(&["b"]));
    check("Lt", &world, required(term("cpus", "Lt", &["8"])), Ok(&["a"]));
    check(
        "no terms",
        &world,
        required(json!([])),
        Err("0/2 nodes are available: pod affinity terms conflict. ".to_owned() + &hopeless(2)),
    );
    check("empty term", &world, required(json!([{}])), Err(refused()));
    check("name", &world, required(name("b")), Ok(&["b"]));
    let absent = "0/2 nodes are available: 2 node(s) didn't satisfy plugin(s) [NodeAffinity].";
    check(
        "name of nobody",
        &world,
        required(name("z")),
        Err(format!("{absent} {}", hopeless(2))),
    );
}

#[tokio::test]
async fn host_ports() {
    let with_port = |name: &str, node: &str, port: serde_json::Value| {
        json!({"kind": "Pod", "metadata": {"name": name}, "spec": {"nodeName": node,
            "containers": [{"name": "c", "image": "i", "ports": [port]}]}})
    };
    let running = with_port(
        "running",
        "a",
        json!({"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.1"}),
    );
    let refused = || {
        let reason = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
        format!("{reason} {}", no_victims(1))
    };
    for (port, fits) in [
        (json!({"containerPort": 1, "hostPort": 81}), true),
        (json!({"containerPort": 1}), true),
        (json!({"containerPort": 1, "hostPort": 80}), false),
        (
            json!({"containerPort": 1, "hostPort": 80, "protocol": "UDP"}),
            true,
        ),
        (
            json!({"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.2"}),
            true,
        ),
        (
            json!({"containerPort": 1, "hostPort": 80, "hostIP": "0.0.0.0"}),
            false,
        ),
    ] {
        let expected: Result<&[&str], _> = if fits { Ok(&["a"]) } else { Err(refused()) };
        let what = port.to_string();
        check(
            &what,
            &[node("a", ""), running.clone()],
            with_port("new", "", port),
            expected,
        );
    }
}

#[tokio::test]
async fn resources() {
    let world = [
        node("a", ""),
        requesting("running", "a", 0, json!({"cpu": "3", "memory": "6Gi"})),
    ];
    let message =
        |reasons: &str, preemption: String| format!("0/1 nodes are available: {reasons}. {preemption}");
    for (requests, refusal) in [
        (json!({"cpu": "1", "memory": "2Gi"}), None),
        (
            json!({"cpu": "1001m"}),
            Some(message("1 Insufficient cpu", no_victims(1))),
        ),
        (
            json!({"cpu": "5"}),
            Some(message("1 Insufficient cpu", hopeless(1))),
        ),
        (
            json!({"cpu": "2", "memory": "3Gi"}),
            Some(message(
                "1 Insufficient cpu, 1 Insufficient memory",
                no_victims(1),
            )),
        ),
        (
            json!({"example.com/gpu": "1"}),
            Some(message("1 Insufficient example.com/gpu", hopeless(1))),
        ),
        (
            json!({"ephemeral-storage": "1"}),
            Some(message("1 Insufficient ephemeral-storage", hopeless(1))),
        ),
    ] {
        let expected: Result<&[&str], _> = refusal.map_or(Ok(&["a"]), Err);
        check(
            &requests.to_string(),
            &world,
            requesting("new", "", 0, requests.clone()),
            expected,
        );
    }
    let mut crowded = vec![node("a", "")];
    crowded.extend((0..10).map(|at| requesting(&format!("p{at}"), "a", 0, json!({}))));
    check(
        "too many",
        &crowded,
        json!({}),
        Err(message("1 Too many pods", no_victims(1))),
    );
}

#[tokio::test]
async fn init_containers_sidecars_pod_level_and_overhead_count() {
    let container = |cpu: &str, restart: &str| {
        let mut container = json!({"name": "i", "image": "i", "resources": {"requests": {"cpu": cpu}}});
        if !restart.is_empty() {
            container["restartPolicy"] = json!(restart);
        }
        container
    };
    for (what, spec, expected) in [
        (
            "largest init",
            json!({"initContainers": [container("2", ""), container("3", "")], "containers": [container("1", "")]}),
            3000,
        ),
        (
            "sidecar and container",
            json!({"initContainers": [container("1", "Always")], "containers": [container("1", "")]}),
            2000,
        ),
        (
            "init beside sidecar",
            json!({"initContainers": [container("1", "Always"), container("2", "")], "containers": [container("1", "")]}),
            3000,
        ),
        (
            "sidecar after init",
            json!({"initContainers": [container("3", ""), container("1", "Always")], "containers": [container("1", "")]}),
            3000,
        ),
        (
            "overhead",
            json!({"overhead": {"cpu": "250m"}, "containers": [container("1", "")]}),
            1250,
        ),
        (
            "pod level",
            json!({"resources": {"requests": {"cpu": "4"}}, "containers": [container("1", "")]}),
            4000,
        ),
    ] {
        assert_eq!(
            crate::testing::pod(json!({"spec": spec})).requests.milli_cpu,
            expected,
            "{what}"
        );
    }
}

#[tokio::test]
async fn pods_with_device_claims_are_told_that_they_wait_for_nothing() {
    let spec = json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}]});
    let reason = "0/1 nodes are available: pod has resource claims, which this scheduler does not allocate.";
    check(
        "claims",
        &[node("a", "")],
        json!({"spec": spec}),
        Err(format!("{reason} {}", hopeless(1))),
    );
}
