//! Which authorizers decide, with a webhook on loopback that decides too.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use jiff::{SignedDuration, Timestamp};
use keelson_apiserver::http::Body;
use keelson_apiserver::{
    ApiServerConfig, AuthorizationConfig, AuthorizationMode, AuthorizationWebhookConfig,
};
use keelson_pki::{AltNames, ClusterNames, Identity, Leaf, Pki, Profile, Subject};
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{TestServer, eventually, tls_server};
use tempfile::TempDir;

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A webhook that decides by the user's name.
struct Judge {
    pki: Pki,
    port: u16,
    directory: TempDir,
    asked: Arc<Mutex<Vec<Value>>>,
}

fn verdict(user: &str) -> Value {
    match user {
        "allowed" => json!({"allowed": true, "reason": "friend"}),
        "denied" => json!({"allowed": false, "denied": true, "reason": "foe"}),
        "both" => json!({"allowed": true, "denied": true}),
        _ => json!({"allowed": false, "reason": "never heard of"}),
    }
}

impl Judge {
    async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let pki = Pki::ensure(
            &directory.path().join("pki"),
            &ClusterNames::default(),
            Timestamp::now(),
        )
        .unwrap();
        let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
        let log = asked.clone();
        let handler = move |request: Request<Incoming>, _| {
            let log = log.clone();
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let mut review: Value = serde_json::from_slice(&body).unwrap();
                log.lock().push(review.clone());
                if path == "/broken" {
                    let mut response = Response::new(Body::from("no judge today"));
                    *response.status_mut() = StatusCode::BAD_GATEWAY;
                    return response;
                }
                review["status"] = verdict(review["spec"]["user"].as_str().unwrap_or_default());
                Response::new(Body::from(review.to_string()))
            }
        };
        let (address, _stop) = tls_server(&pki, &["127.0.0.1"], handler).await;
        Self {
            pki,
            port: address.port(),
            directory,
            asked,
        }
    }

    fn kubeconfig(&self, path: &str) -> PathBuf {
        let url = format!("https://127.0.0.1:{}{path}", self.port);
        let kubeconfig = self.pki.kubeconfig(Identity::Admin, "judge", &url);
        self.write(&format!("kubeconfig{}", path.replace('/', "-")), &kubeconfig)
    }

    /// Replaces a file as editors and ConfigMap volumes do.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let (path, beside) = (
            self.directory.path().join(name),
            self.directory.path().join("beside"),
        );
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, &path).unwrap();
        path
    }

    fn configuration(&self, authorizers: Value) -> PathBuf {
        let text = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
            "authorizers": authorizers});
        self.write("authorization.yaml", &text.to_string())
    }

    fn webhook(&self, name: &str, path: &str, policy: &str, conditions: &[&str]) -> Value {
        let conditions: Vec<Value> = conditions.iter().map(|c| json!({"expression": c})).collect();
        json!({"type": "Webhook", "name": name, "webhook": {
            "timeout": "3s", "subjectAccessReviewVersion": "v1", "matchConditionSubjectAccessReviewVersion": "v1",
            "failurePolicy": policy, "matchConditions": conditions,
            "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": self.kubeconfig(path)}}})
    }

    fn times_asked(&self) -> usize {
        self.asked.lock().len()
    }
}

fn modes(modes: &[AuthorizationMode], webhook: Option<AuthorizationWebhookConfig>) -> AuthorizationConfig {
    AuthorizationConfig::Modes {
        modes: modes.to_vec(),
        webhook,
    }
}

fn with(authorization: AuthorizationConfig) -> impl FnOnce(&mut ApiServerConfig) {
    |config| config.authorization = authorization
}

fn user(server: &TestServer, name: &str) -> Leaf {
    let profile = Profile::client(SignedDuration::from_hours(1));
    let subject = Subject::new(name, &["people"]);
    let issued = server
        .pki
        .ca
        .issue(&subject, &AltNames::default(), &profile, Timestamp::now());
    let (certificate, key) = issued.unwrap();
    Leaf { certificate, key }
}

/// What a user gets for a path: the code and the message.
async fn get(server: &TestServer, name: &str, path: &str) -> (u16, String) {
    let leaf = user(server, name);
    let (code, _, text) = server.send_as(Some(&leaf), "GET", path, &[], String::new()).await;
    let status: Value = serde_json::from_str(&text).unwrap_or_default();
    (
        code.as_u16(),
        status["message"].as_str().unwrap_or_default().to_owned(),
    )
}

/// The status of a review that the administrator creates.
async fn review(server: &TestServer, kind: &str, spec: Value) -> Value {
    let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
    let path = format!("/apis/authorization.k8s.io/v1/{}s", kind.to_lowercase());
    let headers = [("content-type", "application/json")];
    let (code, _, text) = server.send("POST", &path, &headers, body.to_string()).await;
    assert_eq!(code, StatusCode::CREATED, "{text}");
    serde_json::from_str::<Value>(&text).unwrap()["status"].clone()
}

#[tokio::test]
async fn a_webhook_before_rbac() {
    let judge = Judge::start().await;
    let webhook = |version: &str, path: &str| AuthorizationWebhookConfig {
        config_file: judge.kubeconfig(path),
        version: version.to_owned(),
        authorized_ttl: Duration::from_secs(300),
        unauthorized_ttl: Duration::from_secs(30),
    };
    let both = [AuthorizationMode::Webhook, AuthorizationMode::Rbac];
    let config = modes(&both, Some(webhook("v1", "/judge")));
    let server = TestServer::start_with(with(config)).await;
    let selective = format!("{PODS}?fieldSelector=spec.nodeName%3Dn&labelSelector=a");
    assert_eq!(get(&server, "allowed", &selective).await.0, 200);
    let asked = judge.asked.lock()[0].clone();
    assert_eq!(asked["apiVersion"], "authorization.k8s.io/v1");
    assert_eq!(asked["spec"]["user"], "allowed");
    assert_eq!(asked["spec"]["groups"], json!(["people", "system:authenticated"]));
    assert_eq!(
        asked["spec"]["resourceAttributes"],
        json!({"namespace": "default", "verb": "list", "version": "v1", "resource": "pods",
            "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n"]}]},
            "labelSelector": {"requirements": [{"key": "a", "operator": "Exists"}]}})
    );
    let (code, message) = get(&server, "denied", PODS).await;
    assert_eq!(
        (code, message.ends_with("in the namespace \"default\": foe")),
        (403, true),
        "{message}"
    );
    // RBAC decides where the webhook does not.
    assert_eq!(get(&server, "nobody", "/version").await.0, 200);
    let (code, message) = get(&server, "nobody", PODS).await;
    assert_eq!(
        (code, message.ends_with(": never heard of")),
        (403, true),
        "{message}"
    );
    // An answer is remembered; its lifetime is the configuration's.
    let before = judge.times_asked();
    assert_eq!(get(&server, "denied", PODS).await.0, 403);
    assert_eq!(get(&server, "allowed", &selective).await.0, 200);
    let answers = (before, judge.times_asked());
    let (code, message) = get(&server, "both", PODS).await;
    assert_eq!(code, 500);
    assert!(
        message.contains("webhook subject access review returned both allow and deny response"),
        "{message}"
    );
    // Certificates of a caller differ from call to call, and so does what its review says of it.
    assert_eq!(answers.1 - answers.0, 2);
    let spec = json!({"user": "denied", "resourceAttributes": {"verb": "get", "resource": "pods"}});
    for _ in 0..2 {
        let status = review(&server, "SubjectAccessReview", spec.clone()).await;
        assert_eq!(status, json!({"allowed": false, "denied": true, "reason": "foe"}));
    }
    let of_denied = |review: &&Value| review["spec"] == spec;
    assert_eq!(judge.asked.lock().iter().filter(of_denied).count(), 1);
    let rules = review(&server, "SelfSubjectRulesReview", json!({"namespace": "default"})).await;
    assert_eq!(rules["incomplete"], true);
    assert_eq!(
        rules["evaluationError"],
        "webhook authorizer does not support user rule resolution"
    );

    // A webhook that does not work has no opinion, and when nobody has one the request fails of it.
    let config = modes(&both, Some(webhook("v1beta1", "/broken")));
    let server = server.restart_with(with(config)).await.unwrap();
    assert_eq!(get(&server, "nobody", "/version").await.0, 200);
    assert_eq!(
        judge.asked.lock().last().unwrap()["spec"]["group"],
        json!(["people", "system:authenticated"])
    );
    let (code, message) = get(&server, "nobody", PODS).await;
    assert_eq!(code, 500);
    assert!(message.contains("502 Bad Gateway: no judge today"), "{message}");
    let status = review(&server, "SubjectAccessReview", spec).await;
    assert_eq!(status["allowed"], false);
    assert!(
        status["evaluationError"]
            .as_str()
            .unwrap()
            .contains("502 Bad Gateway"),
        "{status}"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_file_of_authorizers() {
    let judge = Judge::start().await;
    let node = json!({"type": "Node", "name": "node"});
    let rbac = json!({"type": "RBAC", "name": "rbac"});
    let pods = "has(request.resourceAttributes) && request.resourceAttributes.resource == 'pods'";
    let people = "'people' in request.groups && request.resourceAttributes.namespace == 'default'";
    let file = judge.configuration(json!([
        node,
        judge.webhook("pods", "/judge", "Deny", &[pods, people]),
        rbac
    ]));
    let server = TestServer::start_with(with(AuthorizationConfig::File(file))).await;
    assert_eq!(get(&server, "allowed", PODS).await.0, 200);
    assert_eq!(get(&server, "denied", PODS).await.0, 403);
    let asked = judge.times_asked();
    // Not asked: other resources, other namespaces, other people.
    for path in [
        "/api/v1/namespaces/default/secrets",
        "/api/v1/namespaces/kube-system/pods",
        "/version",
    ] {
        get(&server, "denied", path).await;
    }
    assert_eq!(server.get(PODS, &[]).await.0, StatusCode::OK);
    assert_eq!(judge.times_asked(), asked);

    // A condition that fails denies, as a webhook that does not answer; then nobody later is asked.
    let fails = "request.resourceAttributes.resource == 'pods'";
    judge.configuration(json!([
        judge.webhook("pods", "/judge", "Deny", &[fails]),
        node,
        rbac
    ]));
    let refused = || async { (get(&server, "nobody", "/version").await.0 == 500).then_some(()) };
    eventually("the failing condition", refused).await;
    let (_, message) = get(&server, "nobody", "/version").await;
    assert!(
        message.contains("Internal Server Error: \"/version\": cel evaluation error: no such key"),
        "{message}"
    );
    judge.configuration(json!([
        judge.webhook("pods", "/judge", "NoOpinion", &[fails]),
        node,
        rbac
    ]));
    let passed = || async { (get(&server, "nobody", "/version").await.0 == 200).then_some(()) };
    eventually("the condition that fails to matter no more", passed).await;
    judge.configuration(json!([
        judge.webhook("pods", "/broken", "Deny", &[pods]),
        node,
        rbac
    ]));
    let refused = || async { (get(&server, "allowed", PODS).await.0 == 500).then_some(()) };
    eventually("the broken webhook", refused).await;

    // What was there at the start stays; the next change is taken all the same.
    judge.configuration(json!([{"type": "AlwaysAllow", "name": "all"}]));
    judge.configuration(json!([node, rbac, {"type": "AlwaysAllow", "name": "all"}]));
    let passed = || async { (get(&server, "denied", PODS).await.0 == 200).then_some(()) };
    eventually("everything to be allowed", passed).await;
    server.stop().await;
}

#[tokio::test]
async fn modes_of_the_flag() {
    let server = TestServer::start_with(with(modes(&[AuthorizationMode::AlwaysAllow], None))).await;
    assert_eq!(get(&server, "nobody", PODS).await.0, 200);
    let rules = review(&server, "SelfSubjectRulesReview", json!({"namespace": "default"})).await;
    assert_eq!(
        rules["resourceRules"],
        json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}])
    );
    assert_eq!(
        rules["nonResourceRules"],
        json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}])
    );
    let server = server
        .restart_with(with(modes(&[AuthorizationMode::AlwaysDeny], None)))
        .await
        .unwrap();
    let (code, message) = get(&server, "nobody", PODS).await;
    assert_eq!(
        (
            code,
            message.ends_with("in the namespace \"default\": Everything is forbidden.")
        ),
        (403, true)
    );
    server.stop().await;
    let wrong = [
        (modes(&[], None), "at least one authorization-mode must be passed"),
        (
            modes(&[AuthorizationMode::Webhook], None),
            "authorization-mode Webhook's authorization config file not passed",
        ),
        (
            modes(&[AuthorizationMode::Rbac; 2], None),
            "authorization-mode RBAC has mode specified more than once",
        ),
    ];
    for (config, why) in wrong {
        let error = TestServer::try_start(with(config))
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(why), "{error}");
    }
    assert_eq!("RBAC".parse(), Ok(AuthorizationMode::Rbac));
    assert!(
        "ABAC"
            .parse::<AuthorizationMode>()
            .unwrap_err()
            .contains("ABAC is not supported")
    );
}
