//! The cache: what snapshots see, what they share, and assumptions.

use std::sync::Arc;

use serde_json::json;

use super::{Cache, Snapshot};
use crate::testing::{World, node, pod, requesting};

fn on(name: &str, node: &str) -> Arc<super::PodInfo> {
    pod(requesting(name, node, 0, json!({"cpu": "1"})))
}

fn cpu_of(snapshot: &Snapshot, node: &str) -> i64 {
    snapshot.get(node).unwrap().requested.milli_cpu
}

#[tokio::test]
async fn only_changed_nodes_are_copied() {
    let World {
        mut cache,
        mut snapshot,
        ..
    } = World::new(&[node("a", ""), node("b", "")]);
    let before = snapshot.nodes.clone();
    cache.set_pod(on("p", "a"));
    assert_eq!(cpu_of(&snapshot, "a"), 0, "a snapshot does not change by itself");
    cache.update(&mut snapshot);
    assert_eq!(cpu_of(&snapshot, "a"), 1000);
    let same = |name: &str| {
        let old = before.iter().find(|node| node.name() == name).unwrap();
        Arc::ptr_eq(old, snapshot.get(name).unwrap())
    };
    assert_eq!((same("a"), same("b")), (false, true));
}

#[tokio::test]
async fn assumptions_are_confirmed_or_forgotten() {
    let World {
        mut cache,
        mut snapshot,
        ..
    } = World::new(&[node("a", ""), node("b", "")]);
    let assumed = on("p", "a");
    assert!(cache.assume(assumed.clone()));
    assert!(!cache.assume(assumed.clone()), "once only");
    assert!(cache.is_assumed(&assumed.uid));
    assert!(cache.forget(&assumed.uid));
    cache.update(&mut snapshot);
    assert_eq!(cpu_of(&snapshot, "a"), 0);

    cache.assume(assumed.clone());
    // The server knows it on another node: that is the truth.
    cache.set_pod(on("p", "b"));
    assert!(!cache.forget(&assumed.uid), "confirmed");
    cache.update(&mut snapshot);
    assert_eq!((cpu_of(&snapshot, "a"), cpu_of(&snapshot, "b")), (0, 1000));
}

#[tokio::test]
async fn nodes_come_and_go_apart_from_their_pods() {
    let mut cache = Cache::default();
    let mut snapshot = Snapshot::default();
    cache.set_pod(on("early", "a"));
    cache.update(&mut snapshot);
    assert_eq!(snapshot.len(), 0, "a pod alone is no node");
    let object = Arc::new(serde_json::from_value(node("a", "")).unwrap());
    cache.set_node(&object);
    cache.update(&mut snapshot);
    assert_eq!(cpu_of(&snapshot, "a"), 1000);
    cache.remove_node("a");
    cache.update(&mut snapshot);
    assert_eq!(snapshot.len(), 0);
    cache.set_node(&object);
    cache.update(&mut snapshot);
    assert_eq!(cpu_of(&snapshot, "a"), 1000, "its pod was remembered");
}

#[tokio::test]
async fn nodes_alternate_between_zones() {
    let world = World::new(&[
        node("a1", "a"),
        node("a2", "a"),
        node("a3", "a"),
        node("b1", "b"),
        node("b2", "b"),
    ]);
    let order: Vec<_> = world.snapshot.nodes.iter().map(|node| node.name()).collect();
    assert_eq!(order, ["a1", "b1", "a2", "b2", "a3"]);
}

#[tokio::test]
async fn images_are_counted_over_nodes() {
    let with_image = |name: &str, image: &str| {
        let mut node = node(name, "");
        node["status"]["images"] = json!([{"names": [image], "sizeBytes": 1}]);
        node
    };
    let World {
        mut cache,
        mut snapshot,
        ..
    } = World::new(&[with_image("a", "x:1"), with_image("b", "x:1")]);
    assert_eq!(snapshot.image_nodes.get("x:1"), Some(&2));
    cache.set_node(&Arc::new(serde_json::from_value(with_image("a", "y:1")).unwrap()));
    cache.remove_node("b");
    cache.update(&mut snapshot);
    assert_eq!(
        (snapshot.image_nodes.get("x:1"), snapshot.image_nodes.get("y:1")),
        (None, Some(&1))
    );
}
