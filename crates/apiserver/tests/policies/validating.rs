//! ValidatingAdmissionPolicy.

use keelson_apiserver::{AuditConfig, AuditLog, AuditPolicy};
use serde_json::{Value, json};

use super::support::{TestServer, eventually};
use super::*;

const V: &str = "Validating";

fn deny() -> Value {
    json!({"validationActions": ["Deny"]})
}

/// A policy about writes of config maps with these validations.
fn maps(validations: Value) -> Value {
    json!({"matchConstraints": writes("/v1/configmaps"), "validations": validations})
}

#[tokio::test]
async fn deployments_are_validated_and_variables_shared() {
    let server = TestServer::start().await;
    // Conformance: should validate against a Deployment.
    let spec = json!({"matchConstraints": writes("apps/v1/deployments"), "validations": [
        {"expression": "object.spec.replicas > 1",
            "messageExpression": "'wants replicas > 1, got ' + string(object.spec.replicas)"},
        {"expression": "namespaceObject.metadata.name == 'default'", "message": "Internal error!"}]});
    install(&server, V, "replicas", spec, deny()).await;
    let (code, _, status) = server.json("POST", DEPLOYMENTS, deployment("d", 1)).await;
    let why = "ValidatingAdmissionPolicy 'replicas' with binding 'replicas-binding' denied request: wants replicas > 1, got 1";
    assert_eq!(code, 422);
    assert_eq!(
        (&status["message"], &status["reason"]),
        (
            &json!(format!("deployments.apps \"d\" is forbidden: {why}")),
            &json!("Invalid")
        )
    );
    assert_eq!(
        status["details"],
        json!({"name": "d", "group": "apps", "kind": "deployments", "causes": [{"message": why}]})
    );
    server.ok("POST", DEPLOYMENTS, deployment("d", 2)).await;
    let scale = json!({"spec": {"replicas": 1}});
    server.refused("PATCH", &format!("{DEPLOYMENTS}/d"), scale).await;
    remove(&server, V, "replicas").await;

    // Conformance: should allow expressions to refer variables.
    let spec = json!({"matchConstraints": writes("apps/v1/deployments"),
        "variables": [{"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "oddReplicas", "expression": "variables.replicas % 2 == 1"},
            {"name": "unused", "expression": "1 / 0"}],
        "validations": [{"expression": "variables.replicas > 1",
                // Text and a number cannot be added, so this says nothing.
                "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas"},
            {"expression": "variables.oddReplicas", "reason": "Forbidden"},
            {"expression": "has(variables.replicas) && variables.?nothing.orValue(true)"}]});
    let (code, text) = server
        .refused(
            "POST",
            &path("validatingadmissionpolicies"),
            policy(V, "odd", spec.clone()),
        )
        .await;
    assert!(
        code == 422 && text.contains("undefined field 'nothing'"),
        "{text}"
    );
    let mut spec = spec;
    spec["validations"][2]["expression"] = json!("has(variables.replicas)");
    install(&server, V, "odd", spec, deny()).await;
    for (replicas, expected) in [
        (1, Some((422, "failed expression: variables.replicas > 1"))),
        (2, Some((403, "failed expression: variables.oddReplicas"))),
        (3, None),
    ] {
        let object = deployment(&format!("v{replicas}"), replicas);
        match expected {
            Some((code, why)) => {
                let (got, text) = server.refused("POST", DEPLOYMENTS, object).await;
                assert!(got == code && text.ends_with(why), "{got} {text}");
            }
            None => drop(server.ok("POST", DEPLOYMENTS, object).await),
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn actions_warn_and_audit() {
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("audit.log");
    let log = AuditLog {
        path: file.clone(),
        max_size: 0,
        max_backups: 0,
        max_age: 0,
    };
    let rules = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n  resources: [{group: \"\", resources: [configmaps]}]\n";
    let server = TestServer::start_with(|config| {
        config.audit = Some(AuditConfig {
            policy: AuditPolicy::parse(rules).unwrap(),
            log: Some(log),
            webhook: None,
        });
    })
    .await;
    let mut spec = maps(
        json!([{"expression": "true"}, {"expression": "has(object.data.owner)", "message": "no owner"}]),
    );
    spec["auditAnnotations"] = json!([
        {"key": "name", "valueExpression": "'it is ' + object.metadata.name"},
        {"key": "nothing", "valueExpression": "null"}]);
    install(
        &server,
        V,
        "owner",
        spec,
        json!({"validationActions": ["Warn", "Audit"]}),
    )
    .await;
    let (code, headers, _) = server.json("POST", MAPS, map("a", json!({"k": "v"}))).await;
    assert_eq!(code, 201);
    assert_eq!(
        headers["warning"],
        "299 - \"Validation failed for ValidatingAdmissionPolicy 'owner' with binding 'owner-binding': no owner\""
    );
    server.stop().await;
    let text = std::fs::read_to_string(file).unwrap();
    let event: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let annotations = &event["annotations"];
    assert_eq!(annotations["owner/name"], "it is a");
    assert_eq!(annotations.get("owner/nothing"), None);
    let failure = annotations["validation.policy.admission.k8s.io/validation_failure"]
        .as_str()
        .unwrap();
    let failure: Value = serde_json::from_str(failure).unwrap();
    assert_eq!(
        failure,
        json!([{"message": "no owner", "policy": "owner", "binding": "owner-binding", "expressionIndex": 1,
            "validationActions": ["Warn", "Audit"]}])
    );
}

#[tokio::test]
async fn parameters_are_chosen_by_name_and_selector() {
    let server = TestServer::start().await;
    let maps_of = |namespace: &str| format!("/api/v1/namespaces/{namespace}/configmaps");
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}});
    server.ok("POST", "/api/v1/namespaces", namespace).await;
    let mut spec = json!({"matchConstraints": writes("/v1/secrets"),
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.metadata.name.size() <= int(params.data.max)",
            "messageExpression": "'longer than ' + params.metadata.name"}]});
    let secret = |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    let secrets = |namespace: &str| format!("/api/v1/namespaces/{namespace}/secrets");

    // In the request's namespace.
    let named = json!({"validationActions": ["Deny"], "paramRef": {"name": "four", "parameterNotFoundAction": "Deny"}});
    install(&server, V, "size", spec.clone(), named).await;
    let (code, text) = server.refused("POST", &secrets("default"), secret("abcde")).await;
    let why = "denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    assert!(code == 422 && text.ends_with(why), "{code} {text}");
    server
        .ok("POST", &maps_of("default"), map("four", json!({"max": "4"})))
        .await;
    let (code, text) = server.refused("POST", &secrets("default"), secret("abcde")).await;
    assert!(
        code == 422 && text.ends_with("denied request: longer than four"),
        "{code} {text}"
    );
    server.ok("POST", &secrets("default"), secret("abcd")).await;
    server.refused("POST", &secrets("other"), secret("a")).await;
    remove(&server, V, "size").await;

    // In one namespace; not found is allowed.
    let named = |namespace: &str| {
        json!({"validationActions": ["Deny"],
        "paramRef": {"name": "four", "namespace": namespace, "parameterNotFoundAction": "Allow"}})
    };
    install(&server, V, "fixed", spec.clone(), named("default")).await;
    server.refused("POST", &secrets("other"), secret("abcde")).await;
    remove(&server, V, "fixed").await;
    install(&server, V, "missing", spec.clone(), named("other")).await;
    server.ok("POST", &secrets("other"), secret("abcdef")).await;
    remove(&server, V, "missing").await;

    // Each that is selected is asked.
    for (name, max) in [("six", "6"), ("seven", "7")] {
        let mut object = map(name, json!({"max": max}));
        object["metadata"]["labels"] = json!({"limit": "yes"});
        server.ok("POST", &maps_of("default"), object).await;
    }
    let selected = json!({"validationActions": ["Deny"],
        "paramRef": {"selector": {"matchLabels": {"limit": "yes"}}, "parameterNotFoundAction": "Deny"}});
    install(&server, V, "selected", spec.clone(), selected).await;
    let (_, text) = server
        .refused("POST", &secrets("default"), secret("abcdefg"))
        .await;
    assert!(text.ends_with("longer than six"), "{text}");
    server.ok("POST", &secrets("default"), secret("abcdef")).await;
    remove(&server, V, "selected").await;

    // Cluster-scoped custom resources; their kind has to be served.
    spec["paramKind"] = json!({"apiVersion": "example.com/v1", "kind": "Limit"});
    spec["validations"] =
        json!([{"expression": "params == null || object.metadata.name.size() <= params.max"}]);
    let named = |more: Value| {
        let mut reference = json!({"name": "main", "parameterNotFoundAction": "Deny"});
        for (field, value) in more.as_object().into_iter().flatten() {
            reference[field] = value.clone();
        }
        json!({"validationActions": ["Deny"], "paramRef": reference})
    };
    install(&server, V, "custom", spec.clone(), named(Value::Null)).await;
    let (_, text) = server.refused("POST", &secrets("default"), secret("x")).await;
    let why = "ValidatingAdmissionPolicy 'custom' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'example.com/v1, Kind=Limit'";
    assert!(text.ends_with(why), "{text}");
    define_limits(&server, "Cluster").await;
    let limit =
        json!({"apiVersion": "example.com/v1", "kind": "Limit", "metadata": {"name": "main"}, "max": 8});
    server.ok("POST", "/apis/example.com/v1/limits", limit).await;
    server
        .refused("POST", &secrets("default"), secret("abcdefghi"))
        .await;
    server.ok("POST", &secrets("default"), secret("abcdefgh")).await;
    remove(&server, V, "custom").await;
    install(
        &server,
        V,
        "namespaced",
        spec.clone(),
        named(json!({"namespace": "default"})),
    )
    .await;
    let (_, text) = server.refused("POST", &secrets("default"), secret("y")).await;
    assert!(
        text.ends_with("paramRef.namespace must not be provided for a cluster-scoped `paramKind`"),
        "{text}"
    );
    remove(&server, V, "namespaced").await;
    // A binding without a reference asks without parameters.
    install(&server, V, "without", spec, deny()).await;
    server
        .ok("POST", &secrets("default"), secret("abcdefghijkl"))
        .await;
    server.stop().await;
}

#[tokio::test]
async fn requests_are_matched() {
    let server = TestServer::start().await;
    for (name, labels) in [("free", json!({"free": "yes"})), ("bound", json!({}))] {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        server.ok("POST", "/api/v1/namespaces", namespace).await;
    }
    let no = json!([{"expression": "false", "message": "no"}]);
    let mut spec = maps(no.clone());
    let constraints = &mut spec["matchConstraints"];
    constraints["resourceRules"][0]["resourceNames"] = json!(["a", "b", "c"]);
    let mut excluded = constraints["resourceRules"].clone();
    excluded[0]["resourceNames"] = json!(["b"]);
    constraints["excludeResourceRules"] = excluded;
    constraints["namespaceSelector"] =
        json!({"matchExpressions": [{"key": "free", "operator": "DoesNotExist"}]});
    spec["matchConditions"] = json!([{"name": "no-c", "expression": "object.metadata.name != 'c'"}]);
    let resources = json!({"validationActions": ["Deny"], "matchResources": {"objectSelector":
        {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]}}});
    install(&server, V, "some", spec, resources).await;
    for (namespace, name, labels, allowed) in [
        ("bound", "a", json!({}), false),
        ("bound", "a", json!({"skip": "x"}), true),
        ("bound", "b", json!({}), true),
        ("bound", "c", json!({}), true),
        ("bound", "d", json!({}), true),
        ("free", "a", json!({}), true),
    ] {
        let mut object = map(name, json!({}));
        object["metadata"]["labels"] = labels;
        let path = format!("/api/v1/namespaces/{namespace}/configmaps?dryRun=All");
        let (code, _, answer) = server.json("POST", &path, object.clone()).await;
        assert_eq!(code.is_success(), allowed, "{namespace} {object}: {answer}");
    }
    remove(&server, V, "some").await;

    // Equivalent: what is said of v1 is asked about v2, in v1.
    let spec = |policy: &str| {
        let mut constraints = writes("autoscaling/v1/horizontalpodautoscalers");
        constraints["matchPolicy"] = json!(policy);
        json!({"matchConstraints": constraints, "validations": [{"expression":
            "object.spec.targetCPUUtilizationPercentage < 50 && request.kind.version == 'v1'
                && request.requestKind.version == 'v2'"}]})
    };
    let autoscaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 55}}}]}});
    let autoscalers = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers?dryRun=All";
    install(&server, V, "equivalent", spec("Equivalent"), deny()).await;
    server.refused("POST", autoscalers, autoscaler.clone()).await;
    let mut less = autoscaler.clone();
    less["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] = json!(45);
    server.ok("POST", autoscalers, less).await;
    remove(&server, V, "equivalent").await;
    install(&server, V, "exact", spec("Exact"), deny()).await;
    server.ok("POST", autoscalers, autoscaler).await;

    // Deletions have an old object only; policies do not judge policies.
    let rule = |group: &str, resource: &str, operation: &str| {
        json!({"resourceRules": [{"operations": [operation],
        "apiGroups": [group], "apiVersions": ["*"], "resources": [resource]}]})
    };
    let spec = json!({"matchConstraints": rule("", "configmaps", "DELETE"), "validations":
        [{"expression": "object == null && !has(oldObject.data.keep)", "message": "kept"}]});
    install(&server, V, "deletions", spec, deny()).await;
    server.ok("POST", MAPS, map("kept", json!({"keep": "x"}))).await;
    let (_, text) = server
        .refused("DELETE", &format!("{MAPS}/kept"), Value::Null)
        .await;
    assert!(text.ends_with("denied request: kept"), "{text}");
    let spec = json!({"matchConstraints": rule("*", "*", "*"), "validations": no});
    install(&server, V, "everything", spec, deny()).await;
    server.refused("POST", MAPS, map("x", json!({}))).await;
    remove(&server, V, "everything").await;
    server.ok("POST", MAPS, map("x", json!({}))).await;
    server.stop().await;
}

#[tokio::test]
async fn failures_and_budgets_count() {
    let server = TestServer::start().await;
    let with = |failure: &str, expression: &str| {
        let mut spec = maps(json!([{"expression": expression}]));
        spec["failurePolicy"] = json!(failure);
        spec
    };
    // A question to the authorizer costs 350,000; an expression may cost 1,000,000, all of a policy 10,000,000.
    let question = "authorizer.path('/x').check('get').allowed()";
    let heavy = [question; 3].join(" && ");
    for (name, expression, data, expected) in [
        (
            "key",
            "object.data.x == '1'",
            json!({"k": "v"}),
            "expression 'object.data.x == '1'' resulted in error: no such key: x",
        ),
        (
            "division",
            "1 / (object.data.size() - 1) == 1",
            json!({"a": "1"}),
            "division by zero",
        ),
        (
            "heavy",
            heavy.as_str(),
            json!({"k": "v"}),
            "operation cancelled: actual cost limit exceeded",
        ),
    ] {
        install(&server, V, name, with("Fail", expression), deny()).await;
        let (code, text) = server.refused("POST", MAPS, map(name, data.clone())).await;
        assert!(code == 422 && text.ends_with(expected), "{code} {text}");
        remove(&server, V, name).await;
        install(&server, V, name, with("Ignore", expression), deny()).await;
        server.ok("POST", MAPS, map(name, data)).await;
        remove(&server, V, name).await;
    }
    // The budget of the policy.
    let mut spec = with("Fail", "true");
    spec["validations"] = json!(vec![json!({"expression": question}); 30]);
    install(&server, V, "budget", spec, deny()).await;
    let (code, text) = server.refused("POST", MAPS, map("b", json!({"k": "v"}))).await;
    let expected =
        "validation failed due to running out of cost budget, no further validation rules will be run";
    assert!(code == 422 && text.ends_with(expected), "{code} {text}");
    remove(&server, V, "budget").await;

    // Match conditions fail too, and have a policy's parameters.
    let mut spec = with("Fail", "false");
    spec["matchConditions"] = json!([{"name": "a", "expression": "object.data.on == 'yes'"}]);
    install(&server, V, "conditions", spec, deny()).await;
    server.ok("POST", MAPS, map("off", json!({"on": "no"}))).await;
    let (_, text) = server.refused("POST", MAPS, map("on", json!({"k": "v"}))).await;
    assert!(text.ends_with("resulted in error: no such key: on"), "{text}");
    let (_, text) = server
        .refused("POST", MAPS, map("on", json!({"on": "yes"})))
        .await;
    assert!(
        text.ends_with("denied request: failed expression: false"),
        "{text}"
    );
    remove(&server, V, "conditions").await;

    // Chains of variables that are nested deeper than a stack allows.
    let mut spec = with("Fail", "variables.v599 == 600");
    let mut variables = vec![json!({"name": "v0", "expression": "1"})];
    for at in 1..600 {
        variables
            .push(json!({"name": format!("v{at}"), "expression": format!("((variables.v{} + 1))", at - 1)}));
    }
    spec["variables"] = json!(variables);
    install(&server, V, "chain", spec, deny()).await;
    server.ok("POST", MAPS, map("chain", json!({}))).await;
    server.stop().await;
}

#[tokio::test]
async fn the_authorizer_is_asked() {
    let server = TestServer::start().await;
    let spec = maps(json!([
        {"expression": "authorizer.group('').resource('secrets').namespace('default').check('delete').allowed()",
            "message": "may not delete secrets", "reason": "Forbidden"},
        {"expression": "authorizer.path('/metrics').check('get').allowed()", "message": "may not see metrics"},
        {"expression": "authorizer.requestResource.check('tag').allowed()", "message": "may not tag"}]));
    install(&server, V, "rights", spec, deny()).await;
    let rules = |more: Value| {
        let mut rules = vec![json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]})];
        rules.extend(more.as_array().into_iter().flatten().cloned());
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "jane"}, "rules": rules})
    };
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    server.ok("POST", roles, rules(json!([]))).await;
    let bound = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "jane"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "jane"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    server
        .ok(
            "POST",
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            bound,
        )
        .await;
    let attempt = || async {
        let headers = [("content-type", "application/json"), ("impersonate-user", "jane")];
        let body = map("jane", json!({})).to_string();
        let (code, _, text) = server
            .send("POST", &format!("{MAPS}?dryRun=All"), &headers, body)
            .await;
        let status: Value = serde_json::from_str(&text).unwrap();
        let message = status["message"].as_str().unwrap_or_default().to_owned();
        (code.as_u16(), message)
    };
    let secrets = json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["delete"]});
    let metrics = json!({"nonResourceURLs": ["/metrics"], "verbs": ["get"]});
    let tag = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["tag"]});
    for (rights, code, expected) in [
        (json!([]), 403, "denied request: may not delete secrets"),
        (json!([secrets]), 422, "denied request: may not see metrics"),
        (json!([secrets, metrics]), 422, "denied request: may not tag"),
        (json!([secrets, metrics, tag]), 201, ""),
    ] {
        server.ok("PUT", &format!("{roles}/jane"), rules(rights)).await;
        eventually(expected, || async {
            let (got, message) = attempt().await;
            (got == code && message.ends_with(expected)).then_some(())
        })
        .await;
    }
    server.stop().await;
}
