//! Identities, rules and admission on a real server: TLS on loopback, the embedded store, real certificates and tokens.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use base64::Engine;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use keelson_apiserver::{ApiServer, ApiServerConfig, CertificateAndKey, ServiceAccountConfig};
use keelson_pki::{AltNames, CertificateAuthority, ClusterNames, Identity, Leaf, Pki, Profile, Subject, tls};
use keelson_store::Store;
use keelson_store::embedded::{EmbeddedStore, Options};
use serde_json::{Value, json};

struct Cluster {
    server: ApiServer,
    config: ApiServerConfig,
    store: Arc<EmbeddedStore>,
    pki: Pki,
    _directory: tempfile::TempDir,
}

/// Who asks: a certificate, a token, both or none, and further headers.
#[derive(Clone, Default)]
struct Caller {
    leaf: Option<Leaf>,
    token: Option<String>,
    headers: Vec<(&'static str, String)>,
}

impl Cluster {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::ensure(
            &directory.path().join("pki"),
            &ClusterNames::default(),
            Timestamp::now(),
        )
        .unwrap();
        let store = EmbeddedStore::open(directory.path().join("store"), Options::default()).unwrap();
        let leaf = pki.leaf(Identity::Apiserver);
        let serving = CertificateAndKey {
            certificate_pem: leaf.certificate.to_pem().into(),
            key_pem: leaf.key.to_pem().into(),
        };
        let ca = pki.ca.certificate().to_pem();
        let mut config = ApiServerConfig::new(store.clone(), serving, ca.into());
        config.bind_address = "127.0.0.1:0".parse().unwrap();
        config.request_header_ca_pem = Some(pki.front_proxy_ca.certificate().to_pem().into());
        config.request_header_allowed_names = vec!["front-proxy-client".into()];
        config.service_account = ServiceAccountConfig {
            signing_key_pem: pki.service_account_key.to_pem().into(),
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            ..ServiceAccountConfig::default()
        };
        let server = ApiServer::start(config.clone()).await.unwrap();
        Self {
            server,
            config,
            store,
            pki,
            _directory: directory,
        }
    }

    fn identity(&self, identity: Identity) -> Caller {
        Caller {
            leaf: Some(self.pki.leaf(identity).clone()),
            ..Caller::default()
        }
    }

    fn user(&self, name: &str, groups: &[&str]) -> Caller {
        let profile = Profile::client(SignedDuration::from_hours(1));
        let names = AltNames::default();
        let (certificate, key) = self
            .pki
            .ca
            .issue(&Subject::new(name, groups), &names, &profile, Timestamp::now())
            .unwrap();
        Caller {
            leaf: Some(Leaf { certificate, key }),
            ..Caller::default()
        }
    }

    async fn ask(&self, caller: &Caller, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let cas = [self.pki.ca.certificate().clone()];
        let config = Arc::new(tls::client_config(&cas, caller.leaf.as_ref()).unwrap());
        let tcp = tokio::net::TcpStream::connect(self.server.local_addr())
            .await
            .unwrap();
        let connector = tokio_rustls::TlsConnector::from(config);
        let stream = connector
            .connect("localhost".try_into().unwrap(), tcp)
            .await
            .unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let task = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost");
        if let Some(token) = &caller.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in &caller.headers {
            request = request.header(*name, value);
        }
        let bytes = body.map(|b| b.to_string()).unwrap_or_default();
        let request = request
            .header("content-type", "application/json")
            .body(Full::<bytes::Bytes>::from(bytes))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        drop(sender);
        task.abort();
        (
            status,
            serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into()),
        )
    }

    async fn get(&self, caller: &Caller, path: &str) -> (u16, Value) {
        self.ask(caller, Method::GET, path, None).await
    }

    async fn create(&self, caller: &Caller, path: &str, body: Value) -> (u16, Value) {
        self.ask(caller, Method::POST, path, Some(body)).await
    }

    /// Creates, and insists.
    async fn made(&self, caller: &Caller, path: &str, body: Value) -> Value {
        let (status, value) = self.create(caller, path, body).await;
        assert_eq!(status, 201, "{path}: {value}");
        value
    }

    async fn who_is(&self, caller: &Caller) -> Value {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let (status, value) = self
            .create(
                caller,
                "/apis/authentication.k8s.io/v1/selfsubjectreviews",
                review,
            )
            .await;
        assert_eq!(status, 201, "{value}");
        value["status"]["userInfo"].clone()
    }

    /// A namespace with its default service account (there is no controller here).
    async fn namespace(&self, name: &str, labels: Value) {
        let admin = self.identity(Identity::Admin);
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        self.made(&admin, "/api/v1/namespaces", object).await;
        self.made(
            &admin,
            &format!("/api/v1/namespaces/{name}/serviceaccounts"),
            named("ServiceAccount", "default"),
        )
        .await;
    }
}

fn named(kind: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}})
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = named("Pod", name);
    pod["spec"] = spec;
    pod["spec"]["containers"] = json!([{"name": "c", "image": "i"}]);
    pod
}

fn rbac(kind: &str, name: &str, rest: Value) -> Value {
    let mut object = rest;
    object["apiVersion"] = "rbac.authorization.k8s.io/v1".into();
    object["kind"] = kind.into();
    object["metadata"] = json!({"name": name});
    object
}

fn message(answer: &(u16, Value)) -> String {
    format!(
        "{} {}",
        answer.0,
        answer.1["message"].as_str().unwrap_or_default()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn identities() {
    let c = Cluster::start().await;
    let admin = c.identity(Identity::Admin);
    let nobody = Caller::default();
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(c.get(&nobody, path).await.0, 200, "{path}");
    }
    assert_eq!(
        message(&c.get(&nobody, "/api/v1/namespaces/default/pods").await),
        "403 pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \
         \"default\""
    );
    assert_eq!(
        message(&c.get(&nobody, "/metrics").await),
        "403 forbidden: User \"system:anonymous\" cannot get path \"/metrics\""
    );
    let me = c.who_is(&admin).await;
    assert_eq!(me["username"], "kubernetes-admin");
    assert_eq!(
        me["groups"],
        json!(["kubeadm:cluster-admins", "system:authenticated"])
    );

    // Certificates of another authority, and tokens of nobody, are 401 and not anonymous.
    let other =
        CertificateAuthority::create("kubernetes", SignedDuration::from_hours(1), Timestamp::now()).unwrap();
    let profile = Profile::client(SignedDuration::from_hours(1));
    let subject = Subject::new("kubernetes-admin", &["system:masters"]);
    let (certificate, key) = other
        .issue(&subject, &AltNames::default(), &profile, Timestamp::now())
        .unwrap();
    let stranger = Caller {
        leaf: Some(Leaf { certificate, key }),
        ..Caller::default()
    };
    assert_eq!(c.get(&stranger, "/version").await.0, 401);
    let wrong = Caller {
        token: Some("a.b.c".into()),
        ..Caller::default()
    };
    assert_eq!(message(&c.get(&wrong, "/version").await), "401 Unauthorized");

    // The front proxy speaks for others; nobody else does.
    let mut proxy = c.identity(Identity::FrontProxyClient);
    proxy.headers = vec![("x-remote-user", "bob".into()), ("x-remote-group", "dev".into())];
    assert_eq!(c.who_is(&proxy).await["username"], "bob");
    let mut forger = c.user("eve", &[]);
    forger.headers.clone_from(&proxy.headers);
    assert_eq!(c.who_is(&forger).await["username"], "eve");

    // Impersonation.
    let mut acting = admin.clone();
    acting.headers = vec![
        ("impersonate-user", "jane".into()),
        ("impersonate-group", "dev".into()),
    ];
    assert_eq!(
        c.who_is(&acting).await["groups"],
        json!(["dev", "system:authenticated"])
    );
    forger.headers = vec![("impersonate-user", "jane".into())];
    assert_eq!(
        message(&c.get(&forger, "/version").await),
        "403 forbidden: User \"eve\" cannot impersonate-on:user-info:get path \"/version\""
    );

    // A bootstrap token.
    let mut secret = named("Secret", "bootstrap-token-abcdef");
    secret["type"] = "bootstrap.kubernetes.io/token".into();
    let data = [
        ("token-id", "abcdef"),
        ("token-secret", "0123456789abcdef"),
        ("usage-bootstrap-authentication", "true"),
        (
            "auth-extra-groups",
            "system:bootstrappers:kubeadm:default-node-token",
        ),
    ];
    for (key, value) in data {
        secret["data"][key] = base64::engine::general_purpose::STANDARD.encode(value).into();
    }
    c.made(&admin, "/api/v1/namespaces/kube-system/secrets", secret)
        .await;
    let joiner = Caller {
        token: Some("abcdef.0123456789abcdef".into()),
        ..Caller::default()
    };
    assert_eq!(c.who_is(&joiner).await["username"], "system:bootstrap:abcdef");
    assert_eq!(
        c.get(&joiner, "/apis/certificates.k8s.io/v1/certificatesigningrequests")
            .await
            .0,
        200
    );
    assert_eq!(
        c.get(&joiner, "/api/v1/namespaces/kube-system/secrets").await.0,
        403
    );

    // Starting again writes nothing.
    let before = c.store.revision().await.unwrap();
    keelson_apiserver::bootstrap::run(&c.config, c.server.registry())
        .await
        .unwrap();
    assert_eq!(c.store.revision().await.unwrap(), before);
    c.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn service_accounts_and_rules() {
    let c = Cluster::start().await;
    let admin = c.identity(Identity::Admin);
    c.namespace("t", json!({})).await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let issued = c
        .made(
            &admin,
            "/api/v1/namespaces/t/serviceaccounts/default/token",
            request,
        )
        .await;
    let token = issued["status"]["token"].as_str().unwrap().to_owned();
    let account = Caller {
        token: Some(token.clone()),
        ..Caller::default()
    };
    let me = c.who_is(&account).await;
    assert_eq!(me["username"], "system:serviceaccount:t:default");
    let groups = json!([
        "system:serviceaccounts",
        "system:serviceaccounts:t",
        "system:authenticated"
    ]);
    assert_eq!(me["groups"], groups);
    let pods = "/api/v1/namespaces/t/pods";
    assert_eq!(
        message(&c.get(&account, pods).await),
        "403 pods is forbidden: User \"system:serviceaccount:t:default\" cannot list resource \"pods\" in API group \"\" in \
         the namespace \"t\""
    );
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/t/roles";
    let rules = json!({"rules": [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"],
            "verbs": ["create", "get", "update"]},
    ]});
    c.made(&admin, roles, rbac("Role", "reader", rules)).await;
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/t/rolebindings";
    let binding = json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "t"}],
    });
    c.made(&admin, bindings, rbac("RoleBinding", "reader", binding))
        .await;
    assert_eq!(c.get(&account, pods).await.0, 200);
    assert_eq!(c.get(&account, "/api/v1/namespaces/default/pods").await.0, 403);

    // Grant what is held, and nothing more.
    let rule =
        |resource: &str| json!({"rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]});
    c.made(&account, roles, rbac("Role", "pods", rule("pods"))).await;
    let refused = message(
        &c.create(&account, roles, rbac("Role", "secrets", rule("secrets")))
            .await,
    );
    assert!(
        refused.ends_with(
            "is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], \
             Verbs:[\"get\"]}"
        ),
        "{refused}"
    );
    let to_admin = json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "t"}],
    });
    assert_eq!(
        c.create(&account, bindings, rbac("RoleBinding", "up", to_admin))
            .await
            .0,
        403
    );

    // Reviews.
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let status = c.made(&admin, reviews, review.clone()).await["status"].clone();
    assert_eq!(status["authenticated"], true);
    let mut elsewhere = review;
    elsewhere["spec"]["audiences"] = json!(["vault"]);
    assert_eq!(
        c.made(&admin, reviews, elsewhere).await["status"]["authenticated"],
        Value::Null
    );
    let access = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec":
        {"resourceAttributes": {"namespace": "t", "verb": "list", "resource": "pods"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let status = c.made(&account, path, access).await["status"].clone();
    assert_eq!(status["allowed"], true);
    assert_eq!(
        status["reason"],
        "RBAC: allowed by RoleBinding \"reader/t\" of Role \"reader\" to ServiceAccount \"default/t\""
    );

    // A token dies with its account.
    let gone = c
        .ask(
            &admin,
            Method::DELETE,
            "/api/v1/namespaces/t/serviceaccounts/default",
            None,
        )
        .await;
    assert_eq!(gone.0, 200);
    assert_eq!(c.get(&account, pods).await.0, 401);
    c.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admission() {
    let c = Cluster::start().await;
    let admin = c.identity(Identity::Admin);
    c.namespace("t", json!({})).await;
    let pods = "/api/v1/namespaces/t/pods";
    let made = c.made(&admin, pods, pod("a", json!({}))).await;
    let spec = &made["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["priority"]),
        (&json!("default"), &json!(0))
    );
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    let volume = spec["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-"), "{volume}");
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], volume);
    let critical = c
        .made(
            &admin,
            pods,
            pod("b", json!({"priorityClassName": "system-node-critical"})),
        )
        .await;
    assert_eq!(critical["spec"]["priority"], 2_000_001_000);
    for (spec, why) in [
        (
            json!({"priorityClassName": "no"}),
            "no PriorityClass with name no was found",
        ),
        (
            json!({"priority": 5}),
            "the integer value of priority (5) must not be provided in pod spec; priority admission \
            controller computed 0 from the given PriorityClass name",
        ),
        (
            json!({"serviceAccountName": "no"}),
            "error looking up service account t/no: serviceaccount \"no\" not found",
        ),
        (
            json!({"runtimeClassName": "no"}),
            "pod rejected: RuntimeClass \"no\" not found",
        ),
    ] {
        let refused = message(&c.create(&admin, pods, pod("x", spec)).await);
        assert_eq!(refused, format!("403 pods \"x\" is forbidden: {why}"));
    }
    assert_eq!(
        message(
            &c.create(&admin, "/api/v1/namespaces/none/pods", pod("x", json!({})))
                .await
        ),
        "404 namespaces \"none\" not found"
    );
    assert_eq!(
        message(
            &c.ask(&admin, Method::DELETE, "/api/v1/namespaces/default", None)
                .await
        ),
        "403 namespaces \"default\" is forbidden: this namespace may not be deleted"
    );

    // Quota: ten at once, two fit.
    c.namespace("q", json!({})).await;
    let mut quota = named("ResourceQuota", "q");
    quota["spec"] = json!({"hard": {"pods": "2"}});
    c.made(&admin, "/api/v1/namespaces/q/resourcequotas", quota).await;
    let attempts = (0..10).map(|i| {
        let pod = pod(&format!("p{i}"), json!({}));
        c.create(&admin, "/api/v1/namespaces/q/pods", pod)
    });
    let answers = futures::future::join_all(attempts).await;
    assert_eq!(answers.iter().filter(|a| a.0 == 201).count(), 2, "{answers:?}");
    let refused = answers.iter().find(|a| a.0 == 403).map(message).unwrap();
    assert!(
        refused.ends_with("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"),
        "{refused}"
    );

    // Pod security.
    c.namespace("hard", json!({"pod-security.kubernetes.io/enforce": "baseline"}))
        .await;
    let refused = c
        .create(
            &admin,
            "/api/v1/namespaces/hard/pods",
            pod("x", json!({"hostNetwork": true})),
        )
        .await;
    assert_eq!(
        message(&refused),
        "403 pods \"x\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
    );
    c.made(&admin, "/api/v1/namespaces/hard/pods", pod("y", json!({})))
        .await;
    c.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes() {
    let c = Cluster::start().await;
    let admin = c.identity(Identity::Admin);
    c.namespace("t", json!({})).await;
    let node = Caller {
        leaf: Some(c.pki.issue_node_client("n1", Timestamp::now()).unwrap()),
        ..Caller::default()
    };
    let registered = c.made(&node, "/api/v1/nodes", named("Node", "n1")).await;
    assert_eq!(
        registered["spec"]["taints"][0]["key"],
        "node.kubernetes.io/not-ready"
    );
    assert_eq!(
        message(&c.create(&node, "/api/v1/nodes", named("Node", "n2")).await),
        "403 nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\""
    );
    assert_eq!(c.get(&node, "/api/v1/nodes/n1").await.0, 200);
    assert!(
        message(&c.get(&node, "/api/v1/nodes").await)
            .contains("cannot read all nodes, only its own Node object")
    );
    let mut secret = named("Secret", "s");
    secret["data"] = json!({"k": "dg=="});
    c.made(&admin, "/api/v1/namespaces/t/secrets", secret).await;
    let path = "/api/v1/namespaces/t/secrets/s";
    assert!(
        message(&c.get(&node, path).await)
            .ends_with("no relationship found between node 'n1' and this object")
    );
    let spec = json!({"nodeName": "n1", "volumes": [{"name": "v", "secret": {"secretName": "s"}}]});
    let bound = c.made(&admin, "/api/v1/namespaces/t/pods", pod("p", spec)).await;
    assert_eq!(c.get(&node, path).await.0, 200);
    let mine = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1";
    assert_eq!(c.get(&node, mine).await.0, 200);
    assert_eq!(c.get(&node, "/api/v1/pods").await.0, 403);

    // Tokens for the pods of the node, bound to them.
    let tokens = "/api/v1/namespaces/t/serviceaccounts/default/token";
    let request =
        |spec: Value| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    assert!(
        message(&c.create(&node, tokens, request(json!({}))).await)
            .ends_with("node requested token not bound to a pod")
    );
    let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": bound["metadata"]["uid"]});
    let issued = c
        .made(&node, tokens, request(json!({"boundObjectRef": reference})))
        .await;
    let token = issued["status"]["token"].as_str().unwrap().to_owned();
    let inside = Caller {
        token: Some(token),
        ..Caller::default()
    };
    let me = c.who_is(&inside).await;
    assert_eq!(me["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(
        me["extra"]["authentication.kubernetes.io/node-name"],
        json!(["n1"])
    );
    let gone = c
        .ask(
            &admin,
            Method::DELETE,
            "/api/v1/namespaces/t/pods/p?gracePeriodSeconds=0",
            None,
        )
        .await;
    assert_eq!(gone.0, 200);
    assert_eq!(c.get(&inside, "/version").await.0, 401);
    assert_eq!(c.get(&node, path).await.0, 403);
    c.server.shutdown().await;
}
