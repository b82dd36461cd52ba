//! Audit events in a log file and at a webhook.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use keelson_apiserver::http::Body;
use keelson_apiserver::{AuditConfig, AuditLog, AuditPolicy, AuditWebhook};
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{TestServer, tls_server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: RequestResponse, omitManagedFields: true, resources: [{group: "", resources: [configmaps]}]}
  - {level: Metadata, resources: [{group: "", resources: [secrets, namespaces]}]}
"#;

/// What the tests do; returns the events that must come of it, as `verb code stage`.
async fn act(server: &TestServer) -> [&'static str; 7] {
    let json = [
        ("content-type", "application/json"),
        ("user-agent", "me/1.0"),
        ("audit-id", "the-id"),
    ];
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let (code, headers, _) = server.send("POST", MAPS, &json, map.to_string()).await;
    assert_eq!(
        (code, &headers["audit-id"]),
        (StatusCode::CREATED, &"the-id".parse().unwrap())
    );
    let (code, _, _) = server.send("POST", MAPS, &json, map.to_string()).await;
    assert_eq!(code, StatusCode::CONFLICT);
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "c2VjcmV0"}});
    server
        .send(
            "POST",
            "/api/v1/namespaces/default/secrets",
            &json,
            secret.to_string(),
        )
        .await;
    // Not recorded.
    server.get("/version", &[]).await;
    let nobody = [("impersonate-user", "nobody")];
    let (code, _, _) = server.get(MAPS, &nobody).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    server
        .get("/api/v1/namespaces?watch=1&timeoutSeconds=1", &[])
        .await;
    server
        .send("DELETE", &format!("{MAPS}/a"), &[], String::new())
        .await;
    [
        "create 201 ResponseComplete",
        "create 409 ResponseComplete",
        "create 201 ResponseComplete",
        "list 403 ResponseComplete",
        "watch 200 ResponseStarted",
        "watch 200 ResponseComplete",
        "delete 200 ResponseComplete",
    ]
}

fn check(events: &[Value], expected: &[&str]) {
    let lines: Vec<String> = events
        .iter()
        .map(|e| {
            let text = |field: &str| e[field].as_str().unwrap();
            format!(
                "{} {} {}",
                text("verb"),
                e["responseStatus"]["code"],
                text("stage")
            )
        })
        .collect();
    assert_eq!(lines, expected);
    let created = &events[0];
    assert_eq!(
        (&created["kind"], &created["apiVersion"]),
        (&json!("Event"), &json!("audit.k8s.io/v1"))
    );
    assert_eq!(
        (&created["auditID"], &created["userAgent"]),
        (&json!("the-id"), &json!("me/1.0"))
    );
    assert_eq!(
        (&created["level"], &created["requestURI"]),
        (&json!("RequestResponse"), &json!(MAPS))
    );
    assert_eq!(created["user"]["username"], "kubernetes-admin");
    assert_eq!(created["sourceIPs"], json!(["127.0.0.1"]));
    assert_eq!(created["requestObject"]["data"]["k"], "v");
    assert!(created["responseObject"]["metadata"]["uid"].is_string());
    assert_eq!(created["responseObject"]["metadata"].get("managedFields"), None);
    assert_eq!(created["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!(
        created["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "apiVersion": "v1"})
    );
    assert_eq!(events[1]["responseStatus"]["reason"], "AlreadyExists");
    let secret = &events[2];
    assert_eq!(
        (&secret["level"], secret.get("requestObject")),
        (&json!("Metadata"), None)
    );
    let refused = &events[3];
    assert_eq!(refused["impersonatedUser"]["username"], "nobody");
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
}

#[tokio::test]
async fn events_go_to_a_log_file() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("audit.log");
    let log = AuditLog {
        path: path.clone(),
        max_size: 0,
        max_backups: 0,
        max_age: 0,
    };
    let server = TestServer::start_with(|config| {
        config.audit = Some(AuditConfig {
            policy: AuditPolicy::parse(POLICY).unwrap(),
            log: Some(log),
            webhook: None,
        });
    })
    .await;
    let expected = act(&server).await;
    server.stop().await;
    let text = std::fs::read_to_string(path).unwrap();
    let events: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    check(&events, &expected);
}

#[tokio::test]
async fn events_go_to_a_webhook() {
    // The webhook's certificate is of another cluster's authority: it has nothing to do with the server's.
    let directory = tempfile::TempDir::new().unwrap();
    let pki = keelson_pki::Pki::ensure(
        directory.path(),
        &keelson_pki::ClusterNames::default(),
        jiff::Timestamp::now(),
    );
    let pki = pki.unwrap();
    let events: Arc<Mutex<Vec<Value>>> = Arc::default();
    let log = events.clone();
    let handler = move |request: Request<Incoming>, _| {
        let log = log.clone();
        async move {
            assert_eq!(request.headers()["authorization"], "Bearer abc");
            assert_eq!(request.uri().path(), "/audit");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut list: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(list["kind"], "EventList");
            log.lock().append(list["items"].as_array_mut().unwrap());
            Response::new(Body::empty())
        }
    };
    let (address, _stop) = tls_server(&pki, &["127.0.0.1"], handler).await;
    let webhook = AuditWebhook {
        url: format!("https://{address}/audit"),
        ca_pem: pki.ca.certificate().to_pem().into_bytes(),
        token: Some("abc".to_owned()),
        ..AuditWebhook::default()
    };
    let server = TestServer::start_with(|config| {
        config.audit = Some(AuditConfig {
            policy: AuditPolicy::parse(POLICY).unwrap(),
            log: None,
            webhook: Some(webhook),
        });
    })
    .await;
    let expected = act(&server).await;
    // What is not delivered yet is delivered before the server ends.
    server.stop().await;
    check(&events.lock(), &expected);
}
