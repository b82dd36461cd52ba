use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::ApiResource;
use serde_json::{Value, json};

use super::collect::{OwnerState, Verdict, verdict};
use super::graph::{Graph, Task};
use crate::served::ServedResource;

fn resource(kind: &str, namespaced: bool) -> Arc<ServedResource> {
    let api = ApiResource {
        group: String::new(),
        version: "v1".into(),
        api_version: "v1".into(),
        kind: kind.into(),
        plural: format!("{}s", kind.to_lowercase()),
    };
    Arc::new(ServedResource::new(api, namespaced, &["list", "watch", "delete"]))
}

struct Bench {
    graph: Graph,
}

impl Bench {
    fn observe(&mut self, kind: &str, uid: &str, meta: Value) -> Vec<String> {
        let mut meta: ObjectMeta = serde_json::from_value(meta).unwrap();
        meta.uid = Some(uid.into());
        meta.name = meta.name.or_else(|| Some(uid.into()));
        meta.namespace = (kind != "Node").then(|| meta.namespace.unwrap_or_else(|| "ns".into()));
        texts(self.graph.observe(&resource(kind, kind != "Node"), &meta))
    }

    fn forget(&mut self, uid: &str) -> Vec<String> {
        texts(self.graph.forget(uid))
    }
}

fn texts(tasks: Vec<Task>) -> Vec<String> {
    tasks.iter().map(ToString::to_string).collect()
}

fn owned_by(kind: &str, owner: &str, blocking: bool) -> Value {
    json!({"ownerReferences": [
        {"apiVersion": "v1", "kind": kind, "name": owner, "uid": owner, "blockOwnerDeletion": blocking}
    ]})
}

fn deleting(finalizer: &str) -> Value {
    json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [finalizer]})
}

#[test]
fn dependents_are_checked_when_their_owner_goes() {
    let mut bench = Bench {
        graph: Graph::default(),
    };
    assert_eq!(bench.observe("Owner", "o", json!({})), [""; 0]);
    assert_eq!(bench.observe("Pod", "a", owned_by("Owner", "o", true)), [""; 0]);
    assert_eq!(bench.observe("Pod", "b", owned_by("Owner", "o", false)), [""; 0]);
    assert_eq!(bench.forget("o"), ["check a", "check b"]);
    assert_eq!(bench.forget("o"), [""; 0]);
    // An owner that nobody has seen is asked for; one that comes later quiets nothing that is wrong.
    assert_eq!(
        bench.observe("Pod", "c", owned_by("Owner", "p", false)),
        ["check c"]
    );
    assert_eq!(bench.observe("Owner", "p", json!({})), [""; 0]);
    assert_eq!(
        bench.observe("Pod", "d", owned_by("Other", "p", false)),
        ["check d"]
    );
    let mut elsewhere = owned_by("Owner", "p", false);
    elsewhere["namespace"] = json!("other");
    assert_eq!(bench.observe("Pod", "e", elsewhere), ["check e"]);
    assert_eq!(
        bench.observe("Pod", "f", owned_by("Node", "n", false)),
        ["check f"]
    );
    assert_eq!(bench.observe("Node", "n", json!({})), [""; 0]);
}

#[test]
fn foreground_deletion_waits_for_blocking_dependents_only() {
    let mut bench = Bench {
        graph: Graph::default(),
    };
    bench.observe("Owner", "o", json!({}));
    bench.observe("Pod", "a", owned_by("Owner", "o", true));
    bench.observe("Pod", "b", owned_by("Owner", "o", false));
    let wanted = ["check o", "check a", "check b"];
    assert_eq!(
        bench.observe("Owner", "o", deleting("foregroundDeletion")),
        wanted
    );
    assert_eq!(
        bench.observe("Owner", "o", deleting("foregroundDeletion")),
        [""; 0],
        "once"
    );
    assert_eq!(bench.graph.blocking_dependents("o"), [("a".into(), false)]);
    assert_eq!(bench.forget("a"), ["check o"]);
    assert!(bench.graph.blocking_dependents("o").is_empty());
    // A new one whose owner waits is looked at at once; one that stops blocking lets the owner be looked at.
    assert_eq!(
        bench.observe("Pod", "c", owned_by("Owner", "o", true)),
        ["check c"]
    );
    assert_eq!(
        bench.observe("Pod", "c", owned_by("Owner", "o", false)),
        ["check o", "check c"]
    );
    assert_eq!(bench.observe("Pod", "c", json!({})), ["check o"]);
}

#[test]
fn orphaning_begins_once() {
    let mut bench = Bench {
        graph: Graph::default(),
    };
    bench.observe("Owner", "o", json!({"finalizers": ["orphan"]}));
    assert_eq!(
        bench.observe("Owner", "o", deleting("orphan")),
        ["orphan dependents of o"]
    );
    assert_eq!(bench.observe("Owner", "o", deleting("orphan")), [""; 0]);
    // The controller was away when it began.
    assert_eq!(
        bench.observe("Owner", "p", deleting("orphan")),
        ["orphan dependents of p"]
    );
}

#[test]
fn relists_find_what_went_away() {
    let mut bench = Bench {
        graph: Graph::default(),
    };
    bench.observe("Owner", "o", json!({}));
    bench.observe("Owner", "p", json!({}));
    bench.observe("Pod", "a", json!({}));
    let listed = std::iter::once("p".into()).collect();
    assert_eq!(
        bench.graph.unlisted(&resource("Owner", true), &listed),
        ["o".into()]
    );
}

#[test]
fn verdicts() {
    use OwnerState::{Absent, Solid, Waiting};
    let check = |owners: &[OwnerState], has_dependents, expected| {
        assert_eq!(
            verdict(owners, has_dependents),
            expected,
            "{owners:?} {has_dependents}"
        );
    };
    check(&[], false, Verdict::Keep);
    check(&[Solid], true, Verdict::Keep);
    check(&[Solid, Absent], false, Verdict::Trim);
    check(&[Solid, Waiting], true, Verdict::Trim);
    check(&[Absent], true, Verdict::Delete(false));
    check(&[Waiting], false, Verdict::Delete(false));
    check(&[Waiting, Absent], true, Verdict::Delete(true));
}
