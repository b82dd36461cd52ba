//! Affinity between pods and spreading.

use serde_json::{Value, json};

use super::{check, hopeless, no_victims};
use crate::testing::node;

const ZONE: &str = "topology.kubernetes.io/zone";

fn labelled(name: &str, node: &str, app: &str) -> Value {
    json!({"kind": "Pod", "metadata": {"name": name, "labels": {"app": app}}, "spec": {"nodeName": node}})
}

fn term(key: &str, app: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
}

fn wanting(app: &str, kind: &str, terms: Value) -> Value {
    json!({"metadata": {"name": "new", "labels": {"app": app}},
        "spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}})
}

fn zones() -> Vec<Value> {
    vec![
        node("a1", "a"),
        node("a2", "a"),
        node("b1", "b"),
        node("none", ""),
    ]
}

#[tokio::test]
async fn required_affinity() {
    let mut world = zones();
    world.push(labelled("db", "a1", "db"));
    check(
        "zone",
        &world,
        wanting("web", "podAffinity", json!([term(ZONE, "db")])),
        Ok(&["a1", "a2"]),
    );
    let host = "kubernetes.io/hostname";
    check(
        "host",
        &world,
        wanting("web", "podAffinity", json!([term(host, "db")])),
        Ok(&["a1"]),
    );
    let refused = format!(
        "0/4 nodes are available: 4 node(s) didn't match pod affinity rules. {}",
        hopeless(4)
    );
    check(
        "nobody",
        &world,
        wanting("web", "podAffinity", json!([term(ZONE, "cache")])),
        Err(refused.clone()),
    );
    // The first of its own kind may go anywhere where the label is.
    check(
        "itself",
        &world,
        wanting("web", "podAffinity", json!([term(ZONE, "web")])),
        Ok(&["a1", "a2", "b1"]),
    );
    let mut elsewhere = term(ZONE, "db");
    elsewhere["namespaces"] = json!(["other"]);
    check(
        "another namespace",
        &world,
        wanting("web", "podAffinity", json!([elsewhere])),
        Err(refused),
    );
    let mut by_labels = term(ZONE, "db");
    by_labels["namespaceSelector"] = json!({"matchLabels": {"team": "x"}});
    world.push(json!({"kind": "Namespace", "metadata": {"name": "default", "labels": {"team": "x"}}}));
    check(
        "namespaces by label",
        &world,
        wanting("web", "podAffinity", json!([by_labels])),
        Ok(&["a1", "a2"]),
    );
}

#[tokio::test]
async fn required_anti_affinity_holds_both_ways() {
    let mut world = zones();
    world.push(labelled("db", "a1", "db"));
    let away = |app: &str| wanting(app, "podAntiAffinity", json!([term(ZONE, "db")]));
    check("own", &world, away("web"), Ok(&["b1", "none"]));
    let mut existing = away("hermit");
    existing["kind"] = json!("Pod");
    existing["metadata"]["name"] = json!("hermit");
    existing["spec"]["nodeName"] = json!("b1");
    let world = [node("a1", "a"), node("b1", "b"), existing];
    check("theirs", &world, labelled("new", "", "db"), Ok(&["a1"]));
    let only = [world[1].clone(), world[2].clone()];
    let reason = "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.";
    check(
        "nowhere",
        &only,
        labelled("new", "", "db"),
        Err(format!("{reason} {}", no_victims(1))),
    );
}

fn spread(key: &str, skew: i32, extra: Value) -> Value {
    let mut constraint = json!({"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}});
    super::merge(&mut constraint, extra);
    json!({"metadata": {"name": "new", "labels": {"app": "web"}}, "spec": {"topologySpreadConstraints": [constraint]}})
}

#[tokio::test]
async fn spread_constraints() {
    let mut world = zones();
    world.push(labelled("one", "a1", "web"));
    check("skew of 1", &world, spread(ZONE, 1, json!({})), Ok(&["b1"]));
    check(
        "skew of 2",
        &world,
        spread(ZONE, 2, json!({})),
        Ok(&["a1", "a2", "b1"]),
    );
    check(
        "three domains wanted",
        &world,
        spread(ZONE, 1, json!({"minDomains": 3})),
        Ok(&["b1"]),
    );
    world.push(labelled("two", "b1", "web"));
    let reason = "0/4 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label), \
        3 node(s) didn't match pod topology spread constraints.";
    let preemption = "no new claims to deallocate, preemption: 0/4 nodes are available: 1 Preemption is not helpful for \
        scheduling, 3 No preemption victims found for incoming pod.";
    let refused = format!("{reason} {preemption}");
    check(
        "too few domains",
        &world,
        spread(ZONE, 1, json!({"minDomains": 3})),
        Err(refused),
    );
    // Zone b counts no more when the pod's own selector excludes it.
    let mut selective = spread(ZONE, 2, json!({}));
    selective["spec"]["nodeSelector"] = json!({ZONE: "a"});
    check(
        "only nodes that the pod may use",
        &world,
        selective,
        Ok(&["a1", "a2"]),
    );
    let mut other_version = spread(ZONE, 1, json!({"matchLabelKeys": ["version"]}));
    other_version["metadata"]["labels"]["version"] = json!("2");
    check("versions apart", &world, other_version, Ok(&["a1", "a2", "b1"]));
}
