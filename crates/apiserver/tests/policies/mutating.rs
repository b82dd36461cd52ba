//! MutatingAdmissionPolicy.

use serde_json::{Value, json};

use super::support::TestServer;
use super::*;

const M: &str = "Mutating";

fn apply(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn patch(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

fn spec(resource: &str, mutations: Value) -> Value {
    json!({"matchConstraints": writes(resource), "reinvocationPolicy": "Never", "mutations": mutations})
}

#[tokio::test]
async fn deployments_are_mutated() {
    let server = TestServer::start().await;
    // Conformance: should mutate a Deployment; with annotations.
    let mutations = json!([
        apply("Object{spec: Object.spec{replicas: object.spec.replicas + 1}}"),
        apply("Object{metadata: Object.metadata{annotations: {'my-foo-annotation': 'myAnnotationValue'}}}"),
    ]);
    install(
        &server,
        M,
        "deployments",
        spec("apps/v1/deployments", mutations),
        Value::Null,
    )
    .await;
    let created = server.ok("POST", DEPLOYMENTS, deployment("d", 2)).await;
    assert_eq!(created["spec"]["replicas"], 3);
    assert_eq!(
        created["metadata"]["annotations"],
        json!({"my-foo-annotation": "myAnnotationValue"})
    );
    // Also an update, and a server-side apply.
    let mut again = created;
    again["spec"]["replicas"] = json!(5);
    let updated = server.ok("PUT", &format!("{DEPLOYMENTS}/d"), again).await;
    assert_eq!(updated["spec"]["replicas"], 6);
    remove(&server, M, "deployments").await;

    // Lists merge by their keys; what is added is defaulted; atomic parts are refused.
    let mutations = json!([apply(
        "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{
            initContainers: [Object.spec.template.spec.initContainers{name: 'init', image: 'i', ?tty: optional.of(true)}],
            containers: object.spec.template.spec.containers.map(c, Object.spec.template.spec.containers{
                name: c.name, image: 'registry.example/' + c.image})}}}}"
    )]);
    install(
        &server,
        M,
        "containers",
        spec("apps/v1/deployments", mutations),
        Value::Null,
    )
    .await;
    let created = server.ok("POST", DEPLOYMENTS, deployment("e", 1)).await;
    let pod = &created["spec"]["template"]["spec"];
    assert_eq!(
        (
            &pod["initContainers"][0]["terminationMessagePolicy"],
            &pod["initContainers"][0]["tty"]
        ),
        (&json!("File"), &json!(true))
    );
    assert_eq!(
        (
            &pod["containers"][0]["name"],
            &pod["containers"][0]["image"],
            pod["containers"].as_array().unwrap().len()
        ),
        (&json!("c"), &json!("registry.example/i"), 1)
    );
    remove(&server, M, "containers").await;
    for (name, expression, expected) in [
        (
            "atomic",
            "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{nodeSelector: {'a': 'b'}}}}}",
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.template.spec.nodeSelector",
        ),
        (
            "unknown",
            "Object{spec: Object.spec{nothing: 1}}",
            "error applying patch: failed to convert patch object to typed object: .spec.nothing: field not declared in schema",
        ),
        (
            "error",
            "Object{spec: Object.spec{replicas: object.spec.missing}}",
            "expression 'Object{spec: Object.spec{replicas: object.spec.missing}}' resulted in error: no such key: missing",
        ),
    ] {
        let mut spec = spec("apps/v1/deployments", json!([apply(expression)]));
        install(&server, M, name, spec.clone(), Value::Null).await;
        let (code, _, status) = server.json("POST", DEPLOYMENTS, deployment("f", 1)).await;
        let message = format!("policy '{name}' with binding '{name}-binding' denied request: {expected}");
        assert_eq!(
            (code.as_u16(), &status["reason"], &status["message"]),
            (403, &json!("Invalid"), &json!(message))
        );
        assert_eq!(status["details"]["causes"], json!([{"message": message}]));
        remove(&server, M, name).await;
        spec["failurePolicy"] = json!("Ignore");
        install(&server, M, name, spec, Value::Null).await;
        server
            .ok("POST", &format!("{DEPLOYMENTS}?dryRun=All"), deployment("f", 1))
            .await;
        remove(&server, M, name).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn json_patches_apply() {
    let server = TestServer::start().await;
    let mutations = json!([
        patch("[JSONPatch{op: 'test', path: '/data/kind', value: 'x'},
            JSONPatch{op: 'add', path: '/data/seen', value: 'yes'}]"),
        patch("has(object.data.seen) ? [JSONPatch{op: 'add',
            path: '/metadata/labels', value: {'from/policy': 'a'}},
            JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('more/labels'), value: object.data.kind},
            JSONPatch{op: 'copy', from: '/data/kind', path: '/data/copy'},
            JSONPatch{op: 'remove', path: '/data/kind'}] : [JSONPatch{op: 'test', path: '/data', value: {}}]"),
    ]);
    install(
        &server,
        M,
        "patches",
        spec("/v1/configmaps", mutations),
        Value::Null,
    )
    .await;
    let created = server.ok("POST", MAPS, map("a", json!({"kind": "x"}))).await;
    assert_eq!(created["data"], json!({"seen": "yes", "copy": "x"}));
    assert_eq!(
        created["metadata"]["labels"],
        json!({"from/policy": "a", "more/labels": "x"})
    );
    // A test that fails changes nothing.
    let created = server.ok("POST", MAPS, map("b", json!({"kind": "y"}))).await;
    assert_eq!(created["data"], json!({"kind": "y"}));
    remove(&server, M, "patches").await;

    let broken = json!([patch("[JSONPatch{op: 'remove', path: '/data/missing'}]")]);
    install(&server, M, "broken", spec("/v1/configmaps", broken), Value::Null).await;
    let (code, text) = server.refused("POST", MAPS, map("c", json!({}))).await;
    let expected = "policy 'broken' with binding 'broken-binding' denied request: JSONPath: ";
    assert!(code == 403 && text.starts_with(expected), "{code} {text}");
    remove(&server, M, "broken").await;
    let unknown = json!([patch("[JSONPatch{op: 'add', path: '/nothing', value: 1}]")]);
    install(
        &server,
        M,
        "unknown",
        spec("/v1/configmaps", unknown),
        Value::Null,
    )
    .await;
    let (code, text) = server.refused("POST", MAPS, map("c", json!({}))).await;
    assert!(
        code == 500 && text.contains("strict decoding error: unknown field \"nothing\""),
        "{code} {text}"
    );
    server.stop().await;
}

#[tokio::test]
async fn policies_have_parameters_and_are_run_again() {
    let server = TestServer::start().await;
    // "first" comes first, and sees what "second" did only when it is run again.
    let add = |key: &str| json!([apply(&format!("Object{{data: {{'{key}': 'yes'}}}}"))]);
    let mut first = spec("/v1/configmaps", add("first"));
    first["matchConditions"] =
        json!([{"name": "second", "expression": "has(object.data.second) || has(object.data.any)"}]);
    install(&server, M, "first", first.clone(), Value::Null).await;
    install(
        &server,
        M,
        "second",
        spec("/v1/configmaps", add("second")),
        Value::Null,
    )
    .await;
    let created = server.ok("POST", MAPS, map("a", json!({"k": "v"}))).await;
    assert_eq!(created["data"], json!({"k": "v", "second": "yes"}));
    remove(&server, M, "first").await;
    // Only what was run can be run again.
    let mut counter = spec(
        "/v1/configmaps",
        json!([apply(
            "Object{data: {'count': has(object.data.count) ? object.data.count + 'i' : 'i'}}"
        )]),
    );
    counter["matchConditions"] =
        json!([{"name": "few", "expression": "!has(object.data.count) || object.data.count.size() < 5"}]);
    counter["reinvocationPolicy"] = json!("IfNeeded");
    install(&server, M, "first", counter, Value::Null).await;
    let created = server.ok("POST", MAPS, map("b", json!({"k": "v"}))).await;
    assert_eq!(created["data"], json!({"k": "v", "count": "ii", "second": "yes"}));
    remove(&server, M, "first").await;
    remove(&server, M, "second").await;

    // Each parameter is a call; a custom resource is mutated and gives parameters.
    define_limits(&server, "Namespaced").await;
    let limits = "/apis/example.com/v1/namespaces/default/limits";
    for (name, tag) in [("one", "a"), ("two", "b")] {
        let limit = json!({"apiVersion": "example.com/v1", "kind": "Limit",
            "metadata": {"name": name, "labels": {"tags": "yes"}}, "tags": [tag]});
        server.ok("POST", limits, limit).await;
    }
    let mut tagged = spec(
        "/v1/configmaps",
        json!([patch(
            "[JSONPatch{op: 'add', path: '/data/' + variables.name, value: params.tags.join(',')}]"
        )]),
    );
    tagged["paramKind"] = json!({"apiVersion": "example.com/v1", "kind": "Limit"});
    tagged["variables"] = json!([{"name": "name", "expression": "params.metadata.name"}]);
    let reference = json!({"paramRef": {"selector": {"matchLabels": {"tags": "yes"}}, "parameterNotFoundAction": "Deny"}});
    install(&server, M, "tagged", tagged, reference).await;
    let created = server.ok("POST", MAPS, map("c", json!({"k": "v"}))).await;
    assert_eq!(created["data"], json!({"k": "v", "one": "a", "two": "b"}));
    remove(&server, M, "tagged").await;

    let mutations = json!([
        apply("Object{max: 3, options: Object.options{fast: true}}"),
        patch("[JSONPatch{op: 'add', path: '/unknown', value: 1}]"),
    ]);
    install(
        &server,
        M,
        "limits",
        spec("example.com/v1/limits", mutations),
        Value::Null,
    )
    .await;
    let limit = json!({"apiVersion": "example.com/v1", "kind": "Limit", "metadata": {"name": "x"}, "max": 1});
    let created = server.ok("POST", limits, limit).await;
    assert_eq!(
        (&created["max"], &created["options"], created.get("unknown")),
        (&json!(3), &json!({"fast": true}), None)
    );

    // What policies make is judged by validating policies.
    install(
        &server,
        "Validating",
        "judge",
        json!({"matchConstraints": writes("example.com/v1/limits"),
        "validations": [{"expression": "object.max < 3"}]}),
        json!({"validationActions": ["Deny"]}),
    )
    .await;
    let limit = json!({"apiVersion": "example.com/v1", "kind": "Limit", "metadata": {"name": "y"}, "max": 1});
    let (_, text) = server.refused("POST", limits, limit).await;
    assert!(text.ends_with("failed expression: object.max < 3"), "{text}");
    server.stop().await;
}
