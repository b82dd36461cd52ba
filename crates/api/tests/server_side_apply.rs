//! Server-side apply, as a user of the crate sees it.

use keelson_api::patch::apply::{self, FieldSet, Request};
use keelson_api::schema::registry;
use keelson_api::status::Status;
use serde_json::{Value, json};

fn request<'a>(manager: &'a str, ignored: &'a FieldSet) -> Request<'a> {
    Request {
        schema: registry().by_gvk("apps", "v1", "Deployment").expect("Deployment"),
        manager,
        api_version: "apps/v1",
        subresource: "",
        now: "2026-01-02T03:04:05Z".parse().expect("time"),
        ignored,
    }
}

fn apply(live: &Value, manager: &str, spec: Value, force: bool) -> Result<Value, Status> {
    let ignored = apply::reset_fields("Deployment", true, "");
    let config =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec});
    apply::apply(&request(manager, &ignored), live, &config, force).map(|applied| applied.object)
}

fn new() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}})
}

fn owned(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"]
        .as_array()
        .expect("managedFields");
    entries
        .iter()
        .find(|e| e["manager"] == manager)
        .map_or(Value::Null, |e| e["fieldsV1"].clone())
}

fn containers(list: Value) -> Value {
    json!({"template": {"spec": {"containers": list}}})
}

#[test]
fn conflict_force_and_shared_ownership() {
    let one = apply(&new(), "a", json!({"replicas": 1}), false).expect("applies");
    assert_eq!(owned(&one, "a"), json!({"f:spec": {"f:replicas": {}}}));
    let error = apply(&one, "b", json!({"replicas": 2}), false).expect_err("conflict");
    assert_eq!(error.code, 409);
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas"
    );
    let cause = &error.details.expect("details").causes[0];
    assert_eq!(
        (cause.reason.as_str(), cause.field.as_str()),
        ("FieldManagerConflict", ".spec.replicas")
    );
    assert_eq!(cause.message, "conflict with \"a\"");
    let forced = apply(&one, "b", json!({"replicas": 2}), true).expect("forced");
    assert_eq!(forced["spec"]["replicas"], 2);
    assert_eq!(owned(&forced, "a"), Value::Null);
    let shared = apply(&forced, "a", json!({"replicas": 2}), false).expect("same value");
    assert_eq!(owned(&shared, "a"), owned(&shared, "b"));
    let left = apply(&shared, "b", json!({"paused": true}), false).expect("gives up");
    assert_eq!(left["spec"], json!({"replicas": 2, "paused": true}));
}

#[test]
fn fields_no_longer_applied_go() {
    let one = apply(&new(), "a", json!({"replicas": 1, "paused": true}), false).expect("applies");
    let two = apply(&one, "a", json!({"paused": true}), false).expect("applies");
    assert_eq!(two["spec"], json!({"paused": true}));
    let spec = containers(
        json!([{"name": "x", "image": "1"}, {"name": "y", "image": "1", "env": [{"name": "E", "value": "1"}]}]),
    );
    let one = apply(&new(), "a", spec, false).expect("applies");
    let mut live = one.clone();
    live["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = json!("Always");
    let two = apply(
        &live,
        "a",
        containers(json!([{"name": "y", "image": "2"}])),
        false,
    )
    .expect("applies");
    assert_eq!(
        two["spec"],
        containers(json!([{"name": "y", "image": "2", "imagePullPolicy": "Always"}]))
    );
}

#[test]
fn keyed_lists_with_defaulted_keys() {
    let ports = |list: Value| containers(json!([{"name": "x", "ports": list}]));
    let one = apply(&new(), "a", ports(json!([{"containerPort": 80}])), false).expect("applies");
    let key = "k:{\"containerPort\":80,\"protocol\":\"TCP\"}";
    let owned_ports =
        owned(&one, "a")["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"x\"}"]["f:ports"]
            .clone();
    assert_eq!(owned_ports, json!({key: {".": {}, "f:containerPort": {}}}));
    let mut live = one.clone();
    live["spec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"] = json!("TCP");
    let two = apply(
        &live,
        "b",
        ports(json!([{"containerPort": 80, "name": "http"}, {"containerPort": 80, "protocol": "UDP"}])),
        false,
    )
    .expect("applies");
    assert_eq!(
        two["spec"]["template"]["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 80, "name": "http", "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}])
    );
}

#[test]
fn lists_keep_the_applied_order() {
    let named = |names: &[&str]| containers(names.iter().map(|n| json!({"name": n})).collect());
    let one = apply(&new(), "a", named(&["a", "b", "c"]), false).expect("applies");
    let two = apply(&one, "b", named(&["c", "x", "a"]), false).expect("applies");
    let names: Vec<&str> = two["spec"]["template"]["spec"]["containers"]
        .as_array()
        .expect("list")
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert_eq!(names, ["b", "c", "x", "a"]);
}

#[test]
fn updates_are_tracked_and_conflict() {
    let ignored = FieldSet::new();
    let mut created = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"l": "1"}},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "strategy": {}}});
    apply::track_update(&request("kubectl-create", &ignored), None, &mut created);
    assert_eq!(
        owned(&created, "kubectl-create"),
        json!({"f:metadata": {"f:labels": {".": {}, "f:l": {}}},
               "f:spec": {"f:replicas": {}, "f:selector": {}}}),
        "spec and strategy are part of every Deployment, also of an empty one"
    );
    let mut updated = created.clone();
    updated["spec"]["replicas"] = json!(3);
    apply::track_update(&request("kubectl-edit", &ignored), Some(&created), &mut updated);
    assert_eq!(
        owned(&updated, "kubectl-edit"),
        json!({"f:spec": {"f:replicas": {}}})
    );
    assert_eq!(
        owned(&updated, "kubectl-create")["f:spec"],
        json!({"f:selector": {}})
    );
    let error = apply(&updated, "ssa", json!({"replicas": 5}), false).expect_err("conflict");
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using apps/v1: .spec.replicas"
    );
    let mut same = updated.clone();
    same["metadata"]["managedFields"] = json!([]);
    apply::track_update(&request("other", &ignored), Some(&updated), &mut same);
    assert_eq!(
        same, updated,
        "nothing changed, and an empty list does not forget"
    );
    let mut reset = updated.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    apply::track_update(&request("other", &ignored), Some(&updated), &mut reset);
    assert!(reset["metadata"].get("managedFields").is_none());
    let mut removed = updated.clone();
    removed["metadata"]
        .as_object_mut()
        .expect("metadata")
        .remove("labels");
    apply::track_update(&request("kubectl-edit", &ignored), Some(&updated), &mut removed);
    assert!(owned(&removed, "kubectl-create").get("f:metadata").is_none());
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let one = apply(&new(), "b", json!({"replicas": 1, "paused": true}), false).expect("applies");
    let two = apply(&one, "a", json!({"minReadySeconds": 1}), false).expect("applies");
    let error = apply(
        &two,
        "c",
        json!({"replicas": 2, "paused": false, "minReadySeconds": 2}),
        false,
    )
    .expect_err("409");
    assert_eq!(
        error.message,
        "Apply failed with 3 conflicts: conflicts with \"a\":\n- .spec.minReadySeconds\nconflicts with \"b\":\n\
         - .spec.paused\n- .spec.replicas"
    );
}

#[test]
fn objects_without_managers_get_one_before_the_first_apply() {
    let mut live = new();
    live["spec"] = json!({"replicas": 1});
    let error = apply(&live, "a", json!({"replicas": 2}), false).expect_err("conflict");
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn kubectl_takes_over_what_it_applied_on_the_client() {
    let ignored = FieldSet::new();
    let last = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 1}});
    let mut live = new();
    live["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": last.to_string()});
    live["spec"] = json!({"replicas": 1});
    apply::track_update(&request("kubectl-client-side-apply", &ignored), None, &mut live);
    let applied = apply(&live, "kubectl", json!({"replicas": 2}), false).expect("no conflict");
    assert_eq!(applied["spec"]["replicas"], 2);
    let annotation = &applied["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert!(
        annotation
            .as_str()
            .is_some_and(|text| text.contains("\"replicas\":2"))
    );
    apply(&live, "other", json!({"replicas": 2}), false).expect_err("conflict");
}

#[test]
fn bad_configurations_are_refused() {
    let check = |spec: Value, text: &str| {
        let error = apply(&new(), "a", spec, false).expect_err("refused");
        assert!(error.message.ends_with(text), "{}", error.message);
    };
    check(
        json!({"foo": 1}),
        "(/d; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema",
    );
    check(
        containers(json!([{"image": "x"}])),
        ".spec.template.spec.containers: element 0: associative list with keys \
        has an element that omits key field \"name\" (and doesn't have default value)",
    );
    check(
        containers(json!([{"name": "x"}, {"name": "x"}])),
        ".spec.template.spec.containers: duplicate entries for key [name=\"x\"]",
    );
    check(
        json!({"replicas": [1]}),
        ".spec.replicas: expected scalar, got [1]",
    );
    let ignored = FieldSet::new();
    let config = json!({"apiVersion": "apps/v2", "kind": "Deployment"});
    assert_eq!(
        apply::apply(&request("a", &ignored), &new(), &config, false)
            .expect_err("version")
            .code,
        400
    );
}

#[test]
fn status_is_not_owned_through_the_main_resource() {
    let ignored = apply::reset_fields("Deployment", true, "");
    let mut created = new();
    created["status"] = json!({"replicas": 1});
    created["spec"] = json!({"replicas": 1});
    apply::track_update(&request("m", &ignored), None, &mut created);
    assert!(owned(&created, "m").get("f:status").is_none());
}

#[test]
fn update_managers_are_bounded() {
    let ignored = FieldSet::new();
    let mut live = new();
    live["metadata"]["annotations"] = json!({});
    live["spec"] = json!({"replicas": 1});
    apply::track_update(&request("m0", &ignored), None, &mut live);
    for n in 1..20 {
        let name = format!("m{n:02}");
        let mut next = live.clone();
        next["metadata"]["annotations"][&name] = json!("x");
        let mut request = request(&name, &ignored);
        request.now += jiff::SignedDuration::from_secs(n);
        apply::track_update(&request, Some(&live), &mut next);
        live = next;
    }
    let entries = live["metadata"]["managedFields"].as_array().expect("list");
    assert_eq!(entries.len(), 10);
    assert!(
        owned(&live, "ancient-changes")["f:metadata"]["f:annotations"]
            .get("f:m05")
            .is_some()
    );
}

#[test]
fn large_lists_are_tracked_in_reasonable_time() {
    let ignored = FieldSet::new();
    let names = |from: usize| {
        containers(
            (from..from + 30_000)
                .rev()
                .map(|n| json!({"name": n.to_string()}))
                .collect(),
        )
    };
    let mut one = new();
    one["spec"] = names(0);
    apply::track_update(&request("m", &ignored), None, &mut one);
    let mut two = one.clone();
    two["spec"] = names(15_000);
    apply::track_update(&request("n", &ignored), Some(&one), &mut two);
    apply(&two, "o", names(20_000), true).expect("applies");
}
