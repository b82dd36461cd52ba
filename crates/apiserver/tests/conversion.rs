//! Conversion of custom resources by a webhook with real TLS.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use keelson_apiserver::http::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{Lines, TestServer, eventually, tls_server};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const DEFINITION: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/tabs.stable.example.com";

fn tabs(version: &str) -> String {
    format!("/apis/stable.example.com/{version}/namespaces/default/tabs")
}

/// What the webhook does beside converting.
#[derive(Default)]
struct Log {
    calls: AtomicUsize,
    /// Objects of each call.
    objects: Mutex<Vec<usize>>,
    /// `fail`, `rename`, `wrong-uid`, `fewer`, or nothing.
    mood: Mutex<&'static str>,
}

/// v1 has `hostPort: "h:p"`, v2 has `host` and `port`.
fn convert(object: &Value, desired: &str) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = desired.into();
    let map = object.as_object_mut().unwrap();
    if desired.ends_with("/v2") {
        let text = map.remove("hostPort").unwrap();
        let (host, port) = text.as_str().unwrap().split_once(':').unwrap();
        map.insert("host".to_owned(), host.into());
        map.insert("port".to_owned(), port.into());
    } else {
        let text = |value: Option<Value>| value.unwrap().as_str().unwrap().to_owned();
        let joined = format!("{}:{}", text(map.remove("host")), text(map.remove("port")));
        map.insert("hostPort".to_owned(), joined.into());
    }
    object["metadata"]["labels"]["converted"] = desired.rsplit('/').next().into();
    object["metadata"]["generation"] = 99.into();
    object
}

fn answer(review: &Value, log: &Log) -> Value {
    let request = &review["request"];
    assert_eq!(
        (&review["kind"], &review["apiVersion"]),
        (&json!("ConversionReview"), &json!("apiextensions.k8s.io/v1"))
    );
    let desired = request["desiredAPIVersion"].as_str().unwrap();
    let objects = request["objects"].as_array().unwrap();
    log.calls.fetch_add(1, Ordering::SeqCst);
    log.objects.lock().push(objects.len());
    let mut converted: Vec<Value> = objects.iter().map(|object| convert(object, desired)).collect();
    let mut response = json!({"uid": request["uid"], "result": {"status": "Success"}});
    match *log.mood.lock() {
        "fail" => response["result"] = json!({"status": "Failure", "message": "I will not"}),
        "rename" => converted[0]["metadata"]["name"] = json!("other"),
        "wrong-uid" => response["uid"] = json!("none"),
        "fewer" => drop(converted.pop()),
        _ => {}
    }
    response["convertedObjects"] = Value::Array(converted);
    json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response})
}

struct Setup {
    server: TestServer,
    log: Arc<Log>,
}

impl Setup {
    async fn start() -> Self {
        let server = TestServer::start().await;
        let log: Arc<Log> = Arc::default();
        let shared = log.clone();
        let handler = move |request: Request<Incoming>, _| {
            let log = shared.clone();
            async move {
                assert_eq!(
                    (request.uri().path(), request.uri().query()),
                    ("/convert", Some("timeout=30s"))
                );
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let review: Value = serde_json::from_slice(&body).unwrap();
                Response::new(Body::from(answer(&review, &log).to_string()))
            }
        };
        let (address, _stop) = tls_server(&server.pki, &["127.0.0.1"], handler).await;
        let bundle = base64::engine::general_purpose::STANDARD.encode(server.pki.ca.certificate().to_pem());
        let version = |name: &str, storage: bool, fields: Value| {
            json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": fields}}})
        };
        let text = json!({"type": "string"});
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "tabs.stable.example.com"},
            "spec": {"group": "stable.example.com", "scope": "Namespaced",
                "names": {"plural": "tabs", "singular": "tab", "kind": "Tab", "listKind": "TabList"},
                "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v2", "v1"],
                    "clientConfig": {"url": format!("https://127.0.0.1:{}/convert", address.port()), "caBundle": bundle}}},
                "versions": [version("v1", true, json!({"hostPort": text})),
                    version("v2", false, json!({"host": text, "port": text, "tier": {"type": "string", "default": "low"}}))]}});
        let setup = Self { server, log };
        setup.ok("POST", DEFINITIONS, &definition).await;
        eventually("the definition", || async {
            (setup.server.get(&tabs("v2"), &[]).await.0 == StatusCode::OK).then_some(())
        })
        .await;
        setup
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        let kind = match method {
            "PATCH" if body.is_array() => "application/json-patch+json",
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (code, _, text) = self
            .server
            .send(method, path, &[("content-type", kind)], body)
            .await;
        (code, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        let (code, value) = self.send(method, path, body).await;
        assert!(code.is_success(), "{method} {path}: {value}");
        value
    }

    async fn get(&self, path: &str) -> Value {
        self.ok("GET", path, &Value::Null).await
    }

    fn calls(&self) -> usize {
        self.log.calls.load(Ordering::SeqCst)
    }

    async fn stored(&self, name: &str) -> Value {
        let key = format!("/registry/stable.example.com/tabs/default/{name}");
        serde_json::from_str(&self.server.stored(&key).await).unwrap()
    }
}

fn first(name: &str) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "Tab", "metadata": {"name": name}, "hostPort": "a:1"})
}

fn second(name: &str) -> Value {
    json!({"apiVersion": "stable.example.com/v2", "kind": "Tab", "metadata": {"name": name}, "host": "b", "port": "2"})
}

#[tokio::test(flavor = "multi_thread")]
async fn both_directions() {
    let setup = Setup::start().await;
    ok_is_stored_as_v1(&setup).await;
    // Lists convert what has another version, all at once, and only once.
    setup.log.objects.lock().clear();
    let list = setup.get(&tabs("v2")).await;
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("TabList"), &json!("stable.example.com/v2"))
    );
    let items = list["items"].as_array().unwrap();
    assert!(
        items
            .iter()
            .all(|i| i["apiVersion"] == "stable.example.com/v2" && i["host"].is_string()),
        "{list}"
    );
    let calls = setup.calls();
    setup.get(&tabs("v2")).await;
    assert_eq!(setup.calls(), calls);

    // The storage version moves; the list has objects of both versions in the store.
    let change = json!([{"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true}]);
    setup.ok("PATCH", DEFINITION, &change).await;
    eventually("the new storage version", || async {
        let name = format!("n{}", setup.calls());
        setup.ok("POST", &tabs("v2"), &second(&name)).await;
        (setup.stored(&name).await["apiVersion"] == "stable.example.com/v2").then_some(())
    })
    .await;
    assert_eq!(setup.stored("t").await["apiVersion"], "stable.example.com/v1");
    for version in ["v1", "v2"] {
        let list = setup.get(&tabs(version)).await;
        let field = if version == "v1" { "hostPort" } else { "host" };
        let items = list["items"].as_array().unwrap();
        assert!(
            items.len() >= 3 && items.iter().all(|i| i[field].is_string()),
            "{list}"
        );
    }
    // Deleting, too.
    setup
        .ok("DELETE", &format!("{}/t", tabs("v2")), &Value::Null)
        .await;
    let path = format!("{}/u", tabs("v1"));
    setup.ok("DELETE", &path, &Value::Null).await;
    assert_eq!(setup.server.get(&path, &[]).await.0, StatusCode::NOT_FOUND);
    setup.server.stop().await;
}

async fn ok_is_stored_as_v1(setup: &Setup) {
    let made = setup.ok("POST", &tabs("v1"), &first("t")).await;
    assert_eq!((&made["hostPort"], setup.calls()), (&json!("a:1"), 0));
    let seen = setup.get(&format!("{}/t", tabs("v2"))).await;
    assert_eq!(
        (&seen["apiVersion"], &seen["host"], &seen["port"]),
        (&json!("stable.example.com/v2"), &json!("a"), &json!("1"))
    );
    // Labels and annotations may change, nothing else of the metadata.
    assert_eq!(seen["metadata"]["labels"], json!({"converted": "v2"}));
    assert_eq!(
        (
            &seen["metadata"]["generation"],
            &seen["metadata"]["resourceVersion"]
        ),
        (&json!(1), &made["metadata"]["resourceVersion"])
    );
    let made = setup.ok("POST", &tabs("v2"), &second("u")).await;
    assert_eq!((&made["host"], &made["tier"]), (&json!("b"), &Value::Null));
    let stored = setup.stored("u").await;
    assert_eq!(
        (&stored["apiVersion"], &stored["hostPort"]),
        (&json!("stable.example.com/v1"), &json!("b:2"))
    );
    let changed = setup
        .ok("PATCH", &format!("{}/u", tabs("v2")), &json!({"port": "3"}))
        .await;
    assert_eq!(
        (&changed["port"], &changed["metadata"]["generation"]),
        (&json!("3"), &json!(2))
    );
    assert_eq!(setup.stored("u").await["hostPort"], "b:3");
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_convert_once() {
    let setup = Setup::start().await;
    setup.ok("POST", &tabs("v1"), &first("t")).await;
    let path = format!("{}?watch=1", tabs("v2"));
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(Lines::get(&setup.server, &path).await);
    }
    let next =
        async |watch: &mut Lines| -> Value { serde_json::from_str(&watch.next().await.unwrap()).unwrap() };
    for watch in &mut watches {
        let event = next(watch).await;
        assert_eq!(
            (&event["type"], &event["object"]["host"]),
            (&json!("ADDED"), &json!("a"))
        );
    }
    setup
        .ok("PATCH", &format!("{}/t", tabs("v1")), &json!({"hostPort": "c:4"}))
        .await;
    for watch in &mut watches {
        let event = next(watch).await;
        assert_eq!(
            (&event["type"], &event["object"]["host"]),
            (&json!("MODIFIED"), &json!("c"))
        );
    }
    // A watch of the stored version needs no webhook, and one that cannot convert says so and ends.
    let calls = setup.calls();
    let mut stored = Lines::get(&setup.server, &format!("{}?watch=1", tabs("v1"))).await;
    assert_eq!(next(&mut stored).await["object"]["hostPort"], "c:4");
    assert_eq!(setup.calls(), calls);
    *setup.log.mood.lock() = "fail";
    setup
        .ok("PATCH", &format!("{}/t", tabs("v1")), &json!({"hostPort": "d:5"}))
        .await;
    let event = next(&mut watches[0]).await;
    assert_eq!(
        (&event["type"], &event["object"]["code"]),
        (&json!("ERROR"), &json!(500))
    );
    assert!(watches[0].next().await.is_none());
    setup.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_named() {
    let setup = Setup::start().await;
    setup.ok("POST", &tabs("v1"), &first("t")).await;
    let path = format!("{}/t", tabs("v2"));
    let what = "conversion webhook for stable.example.com/v1, Kind=Tab";
    for (mood, message) in [
        ("fail", format!("{what} failed: I will not")),
        ("wrong-uid", format!("{what} failed: expected response.uid=")),
        ("fewer", format!("{what} returned 0 objects, expected 1")),
        (
            "rename",
            format!("{what} returned invalid object: must have the same name: t != other"),
        ),
    ] {
        *setup.log.mood.lock() = mood;
        let (code, answer) = setup.send("GET", &path, &Value::Null).await;
        assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR, "{answer}");
        let found = answer["message"].as_str().unwrap();
        assert!(found.contains(&message), "{found}");
    }
    let (code, _) = setup.send("POST", &tabs("v2"), &second("u")).await;
    assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR);
    let (code, answer) = setup.send("GET", &tabs("v2"), &Value::Null).await;
    assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .starts_with("conversion webhook for stable.example.com/v2, Kind=TabList"),
        "{answer}"
    );
    // What needs no conversion works.
    setup.get(&format!("{}/t", tabs("v1"))).await;
    *setup.log.mood.lock() = "";
    setup.get(&path).await;
    setup.server.stop().await;
}
