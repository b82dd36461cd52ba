//! Admission webhooks against a webhook server with real TLS.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use base64::Engine;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use keelson_apiserver::http::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{TestServer, tls_server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A server with a webhook server beside it.
struct Webhooks {
    server: TestServer,
    port: u16,
    /// What the webhook server was asked, with the path.
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

fn encode(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// The verdict of the webhook server at a path.
fn verdict(path: &str, request: &Value) -> Value {
    let patch = |operations: Value| json!({"allowed": true, "patchType": "JSONPatch", "patch": encode(&operations.to_string())});
    let data = |key: &str| !request["object"]["data"][key].is_null();
    match path {
        "/deny" => {
            json!({"allowed": false, "status": {"message": "not on my watch", "code": 403, "reason": "Forbidden"}})
        }
        "/deny-marked" if data("marked") => json!({"allowed": false, "status": {"reason": "marked"}}),
        "/first" if data("start") && !data("one") => {
            patch(json!([{"op": "add", "path": "/data/one", "value": "1"}]))
        }
        "/second" if data("one") && !data("two") => {
            patch(json!([{"op": "add", "path": "/data/two", "value": "2"}]))
        }
        "/init" => patch(json!([{"op": "add", "path": "/spec/initContainers",
            "value": [{"name": "init", "image": "i"}]}])),
        "/prune" => patch(json!([{"op": "add", "path": "/data/known", "value": "1"},
            {"op": "add", "path": "/data/unknown", "value": "1"}])),
        "/broken-patch" => patch(json!([{"op": "add", "path": "/no/such/place", "value": "1"}])),
        "/warn" => json!({"allowed": true, "warnings": ["careful"], "auditAnnotations": {"a": "b"}}),
        _ => json!({"allowed": true}),
    }
}

impl Webhooks {
    async fn start() -> Self {
        let server = TestServer::start().await;
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let log = asked.clone();
        let handler = move |request: Request<Incoming>, _| {
            let log = log.clone();
            async move {
                let path = request.uri().path().to_owned();
                let timeout = request.uri().query().map(str::to_owned);
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let review: Value = serde_json::from_slice(&body).unwrap();
                log.lock().push((path.clone(), review["request"].clone()));
                assert!(timeout.is_some_and(|t| t.starts_with("timeout=")));
                if path == "/slow" {
                    std::future::pending::<()>().await;
                }
                if path == "/error" {
                    let mut response = Response::new(Body::from("oops"));
                    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                    return response;
                }
                let mut response = verdict(&path, &review["request"]);
                response["uid"] = review["request"]["uid"].clone();
                let answer = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
                Response::new(Body::from(answer.to_string()))
            }
        };
        let names = ["127.0.0.1", "hook.default.svc"];
        let (address, _stop) = tls_server(&server.pki, &names, handler).await;
        let webhooks = Self {
            server,
            port: address.port(),
            asked,
        };
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let accounts = "/api/v1/namespaces/default/serviceaccounts";
        webhooks.ok("POST", accounts, account).await;
        webhooks
    }

    async fn send(&self, method: &str, path: &str, body: Value) -> (StatusCode, HeaderMap, Value) {
        self.server.json(method, path, body).await
    }

    async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        self.server.ok(method, path, body).await
    }

    async fn refused(&self, method: &str, path: &str, body: Value) -> (u16, String) {
        self.server.refused(method, path, body).await
    }

    /// Registers a configuration with one hook; `more` overrides fields of the hook.
    async fn register(&self, mutating: bool, name: &str, path: &str, rule: &[&str; 4], more: Value) {
        let object = self.configuration(mutating, name, path, rule, more);
        self.ok("POST", &configurations(mutating), object).await;
        self.wait(mutating, name, true).await;
    }

    async fn remove(&self, mutating: bool, name: &str) {
        let path = format!("{}/{name}", configurations(mutating));
        self.ok("DELETE", &path, Value::Null).await;
        self.wait(mutating, name, false).await;
    }

    async fn wait(&self, mutating: bool, name: &str, there: bool) {
        let resource = if mutating {
            "mutatingwebhookconfigurations"
        } else {
            "validatingwebhookconfigurations"
        };
        let group = "admissionregistration.k8s.io";
        self.server.cached(group, resource, name, there).await;
    }

    fn configuration(&self, mutating: bool, name: &str, path: &str, rule: &[&str; 4], more: Value) -> Value {
        let [operations, group, version, resources] = rule;
        let list = |text: &str| -> Vec<String> { text.split(',').map(str::to_owned).collect() };
        let mut hook = json!({
            "name": format!("{name}.example.com"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://127.0.0.1:{}{path}", self.port),
                "caBundle": encode(&self.server.pki.ca.certificate().to_pem())},
            "rules": [{"operations": list(operations), "apiGroups": [group], "apiVersions": [version],
                "resources": list(resources)}],
        });
        if let Some(more) = more.as_object() {
            for (field, value) in more {
                hook[field] = value.clone();
            }
        }
        let kind = if mutating {
            "MutatingWebhookConfiguration"
        } else {
            "ValidatingWebhookConfiguration"
        };
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name},
            "webhooks": [hook]})
    }
}

fn configurations(mutating: bool) -> String {
    let kind = if mutating { "mutating" } else { "validating" };
    format!("/apis/admissionregistration.k8s.io/v1/{kind}webhookconfigurations")
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

const CREATE_MAPS: [&str; 4] = ["CREATE,UPDATE", "", "v1", "configmaps"];

#[tokio::test]
async fn mutations_come_in_order_and_again() {
    let hooks = Webhooks::start().await;
    // By name: "second" is before "third", and is asked again after "third" added what it looks for.
    hooks
        .register(
            true,
            "second",
            "/second",
            &CREATE_MAPS,
            json!({"reinvocationPolicy": "IfNeeded"}),
        )
        .await;
    hooks
        .register(true, "third", "/first", &CREATE_MAPS, Value::Null)
        .await;
    let created = hooks.ok("POST", MAPS, map("a", json!({"start": "x"}))).await;
    assert_eq!(created["data"], json!({"start": "x", "one": "1", "two": "2"}));
    let paths: Vec<String> = hooks.asked.lock().iter().map(|(path, _)| path.clone()).collect();
    assert_eq!(paths, ["/second", "/first", "/second"]);
    let (_, request) = hooks.asked.lock()[0].clone();
    assert_eq!(request["operation"], "CREATE");
    assert_eq!(
        request["kind"],
        json!({"group": "", "version": "v1", "kind": "ConfigMap"})
    );
    assert_eq!(
        request["requestResource"],
        json!({"group": "", "version": "v1", "resource": "configmaps"})
    );
    assert_eq!(
        (&request["namespace"], &request["name"]),
        (&json!("default"), &json!("a"))
    );
    assert_eq!(request["userInfo"]["username"], "kubernetes-admin");
    assert_eq!(request["object"]["kind"], "ConfigMap");
    assert_eq!(
        (&request["oldObject"], &request["dryRun"]),
        (&Value::Null, &json!(false))
    );
    assert_eq!(request["options"]["kind"], "CreateOptions");

    // Nothing is left to change.
    hooks.asked.lock().clear();
    hooks
        .ok(
            "PATCH",
            &format!("{MAPS}/a?dryRun=All"),
            json!({"data": {"z": "1"}}),
        )
        .await;
    let asked = hooks.asked.lock().clone();
    assert_eq!(asked.len(), 2);
    assert_eq!(
        (&asked[0].1["operation"], &asked[0].1["dryRun"]),
        (&json!("UPDATE"), &json!(true))
    );
    assert_eq!(asked[0].1["oldObject"]["data"]["two"], "2");

    // Defaults are applied to what a webhook adds.
    hooks
        .register(true, "init", "/init", &["CREATE", "", "v1", "pods"], Value::Null)
        .await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pod = hooks.ok("POST", "/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(
        pod["spec"]["initContainers"][0]["terminationMessagePolicy"],
        "File"
    );

    hooks
        .register(true, "zz", "/broken-patch", &CREATE_MAPS, Value::Null)
        .await;
    let (code, text) = hooks.refused("POST", MAPS, map("b", json!({}))).await;
    assert_eq!(code, 500, "{text}");
    hooks.remove(true, "zz").await;
    hooks.server.stop().await;
}

#[tokio::test]
async fn denials_and_selections() {
    let hooks = Webhooks::start().await;
    hooks
        .register(
            false,
            "deny",
            "/deny-marked",
            &CREATE_MAPS,
            json!({
        "namespaceSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]}}),
        )
        .await;
    let marked = || map("a", json!({"marked": "x"}));
    let (code, text) = hooks.refused("POST", MAPS, marked()).await;
    let expected = "admission webhook \"deny.example.com\" denied the request: marked";
    assert_eq!((code, text.as_str()), (400, expected));
    hooks.ok("POST", MAPS, map("a", json!({}))).await;
    let (_, text) = hooks
        .refused("PATCH", &format!("{MAPS}/a"), json!({"data": {"marked": "y"}}))
        .await;
    assert_eq!(text, expected);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "free", "labels": {"skip": "x"}}});
    hooks.ok("POST", "/api/v1/namespaces", namespace).await;
    hooks
        .ok("POST", "/api/v1/namespaces/free/configmaps", marked())
        .await;

    // Only what has the label.
    let rule = ["*", "", "v1", "secrets"];
    hooks
        .register(
            false,
            "labelled",
            "/deny",
            &rule,
            json!({"objectSelector": {"matchLabels": {"a": "b"}}}),
        )
        .await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": labels}});
    hooks.ok("POST", secrets, secret("plain", json!({}))).await;
    let (code, text) = hooks
        .refused("POST", secrets, secret("labelled", json!({"a": "b"})))
        .await;
    let expected = "admission webhook \"labelled.example.com\" denied the request: not on my watch";
    assert_eq!((code, text.as_str()), (403, expected));
    hooks.ok("DELETE", &format!("{secrets}/plain"), Value::Null).await;

    // Deletion and streams.
    hooks
        .register(
            false,
            "delete",
            "/deny",
            &["DELETE,CONNECT", "", "*", "configmaps,pods/*"],
            Value::Null,
        )
        .await;
    let (code, _) = hooks.refused("DELETE", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!(code, 403);
    let (_, request) = hooks.asked.lock().last().unwrap().clone();
    assert_eq!(
        (&request["object"], &request["oldObject"]["kind"]),
        (&Value::Null, &json!("ConfigMap"))
    );
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    hooks.ok("POST", "/api/v1/namespaces/default/pods", pod).await;
    let attach = "/api/v1/namespaces/default/pods/p/attach?container=c&stdout=true";
    let (code, text) = hooks.refused("POST", attach, Value::Null).await;
    assert_eq!(code, 403, "{text}");
    let (_, request) = hooks.asked.lock().last().unwrap().clone();
    assert_eq!(
        (&request["subResource"], &request["kind"]["kind"]),
        (&json!("attach"), &json!("PodAttachOptions"))
    );
    hooks.remove(false, "delete").await;

    hooks
        .register(false, "warn", "/warn", &CREATE_MAPS, Value::Null)
        .await;
    let (_, headers, _) = hooks.send("POST", MAPS, map("w", json!({}))).await;
    assert_eq!(headers["warning"], "299 - \"careful\"");
    hooks.server.stop().await;
}

#[tokio::test]
async fn failures_count_as_the_policy_says() {
    let hooks = Webhooks::start().await;
    let other = encode(&hooks.server.pki.front_proxy_ca.certificate().to_pem());
    let url = |path: &str| format!("https://127.0.0.1:{}{path}", hooks.port);
    for (name, path, more, expected) in [
        (
            "ca",
            "/warn",
            json!({"clientConfig": {"url": url("/warn"), "caBundle": other}}),
            "Post \"URL/warn?timeout=10s\": tls: failed to verify certificate:",
        ),
        (
            "slow",
            "/slow",
            json!({"timeoutSeconds": 1}),
            "Post \"URL/slow?timeout=1s\": context deadline exceeded",
        ),
        (
            "gone",
            "/x",
            json!({"clientConfig": {"url": "https://127.0.0.1:1/x"}}),
            "Post \"https://127.0.0.1:1/x?timeout=10s\": dial tcp 127.0.0.1:1:",
        ),
        (
            "error",
            "/error",
            json!({}),
            "an error on the server (\"oops\") has prevented the request from succeeding",
        ),
        (
            "service",
            "/x",
            json!({"clientConfig": {"service": {"namespace": "default", "name": "nobody", "path": "/p"}}}),
            "Post \"https://nobody.default.svc:443/p?timeout=10s\": service \"nobody\" not found",
        ),
    ] {
        hooks.register(true, name, path, &CREATE_MAPS, more.clone()).await;
        let (code, text) = hooks.refused("POST", MAPS, map(name, json!({}))).await;
        let expected = expected.replace("URL", &url(""));
        let start = format!(
            "Internal error occurred: failed calling webhook \"{name}.example.com\": failed to call webhook: {expected}"
        );
        assert!(code == 500 && text.starts_with(&start), "{text}\n{start}");
        hooks.remove(true, name).await;
        let mut open = more;
        open["failurePolicy"] = json!("Ignore");
        hooks.register(true, name, path, &CREATE_MAPS, open).await;
        hooks.ok("POST", MAPS, map(name, json!({}))).await;
        hooks.remove(true, name).await;
    }

    // Through a Service.
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"},
        "spec": {"type": "ExternalName", "externalName": "localhost"}});
    hooks
        .ok("POST", "/api/v1/namespaces/default/services", service)
        .await;
    let ca = encode(&hooks.server.pki.ca.certificate().to_pem());
    let config = json!({"clientConfig": {"caBundle": ca,
        "service": {"namespace": "default", "name": "hook", "path": "/deny", "port": hooks.port}}});
    hooks
        .register(false, "service", "/deny", &CREATE_MAPS, config)
        .await;
    let (_, text) = hooks.refused("POST", MAPS, map("s", json!({}))).await;
    assert_eq!(
        text,
        "admission webhook \"service.example.com\" denied the request: not on my watch"
    );
    hooks.server.stop().await;
}

#[tokio::test]
async fn custom_resources_versions_and_configurations() {
    let hooks = Webhooks::start().await;
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boxes.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "boxes", "kind": "Box"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"data": {"type": "object", "properties": {"known": {"type": "string"}}}}}}}]}});
    hooks
        .ok(
            "POST",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            definition,
        )
        .await;
    support::eventually("the custom resource", || async {
        let (code, _, _) = hooks.send("GET", "/apis/example.com/v1/boxes", Value::Null).await;
        code.is_success().then_some(())
    })
    .await;
    hooks
        .register(
            true,
            "prune",
            "/prune",
            &["CREATE", "example.com", "v1", "boxes"],
            Value::Null,
        )
        .await;
    let object =
        json!({"apiVersion": "example.com/v1", "kind": "Box", "metadata": {"name": "b"}, "data": {}});
    let created = hooks
        .ok("POST", "/apis/example.com/v1/namespaces/default/boxes", object)
        .await;
    assert_eq!(created["data"], json!({"known": "1"}));

    // A hook for v1 is asked about v2, in v1.
    let rule = ["CREATE", "autoscaling", "v1", "horizontalpodautoscalers"];
    hooks.register(true, "hpa", "/x", &rule, Value::Null).await;
    let autoscalers = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let autoscaler = |name: &str| {
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name}, "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 55}}}]}})
    };
    hooks.asked.lock().clear();
    hooks.ok("POST", autoscalers, autoscaler("a")).await;
    let (_, request) = hooks.asked.lock()[0].clone();
    assert_eq!(
        (&request["kind"]["version"], &request["requestKind"]["version"]),
        (&json!("v1"), &json!("v2"))
    );
    assert_eq!(request["object"]["apiVersion"], "autoscaling/v1");
    assert_eq!(request["object"]["spec"]["targetCPUUtilizationPercentage"], 55);
    hooks.remove(true, "hpa").await;
    hooks
        .register(true, "hpa", "/x", &rule, json!({"matchPolicy": "Exact"}))
        .await;
    hooks.asked.lock().clear();
    hooks.ok("POST", autoscalers, autoscaler("b")).await;
    assert!(hooks.asked.lock().is_empty());

    // Nobody judges the judges.
    let rule = ["*", "admissionregistration.k8s.io", "*", "*"];
    hooks.register(false, "judge", "/deny", &rule, Value::Null).await;
    hooks.register(false, "other", "/deny", &rule, Value::Null).await;
    hooks.remove(false, "other").await;
    hooks.remove(false, "judge").await;

    hooks.server.stop().await;
}

#[tokio::test]
async fn match_conditions_decide_last() {
    let hooks = Webhooks::start().await;
    let conditions = |list: Value| json!({"matchConditions": list});
    // Conformance: mutating and validating configurations with match conditions are stored and updated.
    for mutating in [true, false] {
        let list =
            json!([{"name": "expression-1", "expression": "object.metadata.namespace == 'production'"}]);
        let object = hooks.configuration(mutating, "stored", "/x", &CREATE_MAPS, conditions(list.clone()));
        let mut stored = hooks.ok("POST", &configurations(mutating), object).await;
        assert_eq!(stored["webhooks"][0]["matchConditions"], list);
        let list = json!([{"name": "expression-2", "expression": "object.metadata.namespace == 'staging'"}]);
        stored["webhooks"][0]["matchConditions"] = list.clone();
        let path = format!("{}/stored", configurations(mutating));
        hooks.ok("PUT", &path, stored).await;
        let got = hooks.ok("GET", &path, Value::Null).await;
        assert_eq!(got["webhooks"][0]["matchConditions"], list);

        // Conformance: invalid match conditions are refused.
        let list = json!([{"name": "a", "expression": "..."}, {"name": "a", "expression": "object.x"},
            {"name": "b c", "expression": "params.x == 1"}, {"name": "", "expression": " "}]);
        let object = hooks.configuration(mutating, "broken", "/x", &CREATE_MAPS, conditions(list));
        let (code, text) = hooks.refused("POST", &configurations(mutating), object).await;
        assert_eq!(code, 422);
        let at = "webhooks[0].matchConditions";
        for expected in [
            format!(
                "{at}[0].expression: Invalid value: \"...\": compilation failed: ERROR: <input>:1:1: Syntax error"
            ),
            format!("{at}[1].expression: Invalid value: \"object.x\": must evaluate to bool"),
            format!("{at}[1].name: Duplicate value: \"a\""),
            "undeclared reference to 'params' (in container '')".to_owned(),
            format!("{at}[2].name: Invalid value: \"b c\": name part must consist of"),
            format!("{at}[3].expression: Required value"),
            format!("{at}[3].name: Required value"),
        ] {
            assert!(text.contains(&expected), "{expected}\n{text}");
        }
    }

    let lists = [
        json!([{"name": "not-nodes", "expression": "!('system:nodes' in request.userInfo.groups)"},
            {"name": "marked", "expression": "has(object.data) && 'marked' in object.data"}]),
        // False beats an error.
        json!([{"name": "broken", "expression": "object.data.missing == 'x'"},
            {"name": "marked", "expression": "object.metadata.name.startsWith('m')"}]),
        json!([
            {"name": "group", "expression":
                "authorizer.group('').resource('configmaps').namespace('default').check('create').allowed()"},
            {"name": "own", "expression": "authorizer.requestResource.check('create').allowed()"},
            {"name": "account", "expression":
                "!authorizer.serviceAccount('default', 'default').group('').resource('pods').check('list').allowed()"},
            {"name": "marked", "expression": "request.operation == 'CREATE' && request.name.startsWith('m') &&
                request.kind.kind == 'ConfigMap' && namespaceObject == null && oldObject == null && !request.dryRun"}]),
    ];
    for (at, list) in lists.into_iter().enumerate() {
        let name = format!("c{at}");
        hooks
            .register(false, &name, "/deny", &CREATE_MAPS, conditions(list))
            .await;
        hooks.ok("POST", MAPS, map(&format!("x{at}"), json!({}))).await;
        let marked = map(&format!("m{at}"), json!({"marked": "x"}));
        let (code, text) = hooks.refused("POST", MAPS, marked).await;
        let expected = if at == 1 {
            format!(
                "configmaps \"m{at}\" is forbidden: expression 'object.data.missing == 'x'' resulted in error: no such key: missing"
            )
        } else {
            format!("admission webhook \"c{at}.example.com\" denied the request: not on my watch")
        };
        assert_eq!((code, text), (403, expected));
        hooks.remove(false, &name).await;
    }

    // Errors count as the failure policy says: the hook is not asked.
    let mut open = conditions(json!([{"name": "broken", "expression": "object.data.missing == 'x'"}]));
    open["failurePolicy"] = json!("Ignore");
    hooks.register(false, "open", "/deny", &CREATE_MAPS, open).await;
    hooks.ok("POST", MAPS, map("open", json!({}))).await;

    // Mutating hooks have them too.
    let list = json!([{"name": "one", "expression": "object.metadata.name == 'one'"}]);
    hooks
        .register(true, "first", "/first", &CREATE_MAPS, conditions(list))
        .await;
    let created = hooks.ok("POST", MAPS, map("one", json!({"start": "x"}))).await;
    assert_eq!(created["data"]["one"], "1");
    let created = hooks.ok("POST", MAPS, map("two", json!({"start": "x"}))).await;
    assert_eq!(created["data"], json!({"start": "x"}));
    hooks.server.stop().await;
}
