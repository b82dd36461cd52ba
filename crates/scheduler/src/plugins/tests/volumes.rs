//! Claims and volumes.

use serde_json::{Value, json};

use super::{check, hopeless};
use crate::testing::node;

fn claim(class: &str, volume: &str) -> Value {
    let mut claim = json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "default"},
        "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}});
    if !volume.is_empty() {
        claim["spec"]["volumeName"] = json!(volume);
        claim["status"] = json!({"phase": "Bound"});
    }
    claim
}

fn volume(name: &str, node: &str, size: &str) -> Value {
    json!({"kind": "PersistentVolume", "metadata": {"name": name}, "status": {"phase": "Available"},
        "spec": {"storageClassName": "late", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}})
}

fn class(provisioner: &str, mode: &str) -> Value {
    json!({"kind": "StorageClass", "metadata": {"name": "late"}, "provisioner": provisioner, "volumeBindingMode": mode})
}

/// What, the objects beside two nodes, the outcome.
type Row = (&'static str, Vec<Value>, Result<&'static [&'static str], String>);

#[tokio::test]
async fn claims_decide_where_a_pod_may_run() {
    let nodes = || vec![node("a", ""), node("b", "")];
    let pod =
        || json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    let waits = "WaitForFirstConsumer";
    let local = || class("kubernetes.io/no-provisioner", waits);
    let mut allowed = class("example.com/disks", waits);
    allowed["allowedTopologies"] =
        json!([{"matchLabelExpressions": [{"key": "kubernetes.io/hostname", "values": ["b"]}]}]);
    let mut lost = claim("late", "gone");
    lost["status"]["phase"] = json!("Lost");
    let refused = |reason: &str| Err(format!("0/2 nodes are available: {reason}. {}", hopeless(2)));
    let table: Vec<Row> = vec![
        (
            "no claim",
            vec![],
            refused("persistentvolumeclaim \"data\" not found"),
        ),
        (
            "lost",
            vec![lost],
            refused("persistentvolumeclaim \"data\" bound to non-existent persistentvolume \"gone\""),
        ),
        (
            "immediate",
            vec![claim("", "")],
            refused("pod has unbound immediate PersistentVolumeClaims"),
        ),
        (
            "bound",
            vec![claim("late", "v"), volume("v", "b", "1Gi")],
            Ok(&["b"]),
        ),
        (
            "bound elsewhere",
            vec![claim("late", "v"), volume("v", "z", "1Gi")],
            refused("2 node(s) didn't match PersistentVolume's node affinity"),
        ),
        (
            "volume gone",
            vec![claim("late", "v")],
            refused("2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"),
        ),
        (
            "late, a volume",
            vec![claim("late", ""), local(), volume("v", "b", "2Gi")],
            Ok(&["b"]),
        ),
        (
            "late, too small",
            vec![claim("late", ""), local(), volume("v", "b", "1Mi")],
            refused("2 node(s) didn't find available persistent volumes to bind"),
        ),
        (
            "late, provisioned",
            vec![claim("late", ""), class("example.com/disks", waits)],
            Ok(&["a", "b"]),
        ),
        (
            "late, provisioned in some places",
            vec![claim("late", ""), allowed],
            Ok(&["b"]),
        ),
    ];
    for (what, objects, expected) in table {
        check(what, &[nodes(), objects].concat(), pod(), expected);
    }
}

#[tokio::test]
async fn a_claim_for_one_pod_has_one_pod() {
    let mut exclusive = claim("late", "v");
    exclusive["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
    let using = |name: &str, node: &str| {
        json!({"kind": "Pod", "metadata": {"name": name}, "spec": {"nodeName": node,
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}})
    };
    let anywhere = json!({"kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {}});
    let world = [node("a", ""), node("b", ""), exclusive, anywhere];
    check("free", &world, using("new", ""), Ok(&["a", "b"]));
    let reason = "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and \
        ReadWriteOncePod access mode.";
    let expected = format!("{reason} {}", super::no_victims(2));
    check(
        "taken",
        &[&world[..], &[using("old", "b")]].concat(),
        using("new", ""),
        Err(expected),
    );
}
