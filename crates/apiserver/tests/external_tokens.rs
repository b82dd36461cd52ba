//! Tokens of other issuers and of a webhook, with an issuer and a webhook on loopback.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use jiff::Timestamp;
use keelson_apiserver::http::Body;
use keelson_apiserver::{OidcFlags, TokenIssuers, TokenWebhookConfig};
use keelson_pki::{ClusterNames, Identity, Pki, PrivateKey};
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{TestServer, eventually, tls_server};
use tempfile::TempDir;

/// An OpenID provider, and a webhook that knows two tokens.
struct Provider {
    pki: Pki,
    port: u16,
    directory: TempDir,
    key: PrivateKey,
    published: Arc<Mutex<Vec<Value>>>,
    /// Other documents by path.
    documents: Arc<Mutex<BTreeMap<String, String>>>,
    /// Paths that were asked for, with the body.
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

fn review(question: &Value) -> Value {
    let wanted = &question["spec"]["audiences"];
    let status = match question["spec"]["token"].as_str().unwrap() {
        "known" => json!({"authenticated": true, "audiences": wanted,
            "user": {"username": "wanda", "uid": "7", "groups": ["hooked"], "extra": {"a.b/c": ["d"]}}}),
        "elsewhere" => {
            json!({"authenticated": true, "audiences": ["elsewhere"], "user": {"username": "wanda"}})
        }
        "explained" => json!({"authenticated": false, "error": "the session is over"}),
        _ => json!({"authenticated": false}),
    };
    json!({"kind": "TokenReview", "apiVersion": question["apiVersion"], "status": status})
}

impl Provider {
    async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let pki = Pki::ensure(
            &directory.path().join("pki"),
            &ClusterNames::default(),
            Timestamp::now(),
        )
        .unwrap();
        let key = PrivateKey::generate().unwrap();
        let published = Arc::new(Mutex::new(vec![key.public().to_jwk()]));
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let documents: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
        let (keys, log, others) = (published.clone(), asked.clone(), documents.clone());
        let handler = move |request: Request<Incoming>, _| {
            let (keys, log, others) = (keys.clone(), log.clone(), others.clone());
            async move {
                let host = request.headers()["host"].to_str().unwrap().to_owned();
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let question: Value = serde_json::from_slice(&body).unwrap_or_default();
                log.lock().push((path.clone(), question.clone()));
                let document = |issuer: &str| json!({"issuer": format!("https://{host}{issuer}"), "jwks_uri": format!("https://{host}/keys")});
                let answer = match path.as_str() {
                    "/.well-known/openid-configuration" => document("").to_string(),
                    "/elsewhere" => document("/inside").to_string(),
                    "/wrong/.well-known/openid-configuration" => document("/right").to_string(),
                    "/keys" => json!({"keys": *keys.lock()}).to_string(),
                    "/review" => review(&question).to_string(),
                    _ => match others.lock().get(&path) {
                        Some(text) => text.clone(),
                        None => {
                            let mut response = Response::new(Body::from("nothing here"));
                            *response.status_mut() = StatusCode::NOT_FOUND;
                            return response;
                        }
                    },
                };
                Response::new(Body::from(answer))
            }
        };
        let (address, _stop) = tls_server(&pki, &["127.0.0.1"], handler).await;
        Self {
            pki,
            port: address.port(),
            directory,
            key,
            published,
            documents,
            asked,
        }
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    fn authority(&self) -> String {
        self.pki.ca.certificate().to_pem()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces a file as editors and ConfigMap volumes do.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let (path, beside) = (self.path(name), self.path("beside"));
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, &path).unwrap();
        path
    }

    /// A file with these issuers.
    fn configuration(&self, version: &str, jwt: Value) -> PathBuf {
        let text = json!({"apiVersion": format!("apiserver.config.k8s.io/{version}"),
            "kind": "AuthenticationConfiguration", "jwt": jwt});
        self.write("authentication.yaml", &text.to_string())
    }

    fn issuer(&self) -> Value {
        json!({"url": self.url(), "certificateAuthority": self.authority(), "audiences": ["me"]})
    }

    /// A token, good for a minute, with these claims.
    fn token(&self, claims: Value) -> String {
        self.signed(&self.key, claims)
    }

    fn signed(&self, key: &PrivateKey, claims: Value) -> String {
        let mut all = json!({"iss": self.url(), "aud": "me", "exp": Timestamp::now().as_second() + 60});
        for (claim, value) in claims.as_object().unwrap() {
            all[claim] = value.clone();
        }
        key.sign_jwt(&all).unwrap()
    }

    fn times_asked(&self, path: &str) -> usize {
        self.asked.lock().iter().filter(|(p, _)| p == path).count()
    }

    fn webhook(&self, path: &str) -> PathBuf {
        let kubeconfig = self
            .pki
            .kubeconfig(Identity::Admin, "hook", &format!("{}{path}", self.url()));
        self.write("webhook.kubeconfig", &kubeconfig)
    }
}

async fn start_with_file(path: &Path) -> TestServer {
    TestServer::start_with(|config| config.authentication.issuers = TokenIssuers::File(path.to_owned())).await
}

/// Who a token is, as `kubectl auth whoami` asks.
async fn who(server: &TestServer, token: &str) -> Result<Value, StatusCode> {
    let authorization = format!("Bearer {token}");
    let headers = [
        ("authorization", authorization.as_str()),
        ("content-type", "application/json"),
    ];
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (code, _, text) = server
        .send_as(None, "POST", path, &headers, body.to_string())
        .await;
    if code != StatusCode::CREATED {
        return Err(code);
    }
    let review: Value = serde_json::from_str(&text).unwrap();
    Ok(review["status"]["userInfo"].clone())
}

/// The status of a TokenReview.
async fn reviewed(server: &TestServer, token: &str, audiences: &[&str]) -> Value {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token, "audiences": audiences}});
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let headers = [("content-type", "application/json")];
    let (code, _, text) = server.send("POST", path, &headers, body.to_string()).await;
    assert_eq!(code, StatusCode::CREATED, "{text}");
    serde_json::from_str::<Value>(&text).unwrap()["status"].clone()
}

#[tokio::test]
async fn an_issuer_of_the_file() {
    let provider = Provider::start().await;
    let file = provider.configuration(
        "v1",
        json!([{
            "issuer": provider.issuer(),
            "claimValidationRules": [
                {"claim": "hd", "requiredValue": "example.com"},
                {"expression": "claims.exp - claims.iat <= 86400", "message": "too long a life"}],
            "claimMappings": {
                "username": {"claim": "sub", "prefix": "ext:"},
                "groups": {"expression": "claims.roles.map(r, 'role:' + r)"},
                "uid": {"claim": "id"},
                "extra": [{"key": "example.com/tenant", "valueExpression": "claims.?tenant.orValue('')"},
                    {"key": "example.com/none", "valueExpression": "''"}]},
            "userValidationRules": [
                {"expression": "!user.groups.exists(g, g == 'role:banned')", "message": "banned"}]}]),
    );
    let server = start_with_file(&file).await;
    let now = Timestamp::now().as_second();
    let claims = |changes: Value| {
        let mut claims = json!({"sub": "jane", "hd": "example.com", "iat": now, "roles": ["dev"], "id": "17",
            "tenant": "blue"});
        for (claim, value) in changes.as_object().unwrap() {
            claims[claim] = value.clone();
        }
        claims
    };
    let token = provider.token(claims(json!({})));
    let jane = json!({"username": "ext:jane", "uid": "17", "groups": ["role:dev", "system:authenticated"],
        "extra": {"example.com/tenant": ["blue"]}});
    assert_eq!(who(&server, &token).await.unwrap(), jane);
    assert_eq!(who(&server, &token).await.unwrap(), jane);
    assert_eq!(provider.times_asked("/keys"), 1);
    let status = reviewed(&server, &token, &[]).await;
    assert_eq!((&status["authenticated"], &status["user"]), (&json!(true), &jane));

    let stranger = PrivateKey::generate().unwrap();
    let stranger = provider.signed(&stranger, claims(json!({})));
    for (changes, why) in [
        (json!({"aud": ["you"]}), "expected audience \"me\" got [\"you\"]"),
        (json!({"exp": now - 5}), "token is expired"),
        (json!({"nbf": now + 300}), "before the nbf (not before) time"),
        (
            json!({"hd": "example.org"}),
            "required claim hd value does not match. Got = example.org, want = example.com",
        ),
        (
            json!({"iat": now - 100_000}),
            "validation expression failed: too long a life",
        ),
        (
            json!({"roles": ["banned"]}),
            "validation expression failed: banned",
        ),
        (json!({"roles": 7}), "error evaluating group claim expression"),
        (json!({"id": 7}), "parse uid claim \"id\""),
        (json!({"sub": 7}), "parse username claims \"sub\""),
    ] {
        let token = provider.token(claims(changes));
        assert_eq!(who(&server, &token).await, Err(StatusCode::UNAUTHORIZED), "{why}");
        let status = reviewed(&server, &token, &[]).await;
        assert!(
            status["error"].as_str().is_some_and(|e| e.contains(why)),
            "{why}: {status}"
        );
    }
    // Signed by a key that the issuer does not have, and by one that it has now.
    assert_eq!(who(&server, &stranger).await, Err(StatusCode::UNAUTHORIZED));
    let next = PrivateKey::generate().unwrap();
    provider.published.lock().push(next.public().to_jwk());
    let token = provider.signed(&next, claims(json!({"sub": "joe"})));
    assert_eq!(who(&server, &token).await.unwrap()["username"], "ext:joe");
    assert_eq!(provider.times_asked("/keys"), 3);
    // Who sends invented keys does not make the server ask for ever.
    for _ in 0..20 {
        let stranger = PrivateKey::generate().unwrap();
        let stranger = provider.signed(&stranger, claims(json!({})));
        assert_eq!(who(&server, &stranger).await, Err(StatusCode::UNAUTHORIZED));
    }
    assert!(provider.times_asked("/keys") <= 10);
    server.stop().await;
}

#[tokio::test]
async fn the_file_is_followed() {
    let provider = Provider::start().await;
    let with_prefix = |prefix: &str| json!([{"issuer": provider.issuer(), "claimMappings": {"username": {"claim": "sub", "prefix": prefix}}}]);
    let file = provider.configuration("v1beta1", with_prefix("a:"));
    let server = start_with_file(&file).await;
    let token = provider.token(json!({"sub": "jane"}));
    let name = async || who(&server, &token).await.map(|user| user["username"].clone());
    assert_eq!(name().await.unwrap(), "a:jane");
    // What cannot be used changes nothing; the next change is taken all the same.
    provider.write("authentication.yaml", "kind: Nonsense");
    provider.configuration("v1", with_prefix("b:"));
    let renamed = || async { (name().await.ok()? == "b:jane").then_some(()) };
    eventually("the new prefix", renamed).await;
    provider.configuration("v1", json!([]));
    let gone = || async { name().await.err() };
    assert_eq!(
        eventually("the issuer to be gone", gone).await,
        StatusCode::UNAUTHORIZED
    );
    server.stop().await;
}

#[tokio::test]
async fn several_issuers() {
    let provider = Provider::start().await;
    let mut inside = provider.issuer();
    inside["url"] = json!(format!("{}/inside", provider.url()));
    inside["discoveryURL"] = json!(format!("{}/elsewhere", provider.url()));
    inside["audiences"] = json!(["one", "two"]);
    inside["audienceMatchPolicy"] = json!("MatchAny");
    let mut wrong = provider.issuer();
    wrong["url"] = json!(format!("{}/wrong", provider.url()));
    let named = |prefix: &str| json!({"username": {"claim": "sub", "prefix": prefix}, "groups": {"claim": "groups", "prefix": "g:"}});
    let file = provider.configuration(
        "v1",
        json!([{"issuer": provider.issuer(), "claimMappings": named("first:")},
            {"issuer": inside, "claimMappings": named("second:")},
            {"issuer": wrong, "claimMappings": named("third:")}]),
    );
    let server = start_with_file(&file).await;
    let inside = format!("{}/inside", provider.url());
    let token =
        provider.token(json!({"iss": inside, "aud": ["three", "two"], "sub": "joe", "groups": ["x", "y"]}));
    let joe = who(&server, &token).await.unwrap();
    assert_eq!(joe["username"], "second:joe");
    assert_eq!(joe["groups"], json!(["g:x", "g:y", "system:authenticated"]));
    let token = provider.token(json!({"sub": "joe", "groups": "alone"}));
    let joe = who(&server, &token).await.unwrap();
    assert_eq!(joe["groups"], json!(["g:alone", "system:authenticated"]));
    // A discovery document that names another issuer is not believed.
    let token = provider.token(json!({"iss": format!("{}/wrong", provider.url()), "sub": "joe"}));
    let status = reviewed(&server, &token, &[]).await;
    assert!(
        status["error"]
            .as_str()
            .unwrap()
            .contains("issuer did not match the issuer returned by provider"),
        "{status}"
    );
    // Groups that are somewhere else.
    let groups = provider.token(json!({"groups": ["far"]}));
    provider.documents.lock().insert("/claims".to_owned(), groups);
    let token = provider.token(json!({"sub": "joe", "_claim_names": {"groups": "src"},
        "_claim_sources": {"src": {"endpoint": format!("{}/claims", provider.url())}}}));
    let joe = who(&server, &token).await.unwrap();
    assert_eq!(joe["groups"], json!(["g:far", "system:authenticated"]));
    let token = provider.token(json!({"sub": "joe", "_claim_names": {"groups": "src"},
        "_claim_sources": {"src": {"endpoint": format!("{}/lost", provider.url())}}}));
    assert_eq!(who(&server, &token).await, Err(StatusCode::UNAUTHORIZED));
    server.stop().await;
}

#[tokio::test]
async fn flags_of_one_issuer() {
    let provider = Provider::start().await;
    let flags = |change: &dyn Fn(&mut OidcFlags)| {
        let mut flags = OidcFlags {
            issuer_url: provider.url(),
            client_id: "me".to_owned(),
            ca_pem: Some(provider.authority()),
            signing_algs: vec!["ES256".to_owned()],
            required_claims: BTreeMap::from([("hd".to_owned(), "example.com".to_owned())]),
            groups_claim: "groups".to_owned(),
            groups_prefix: "oidc:".to_owned(),
            ..OidcFlags::default()
        };
        change(&mut flags);
        TokenIssuers::Oidc(flags)
    };
    let claims = json!({"sub": "jane", "hd": "example.com", "groups": ["a"], "email": "j@example.com"});
    let token = provider.token(claims);
    let issuers = flags(&|_| {});
    let server = TestServer::start_with(|config| config.authentication.issuers = issuers).await;
    let jane = who(&server, &token).await.unwrap();
    assert_eq!(jane["username"], format!("{}#jane", provider.url()));
    assert_eq!(jane["groups"], json!(["oidc:a", "system:authenticated"]));
    let token_without = provider.token(json!({"sub": "jane"}));
    assert_eq!(who(&server, &token_without).await, Err(StatusCode::UNAUTHORIZED));
    let issuers = flags(&|flags| flags.username_claim = Some("email".to_owned()));
    let server = server
        .restart_with(|config| config.authentication.issuers = issuers)
        .await
        .unwrap();
    assert_eq!(who(&server, &token).await.unwrap()["username"], "j@example.com");
    let unverified =
        provider.token(json!({"hd": "example.com", "email": "j@example.com", "email_verified": false}));
    assert_eq!(who(&server, &unverified).await, Err(StatusCode::UNAUTHORIZED));
    // RS256 alone unless said otherwise.
    let issuers = flags(&|flags| flags.signing_algs = Vec::new());
    let server = server
        .restart_with(|config| config.authentication.issuers = issuers)
        .await
        .unwrap();
    let status = reviewed(&server, &token, &[]).await;
    assert!(
        status["error"]
            .as_str()
            .unwrap()
            .contains("unsupported algorithm, expected [\"RS256\"] got \"ES256\"")
    );
    server.stop().await;
}

#[tokio::test]
async fn what_the_file_may_not_say() {
    let provider = Provider::start().await;
    let own = json!([{"issuer": {"url": "https://kubernetes.default.svc.cluster.local", "audiences": ["me"]},
        "claimMappings": {"username": {"claim": "sub", "prefix": ""}}}]);
    let file = provider.configuration("v1", own);
    let server = TestServer::try_start(|config| config.authentication.issuers = TokenIssuers::File(file));
    let error = server.await.err().unwrap().to_string();
    assert!(
        error.contains("URL must not overlap with disallowed issuers: [https://kubernetes"),
        "{error}"
    );
    let lost = TokenIssuers::File(provider.path("lost"));
    let error = TestServer::try_start(|config| config.authentication.issuers = lost)
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("lost: No such file"), "{error}");
}

#[tokio::test]
async fn who_may_come_without_credentials() {
    let provider = Provider::start().await;
    let text = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}, {"path": "/readyz"}]}});
    let file = provider.write("authentication.yaml", &text.to_string());
    let server = start_with_file(&file).await;
    let get =
        async |server: &TestServer, path: &str| server.send_as(None, "GET", path, &[], String::new()).await.0;
    assert_eq!(get(&server, "/livez").await, StatusCode::OK);
    assert_eq!(get(&server, "/healthz").await, StatusCode::UNAUTHORIZED);
    assert_eq!(get(&server, "/api").await, StatusCode::UNAUTHORIZED);
    let server = server
        .restart_with(|config| config.authentication.anonymous = Some(false))
        .await
        .unwrap();
    assert_eq!(get(&server, "/livez").await, StatusCode::UNAUTHORIZED);
    let server = server.restart_with(|_| {}).await.unwrap();
    assert_eq!(get(&server, "/livez").await, StatusCode::OK);
    assert_eq!(get(&server, "/api/v1/pods").await, StatusCode::FORBIDDEN);
    server.stop().await;
    let both = TestServer::try_start(|config| {
        config.authentication.issuers = TokenIssuers::File(file);
        config.authentication.anonymous = Some(true);
    });
    let error = both.await.err().unwrap().to_string();
    assert!(
        error.contains("--anonymous-auth flag cannot be set when anonymous field is configured"),
        "{error}"
    );
}

#[tokio::test]
async fn a_webhook() {
    let provider = Provider::start().await;
    let webhook = |path: &str, version: &str, ttl: u64| TokenWebhookConfig {
        config_file: provider.webhook(path),
        cache_ttl: Duration::from_secs(ttl),
        version: version.to_owned(),
    };
    let hook = webhook("/review", "v1", 120);
    let server = TestServer::start_with(|config| config.authentication.webhook = Some(hook)).await;
    let wanda = json!({"username": "wanda", "uid": "7", "groups": ["hooked", "system:authenticated"],
        "extra": {"a.b/c": ["d"]}});
    for _ in 0..3 {
        assert_eq!(who(&server, "known").await.unwrap(), wanda);
    }
    assert_eq!(provider.times_asked("/review"), 1, "answers are remembered");
    let (_, question) = provider.asked.lock()[0].clone();
    assert_eq!(question["apiVersion"], "authentication.k8s.io/v1");
    assert_eq!(
        question["spec"],
        json!({"token": "known", "audiences": ["https://kubernetes.default.svc.cluster.local"]})
    );
    for unknown in ["unknown", "elsewhere", "explained"] {
        assert_eq!(
            who(&server, unknown).await,
            Err(StatusCode::UNAUTHORIZED),
            "{unknown}"
        );
    }
    let status = reviewed(&server, "known", &["one", "two"]).await;
    assert_eq!(
        (&status["authenticated"], &status["audiences"]),
        (&json!(true), &json!(["one", "two"]))
    );
    let status = reviewed(&server, "elsewhere", &["elsewhere", "two"]).await;
    assert_eq!(status["audiences"], json!(["elsewhere"]));
    let status = reviewed(&server, "explained", &[]).await;
    assert_eq!(
        status,
        json!({"user": {}, "error": "[invalid bearer token, the session is over]"})
    );
    let status = reviewed(&server, "unknown", &[]).await;
    assert_eq!(status, json!({"user": {}, "error": "invalid bearer token"}));
    // Tokens of the cluster's own are not shown to it, and it may be without a cache.
    let hook = webhook("/review", "v1beta1", 0);
    let server = server
        .restart_with(|config| config.authentication.webhook = Some(hook))
        .await
        .unwrap();
    provider.asked.lock().clear();
    for _ in 0..2 {
        assert_eq!(who(&server, "known").await.unwrap(), wanda);
    }
    assert_eq!(provider.times_asked("/review"), 2);
    let hook = webhook("/gone", "v1", 120);
    let server = server
        .restart_with(|config| config.authentication.webhook = Some(hook))
        .await
        .unwrap();
    let status = reviewed(&server, "known", &[]).await;
    assert!(
        status["error"]
            .as_str()
            .unwrap()
            .contains("404 Not Found: nothing here"),
        "{status}"
    );
    server.stop().await;
    let hook = webhook("/review", "v2", 120);
    let error = TestServer::try_start(|config| config.authentication.webhook = Some(hook))
        .await
        .err();
    assert!(
        error
            .unwrap()
            .to_string()
            .contains("unsupported webhook authenticator version \"v2\"")
    );
}
