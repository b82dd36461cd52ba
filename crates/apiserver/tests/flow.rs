//! Priority and fairness: who is served, who waits and who is refused.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use keelson_apiserver::LocalApi;
use serde_json::{Value, json};
use support::{TestServer, eventually};
use tokio::sync::Semaphore;

const FLOW: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const HANG: &str = "/apis/slow.example.com/v1/hang";
const AS_JANE: [(&str, &str); 2] = [
    ("impersonate-user", "jane"),
    ("impersonate-group", "system:masters"),
];

async fn post(server: &TestServer, path: &str, object: Value) -> Value {
    let headers = [("content-type", "application/json")];
    let (code, _, text) = server.send("POST", path, &headers, object.to_string()).await;
    assert_eq!(code, StatusCode::CREATED, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// An API whose requests wait for a permit.
async fn slow_api(server: &TestServer) -> Arc<Semaphore> {
    let permits = Arc::new(Semaphore::new(0));
    let gate = permits.clone();
    let service = tower::service_fn(move |request: Request<Bytes>| {
        let gate = gate.clone();
        async move {
            if request.uri().path() == HANG {
                gate.acquire().await.unwrap().forget();
            }
            let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "slow.example.com/v1",
                "resources": [{"name": "hang", "kind": "Hang", "namespaced": false, "singularName": "", "verbs": ["list"]}]});
            Ok::<_, Infallible>(Response::new(Bytes::from(list.to_string())))
        }
    });
    let api = LocalApi::new("slow.example.com", "v1", service);
    server.server.serve_locally(api).await.unwrap();
    permits
}

/// Executing and waiting requests of the level `tiny`.
async fn load(server: &TestServer) -> (u64, u64) {
    let path = "/debug/api_priority_and_fairness/dump_priority_levels";
    let (_, _, text) = server.get(path, &[]).await;
    let line = text
        .lines()
        .find(|l| l.starts_with("tiny,"))
        .unwrap_or_default()
        .to_owned();
    let number = |at: usize| line.split(", ").nth(at).and_then(|n| n.parse().ok()).unwrap_or(0);
    (number(5), number(4))
}

#[tokio::test]
async fn seats_are_limited() {
    let server = Arc::new(TestServer::start().await);
    let permits = slow_api(&server).await;
    let level = |response: Value| {
        json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
            "metadata": {"name": "tiny"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1,
                "borrowingLimitPercent": 0, "limitResponse": response}}})
    };
    let levels = format!("{FLOW}/prioritylevelconfigurations");
    let tiny = post(&server, &levels, level(json!({"type": "Reject"}))).await;
    let schema = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
        "metadata": {"name": "jane"}, "spec": {"matchingPrecedence": 1, "priorityLevelConfiguration": {"name": "tiny"},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{"subjects": [{"kind": "User", "user": {"name": "jane"}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true,
                    "namespaces": ["*"]}]}]}});
    // Precedence 1 is the exempt schema's; of two the lesser name is tried first, and that is not jane's.
    let mut schema = schema;
    schema["spec"]["matchingPrecedence"] = json!(2);
    let schema = post(&server, &format!("{FLOW}/flowschemas"), schema).await;
    let dev = [
        ("impersonate-user", "jane"),
        ("impersonate-group", "kubeadm:cluster-admins"),
    ];
    // Everything of hers belongs to the new level, and the answers say so.
    eventually("the level", || async {
        let (_, headers, _) = server.get("/api/v1/namespaces", &dev).await;
        let is = |name: &str, object: &Value| {
            headers
                .get(name)
                .is_some_and(|v| v.to_str().unwrap() == object["metadata"]["uid"])
        };
        let both =
            is("x-kubernetes-pf-flowschema-uid", &schema) && is("x-kubernetes-pf-prioritylevel-uid", &tiny);
        both.then_some(())
    })
    .await;

    // One share of about 250: three seats.
    let ask = |server: Arc<TestServer>| tokio::spawn(async move { server.get(HANG, &dev).await });
    let running: Vec<_> = (0..3).map(|_| ask(server.clone())).collect();
    eventually("three running", || async {
        (load(&server).await == (3, 0)).then_some(())
    })
    .await;
    let (code, headers, text) = server.get("/api/v1/namespaces", &dev).await;
    assert_eq!(
        (code, &headers["retry-after"]),
        (StatusCode::TOO_MANY_REQUESTS, &"1".parse().unwrap())
    );
    assert!(
        text.contains("too many requests, please try again later"),
        "{text}"
    );
    // Nobody else is concerned, least of all the exempt.
    let (code, _, _) = server.get("/api/v1/namespaces", &AS_JANE).await;
    assert_eq!(code, StatusCode::OK);

    // With queues she waits.
    let queue = json!({"type": "Queue", "queuing": {"queues": 4, "handSize": 2, "queueLengthLimit": 2}});
    let path = format!("{levels}/tiny");
    let (_, _, current) = server.get(&path, &[]).await;
    let mut current: Value = serde_json::from_str(&current).unwrap();
    current["spec"]["limited"]["limitResponse"] = queue;
    let headers = [("content-type", "application/json")];
    let (code, _, text) = server.send("PUT", &path, &headers, current.to_string()).await;
    assert_eq!(code, StatusCode::OK, "{text}");
    let waiting = ask(server.clone());
    eventually("one waiting", || async {
        (load(&server).await == (3, 1)).then_some(())
    })
    .await;
    let (_, _, requests) = server
        .get("/debug/api_priority_and_fairness/dump_requests", &[])
        .await;
    assert!(
        requests
            .lines()
            .any(|l| l.starts_with("tiny, jane, ") && l.contains(", jane, ")),
        "{requests}"
    );
    permits.add_permits(4);
    for request in running.into_iter().chain([waiting]) {
        let (code, _, text) = request.await.unwrap();
        assert_eq!(code, StatusCode::OK, "{text}");
    }
    assert_eq!(load(&server).await, (0, 0));
    Arc::into_inner(server).unwrap().stop().await;
}
