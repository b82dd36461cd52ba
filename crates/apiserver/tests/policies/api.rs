//! Policies and bindings as objects: what clients do with them, what is refused, and what is found out about them.

use http::StatusCode;
use serde_json::{Value, json};

use super::support::{TestServer, eventually};
use super::*;

/// Valid specs of a policy and a binding.
fn specs(kind: &str) -> (Value, Value) {
    let mut spec = json!({"matchConstraints": writes("apps/v1/deployments")});
    let mut bound = json!({"policyName": "nothing"});
    if kind == "Mutating" {
        spec["reinvocationPolicy"] = json!("Never");
        spec["mutations"] = json!([{"patchType": "ApplyConfiguration",
            "applyConfiguration": {"expression": "Object{spec: Object.spec{replicas: 1}}"}}]);
    } else {
        spec["validations"] = json!([{"expression": "object.spec.replicas > 1"}]);
        bound["validationActions"] = json!(["Deny"]);
    }
    (spec, bound)
}

#[tokio::test]
async fn clients_work_with_policies_and_bindings() {
    let server = TestServer::start().await;
    // Conformance: should support … API operations, of all four kinds.
    let groups = server.ok("GET", "/apis", Value::Null).await;
    assert!(
        groups["groups"]
            .as_array()
            .unwrap()
            .iter()
            .any(|g| g["name"] == GROUP)
    );
    let versions = server.ok("GET", &format!("/apis/{GROUP}"), Value::Null).await;
    assert!(
        versions["versions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|v| v["version"] == "v1")
    );
    let listed = server.ok("GET", &format!("/apis/{GROUP}/v1"), Value::Null).await;
    let listed: Vec<&str> = listed["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    assert!(
        listed.contains(&"validatingadmissionpolicies/status"),
        "{listed:?}"
    );
    for kind in ["Validating", "Mutating"] {
        let (spec, bound) = specs(kind);
        let (policies, bindings) = resources(kind);
        for (resource, object) in [
            (policies, policy(kind, "x", spec)),
            (bindings, binding(kind, "x", bound)),
        ] {
            assert!(listed.contains(&resource.as_str()), "{resource}");
            operations(&server, &path(&resource), object).await;
        }
    }
    server.stop().await;
}

async fn operations(server: &TestServer, path: &str, mut object: Value) {
    object["metadata"] = json!({"generateName": "e2e-", "labels": {"special-label": "x"}});
    let created = server.ok("POST", path, object.clone()).await;
    let name = created["metadata"]["name"].as_str().unwrap().to_owned();
    let own = format!("{path}/{name}");
    assert_eq!(created["metadata"]["generation"], 1, "{path}");
    assert_eq!(
        server.ok("GET", &own, Value::Null).await["metadata"]["uid"],
        created["metadata"]["uid"]
    );
    if path.ends_with("validatingadmissionpolicies") {
        // Type checking writes once; after that nobody else does.
        eventually("type checking", || async {
            let policy = server.ok("GET", &own, Value::Null).await;
            (policy["status"]["observedGeneration"] == 1).then_some(())
        })
        .await;
    }
    for _ in 0..2 {
        server.ok("POST", path, object.clone()).await;
    }
    let selected = format!("{path}?labelSelector=special-label%3Dx");
    let list = server.ok("GET", &selected, Value::Null).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
    let version = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let patched = server
        .ok(
            "PATCH",
            &own,
            json!({"metadata": {"annotations": {"patched": "true"}}}),
        )
        .await;
    assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
    let mut update = server.ok("GET", &own, Value::Null).await;
    update["metadata"]["annotations"]["updated"] = json!("true");
    let updated = server.ok("PUT", &own, update).await;
    assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
    if path.ends_with("validatingadmissionpolicies") {
        let status = format!("{own}/status");
        let condition = json!({"type": "PatchStatusFailed", "status": "False", "reason": "by-patch", "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let patched = server
            .ok("PATCH", &status, json!({"status": {"conditions": [condition]}}))
            .await;
        assert_eq!(patched["status"]["conditions"][0]["type"], "PatchStatusFailed");
        let mut update = server.ok("GET", &status, Value::Null).await;
        update["status"]["conditions"][0]["type"] = json!("UpdateStatusFailed");
        let updated = server.ok("PUT", &status, update).await;
        assert_eq!(updated["status"]["conditions"][0]["type"], "UpdateStatusFailed");
    }
    server.ok("DELETE", &own, Value::Null).await;
    let (code, _, _) = server.json("GET", &own, Value::Null).await;
    assert_eq!(code, StatusCode::NOT_FOUND);
    server.ok("DELETE", &selected, Value::Null).await;
    let list = server.ok("GET", &selected, Value::Null).await;
    assert_eq!(list["items"], json!([]));
    // The watch from before saw it all.
    let watch = format!("{selected}&watch=1&timeoutSeconds=1&resourceVersion={version}");
    let (_, _, text) = server.get(&watch, &[]).await;
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let seen = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    assert!(seen("MODIFIED") >= 2 && seen("DELETED") == 3, "{path}: {text}");
}

/// Expects that an object is refused, for all these reasons.
async fn check(server: &TestServer, object: Value, expected: &[&str]) {
    let resource = object["kind"].as_str().unwrap().to_lowercase();
    let plural = match resource.strip_suffix("policy") {
        Some(stem) => format!("{stem}policies"),
        None => format!("{resource}s"),
    };
    let (code, text) = server.refused("POST", &path(&plural), object.clone()).await;
    assert_eq!(code, 422, "{object}: {text}");
    for part in expected {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

/// A valid policy with another value at one place of its spec.
fn with(kind: &str, pointer: &str, value: Value) -> Value {
    let (mut spec, _) = specs(kind);
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    spec.pointer_mut(parent).unwrap()[field] = value;
    policy(kind, "x", spec)
}

#[tokio::test]
async fn wrong_policies_are_refused() {
    let server = TestServer::start().await;
    let v = |pointer: &str, value: Value| with("Validating", pointer, value);
    check(
        &server,
        v("/failurePolicy", json!("Maybe")),
        &["spec.failurePolicy: Unsupported value: \"Maybe\""],
    )
    .await;
    check(
        &server,
        v("/matchConstraints", Value::Null),
        &["spec.matchConstraints: Required value"],
    )
    .await;
    check(
        &server,
        v("/matchConstraints/resourceRules", json!([])),
        &["spec.matchConstraints.resourceRules: Required value"],
    )
    .await;
    check(
        &server,
        v(
            "/matchConstraints/resourceRules",
            json!([{"operations": ["*", "CREATE"], "apiGroups": [], "apiVersions": ["v1"],
            "resources": ["pods"], "resourceNames": ["a", "a", "b/c"]}]),
        ),
        &[
            "resourceRules[0].operations: Invalid value",
            "if '*' is present, must not specify other operations",
            "resourceRules[0].apiGroups: Required value",
            "resourceRules[0].resourceNames[1]: Duplicate value: \"a\"",
            "resourceRules[0].resourceNames[2]: Invalid value: \"b/c\"",
        ],
    )
    .await;
    check(
        &server,
        v("/validations", json!([])),
        &[
            "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
            "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
        ],
    )
    .await;
    check(
        &server,
        v("/validations", json!([
            {"expression": "object.x >"}, {"expression": "object.x"}, {"expression": " "},
            {"expression": "true", "messageExpression": "1", "message": "a\nb", "reason": "Gone"},
            {"expression": "true", "messageExpression": "string(authorizer.path('/x').check('get').allowed())", "message": " "},
            {"expression": "params.x == 1"}])),
        &[
            "spec.validations[0].expression: Invalid value: \"object.x >\": compilation failed: ERROR: <input>:1:11: Syntax error",
            "spec.validations[1].expression: Invalid value: \"object.x\": must evaluate to bool",
            "spec.validations[2].expression: Required value: expression is not specified",
            "spec.validations[3].messageExpression: Invalid value: \"1\": must evaluate to string",
            "spec.validations[3].message: Invalid value: \"a\\nb\": message must not contain line breaks",
            "spec.validations[3].reason: Unsupported value: \"Gone\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
            "undeclared reference to 'authorizer'",
            "spec.validations[4].message: Invalid value: \" \": message must be non-empty if specified",
            "undeclared reference to 'params'",
        ],
    )
    .await;
    server.stop().await;
}

#[tokio::test]
async fn wrong_variables_and_annotations_are_refused() {
    let server = TestServer::start().await;
    let v = |pointer: &str, value: Value| with("Validating", pointer, value);
    check(
        &server,
        v(
            "/variables",
            json!([{"name": "a-b", "expression": "1"}, {"name": "c", "expression": "variables.d"},
            {"name": "d", "expression": "1 + 'x'"}, {"name": "for", "expression": ""}]),
        ),
        &[
            "spec.variables[0].name: Invalid value: \"a-b\": name is not a valid CEL identifier",
            "spec.variables[1].expression: Invalid value: \"variables.d\": compilation failed",
            "spec.variables[2].expression: Invalid value: \"1 + 'x'\": compilation failed",
            "spec.variables[3].name: Invalid value: \"for\": name is not a valid CEL identifier",
            "spec.variables[3].expression: Required value: expression is not specified",
        ],
    )
    .await;
    check(
        &server,
        v(
            "/auditAnnotations",
            json!([{"key": "a b", "valueExpression": "1"}, {"key": "c", "valueExpression": "''"},
            {"key": "c", "valueExpression": ""}]),
        ),
        &[
            "spec.auditAnnotations[0].key: Invalid value: \"x/a b\"",
            "must evaluate to one of [string null_type]",
            "spec.auditAnnotations[2].key: Duplicate value: \"c\"",
            "spec.auditAnnotations[2].valueExpression: Required value: valueExpression is not specified",
        ],
    )
    .await;
    check(
        &server,
        v("/paramKind", json!({"apiVersion": "a/b/c", "kind": "A_B"})),
        &[
            "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
            "spec.paramKind.kind: Invalid value: \"A_B\": may have mixed case, but should otherwise match: ",
        ],
    )
    .await;
    server.stop().await;
}

#[tokio::test]
async fn wrong_mutations_and_bindings_are_refused() {
    let server = TestServer::start().await;
    let m = |pointer: &str, value: Value| with("Mutating", pointer, value);
    check(
        &server,
        m("/mutations", json!([])),
        &["spec.mutations: Required value"],
    )
    .await;
    check(
        &server,
        m("/mutations", json!([
            {"patchType": "JSONPatch", "jsonPatch": {"expression": "[1]"}},
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object.spec{}"}},
            {"patchType": "ApplyConfiguration"},
            {"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{opp: 'add'}]"}}])),
        &[
            "spec.mutations[0].jsonPatch.expression: Invalid value: \"[1]\": must evaluate to list(JSONPatch)",
            "spec.mutations[1].applyConfiguration.expression: Invalid value: \"Object.spec{}\": must evaluate to Object",
            "spec.mutations[2].applyConfiguration: Required value: must be specified when patchType is ApplyConfiguration",
            "undefined field 'opp'",
        ],
    )
    .await;
    let bound = |spec: Value| binding("Validating", "x", spec);
    check(
        &server,
        bound(
            json!({"policyName": "", "validationActions": ["Deny", "Warn", "Deny"],
            "paramRef": {"name": "a", "selector": {}}}),
        ),
        &[
            "spec.policyName: Required value",
            "spec.validationActions[2]: Duplicate value: \"Deny\"",
            "must not contain both Deny and Warn",
            "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
            "spec.paramRef.parameterNotFoundAction: Required value",
        ],
    )
    .await;
    check(
        &server,
        bound(json!({"policyName": "a", "validationActions": [], "paramRef": {"parameterNotFoundAction": "Perhaps"}})),
        &[
            "spec.validationActions: Required value: at least one validation action is required",
            "spec.paramRef: Required value: one of name or selector must be specified",
            "spec.paramRef.parameterNotFoundAction: Unsupported value: \"Perhaps\"",
        ],
    )
    .await;
    server.stop().await;
}

#[tokio::test]
async fn expressions_are_type_checked() {
    let server = TestServer::start().await;
    define_limits(&server, "Cluster").await;
    let policies = path("validatingadmissionpolicies");
    let mut constraints = writes("apps/v1/deployments");
    constraints["resourceRules"][0]["resources"] =
        json!(["deployments", "replicasets", "deployments/status"]);
    let limits = writes("example.com/v1/limits")["resourceRules"][0].clone();
    constraints["resourceRules"].as_array_mut().unwrap().push(limits);
    let spec = json!({"matchConstraints": constraints,
        "variables": [{"name": "replicas", "expression": "object.spec.replicas"}],
        "validations": [{"expression": "object.metadata.name != ''", "messageExpression": "'a' + object.metadata.nam"},
            {"expression": "variables.replicas > '1'"}, {"expression": "object.spec.strategy.type == 'x'"}]});
    let checked = async |name: &str, generation: i64| {
        eventually("type checking", || async {
            let policy = server.ok("GET", &format!("{policies}/{name}"), Value::Null).await;
            (policy["status"]["observedGeneration"] == generation).then_some(policy)
        })
        .await
    };
    server
        .ok("POST", &policies, policy("Validating", "wrong", spec))
        .await;
    let mut policy_now = checked("wrong", 1).await;
    let warnings = policy_now["status"]["typeChecking"]["expressionWarnings"]
        .as_array()
        .unwrap();
    let fields: Vec<&str> = warnings.iter().map(|w| w["fieldRef"].as_str().unwrap()).collect();
    assert_eq!(
        fields,
        [
            "spec.validations[0].messageExpression",
            "spec.validations[1].expression",
            "spec.validations[2].expression"
        ]
    );
    let text = |at: usize| warnings[at]["warning"].as_str().unwrap();
    assert_eq!(
        text(0).matches("undefined field 'nam'").count(),
        3,
        "deployments, replica sets and limits: {}",
        text(0)
    );
    assert!(
        text(1).starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:20: found no matching overload for '_>_' applied to '(int, string)'"),
        "{}",
        text(1)
    );
    assert!(!text(2).contains("Kind=Deployment"), "{}", text(2));
    assert!(
        text(2).contains("apps/v1, Kind=ReplicaSet: ERROR: <input>:1:12: undefined field 'strategy'"),
        "{}",
        text(2)
    );
    assert!(text(2).contains("example.com/v1, Kind=Limit: "), "{}", text(2));

    policy_now["spec"]["validations"] = json!([{"expression": "object.metadata.name != ''"}]);
    let own = format!("{policies}/wrong");
    let current = server.ok("GET", &own, Value::Null).await;
    policy_now["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"].clone();
    server.ok("PUT", &own, policy_now).await;
    let policy_now = checked("wrong", 2).await;
    assert_eq!(policy_now["status"]["typeChecking"], json!({}));
    server.stop().await;
}

#[tokio::test]
async fn who_names_parameters_can_read_them() {
    let server = TestServer::start().await;
    let rule = |group: &str, resources: Value, verbs: Value| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    let group = "rbac.authorization.k8s.io";
    let role = |name: &str, rules: Value| {
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole",
        "metadata": {"name": name}, "rules": rules})
    };
    let bind = |name: &str| {
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "jane"}]})
    };
    let give = async |name: &str, rules: Value| {
        server
            .ok(
                "POST",
                &format!("/apis/{group}/v1/clusterroles"),
                role(name, rules),
            )
            .await;
        server
            .ok(
                "POST",
                &format!("/apis/{group}/v1/clusterrolebindings"),
                bind(name),
            )
            .await;
    };
    give("policies", json!([rule(GROUP, json!(["*"]), json!(["*"]))])).await;
    let attempt = async |resource: &str, object: &Value, code: u16, expected: &str| {
        eventually(expected, || async {
            let headers = [("content-type", "application/json"), ("impersonate-user", "jane")];
            let (got, _, text) = server
                .send("POST", &path(resource), &headers, object.to_string())
                .await;
            (got.as_u16() == code && text.contains(expected)).then_some(())
        })
        .await;
    };
    for kind in ["Validating", "Mutating"] {
        let (mut spec, mut bound) = specs(kind);
        let (policies, bindings) = resources(kind);
        spec["paramKind"] = json!({"apiVersion": "v1", "kind": "Secret"});
        bound["paramRef"] = json!({"name": "s", "namespace": "default", "parameterNotFoundAction": "Allow"});
        let (policy, bound) = (policy(kind, "secret", spec), binding(kind, "secret", bound));
        let why = "spec.paramKind: Forbidden: user &{jane  [system:authenticated] map[]} must have \\\"get\\\" permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)";
        let not_bound = "spec.paramRef: Forbidden: user &{jane  [system:authenticated] map[]} does not have \\\"get\\\" permission on the object referenced by paramRef";
        if kind == "Validating" {
            attempt(&policies, &policy, 422, why).await;
            attempt(&bindings, &bound, 422, not_bound).await;
            give("all", json!([rule("*", json!(["*"]), json!(["get"]))])).await;
        }
        attempt(&policies, &policy, 201, "secret").await;
        attempt(&bindings, &bound, 201, "secret").await;
    }
    server.stop().await;
}
