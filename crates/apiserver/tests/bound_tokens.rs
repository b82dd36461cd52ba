//! Tokens of service accounts, what they are bound to, who can verify them, and reviews of what their users may do.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use support::{TestServer, service_account};

const JSON: (&str, &str) = ("content-type", "application/json");
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const NAMESPACE: &str = "/api/v1/namespaces/default";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn admin(server: &TestServer, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let (code, _, text) = server.send(method, path, &[JSON], body).await;
    (code.as_u16(), serde_json::from_str(&text).unwrap_or_default())
}

async fn made(server: &TestServer, path: &str, body: Value) -> Value {
    let (code, value) = admin(server, "POST", path, body).await;
    assert_eq!(code, 201, "{path}: {value}");
    value
}

/// A TokenRequest's answer.
async fn request(server: &TestServer, spec: Value) -> (u16, Value) {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    admin(
        server,
        "POST",
        &format!("{NAMESPACE}/serviceaccounts/default/token"),
        body,
    )
    .await
}

async fn token(server: &TestServer, spec: Value) -> String {
    let (code, value) = request(server, spec).await;
    assert_eq!(code, 201, "{value}");
    value["status"]["token"].as_str().unwrap().to_owned()
}

async fn send_with(server: &TestServer, token: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
    let authorization = format!("Bearer {token}");
    let headers = [("authorization", authorization.as_str()), JSON];
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let (code, _, text) = server.send_as(None, method, path, &headers, body).await;
    (code.as_u16(), serde_json::from_str(&text).unwrap_or_default())
}

/// Who a token is: the user, or nothing for 401.
async fn who(server: &TestServer, token: &str) -> Option<Value> {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (code, value) = send_with(server, token, "POST", path, body).await;
    match code {
        201 => Some(value["status"]["userInfo"].clone()),
        401 => None,
        _ => panic!("{code} {value}"),
    }
}

async fn reviewed(server: &TestServer, token: &str, audiences: Value) -> Value {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token, "audiences": audiences}});
    made(server, "/apis/authentication.k8s.io/v1/tokenreviews", body).await["status"].clone()
}

fn claims(token: &str) -> Value {
    let claims = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

#[tokio::test]
async fn what_tokens_are_bound_to() {
    let server = TestServer::start().await;
    service_account(&server.client(), "default").await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    let node = made(&server, "/api/v1/nodes", node).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    let pod = made(&server, &format!("{NAMESPACE}/pods"), pod).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    made(&server, &format!("{NAMESPACE}/secrets"), secret).await;
    let bound =
        |kind: &str, name: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name}});
    let of_pod = token(&server, bound("Pod", "p")).await;
    let of_secret = token(&server, bound("Secret", "s")).await;
    let of_node = token(&server, bound("Node", "n")).await;
    let me = who(&server, &of_pod).await.unwrap();
    let id = claims(&of_pod)["jti"].as_str().unwrap().to_owned();
    let key = |name: &str| format!("authentication.kubernetes.io/{name}");
    assert_eq!(
        me["extra"],
        json!({key("pod-name"): ["p"], key("pod-uid"): [pod["metadata"]["uid"]], key("node-name"): ["n"],
            key("node-uid"): [node["metadata"]["uid"]], key("credential-id"): [format!("JTI={id}")]})
    );
    assert_eq!(me["username"], "system:serviceaccount:default:default");
    for (spec, code, why) in [
        (bound("Pod", "q"), 404, "pods \"q\" not found"),
        (
            bound("ConfigMap", "c"),
            400,
            "cannot bind token for serviceaccount \"default\" to object of type /v1, Kind=ConfigMap",
        ),
        (
            json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "other"}}),
            409,
            "does not match the UID in record",
        ),
        (
            json!({"expirationSeconds": 599}),
            422,
            "may not specify a duration less than 10 minutes",
        ),
        (
            json!({"expirationSeconds": 4_294_967_297_i64}),
            422,
            "may not specify a duration larger than 2^32 seconds",
        ),
    ] {
        let (got, status) = request(&server, spec).await;
        assert_eq!(got, code, "{status}");
        assert!(status["message"].as_str().unwrap().contains(why), "{status}");
    }
    // Each dies with what it is bound to, and only that one.
    for (token, path, others) in [
        (
            &of_pod,
            format!("{NAMESPACE}/pods/p?gracePeriodSeconds=0"),
            vec![&of_secret, &of_node],
        ),
        (&of_secret, format!("{NAMESPACE}/secrets/s"), vec![&of_node]),
        (&of_node, "/api/v1/nodes/n".to_owned(), vec![]),
    ] {
        assert!(who(&server, token).await.is_some(), "{path}");
        let (code, value) = admin(&server, "DELETE", &path, Value::Null).await;
        assert_eq!(code, 200, "{value}");
        assert_eq!(who(&server, token).await, None, "{path}");
        let status = reviewed(&server, token, json!([])).await;
        assert_eq!(
            status["error"],
            "[invalid bearer token, service account token has been invalidated]"
        );
        for other in others {
            assert!(who(&server, other).await.is_some(), "{path}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn audiences_and_lifetimes() {
    let longest = Duration::from_secs(7200);
    let server =
        TestServer::start_with(|config| config.service_account.max_token_expiration = Some(longest)).await;
    service_account(&server.client(), "default").await;
    let vault = token(&server, json!({"audiences": ["vault", "safe"]})).await;
    assert_eq!(who(&server, &vault).await, None, "not for this server");
    let status = reviewed(&server, &vault, json!(["safe", "other"])).await;
    assert_eq!(
        (&status["authenticated"], &status["audiences"]),
        (&json!(true), &json!(["safe"]))
    );
    let status = reviewed(&server, &vault, json!(["other"])).await;
    assert!(
        status["error"]
            .as_str()
            .unwrap()
            .contains("is invalid for the target audiences"),
        "{status}"
    );
    let ours = token(&server, json!({})).await;
    assert_eq!(claims(&ours)["aud"], json!([ISSUER]));
    assert_eq!(
        reviewed(&server, &ours, json!([])).await["audiences"],
        json!([ISSUER])
    );
    assert!(who(&server, &ours).await.is_some());

    let lifetime = |token: &str| {
        let claims = claims(token);
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap()
    };
    assert_eq!(lifetime(&ours), 3600);
    let (_, shortened) = request(&server, json!({"expirationSeconds": 86_400})).await;
    assert_eq!(lifetime(shortened["status"]["token"].as_str().unwrap()), 7200);
    assert_eq!(shortened["spec"]["expirationSeconds"], 7200);
    // What its own key signed is refused all the same when its time is over, or not yet there.
    let now = Timestamp::now().as_second();
    for (from, until) in [(now - 100, now - 1), (now + 100, now + 200)] {
        let mut claims = claims(&ours);
        claims["nbf"] = json!(from);
        claims["exp"] = json!(until);
        let signed = server.pki.service_account_key.sign_jwt(&claims).unwrap();
        assert_eq!(who(&server, &signed).await, None);
    }
    let forged = keelson_pki::PrivateKey::generate()
        .unwrap()
        .sign_jwt(&claims(&ours))
        .unwrap();
    assert_eq!(who(&server, &forged).await, None);
    server.stop().await;
}

#[tokio::test]
async fn others_can_verify_tokens() {
    let server = TestServer::start().await;
    service_account(&server.client(), "default").await;
    let token = token(&server, json!({"audiences": ["somebody"]})).await;
    let ours = self::token(&server, json!({})).await;
    let (code, document) = send_with(
        &server,
        &ours,
        "GET",
        "/.well-known/openid-configuration",
        Value::Null,
    )
    .await;
    assert_eq!((code, &document["issuer"]), (200, &json!(ISSUER)));
    assert_eq!(
        document["id_token_signing_alg_values_supported"],
        json!(["ES256"])
    );
    assert!(
        document["jwks_uri"]
            .as_str()
            .unwrap()
            .ends_with("/openid/v1/jwks")
    );
    let (_, headers, text) = server.get("/openid/v1/jwks", &[]).await;
    assert_eq!(headers["content-type"], "application/jwk-set+json");
    assert_eq!(headers["cache-control"], "public, max-age=3600");
    let keys: Value = serde_json::from_str(&text).unwrap();
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    assert_eq!(header["kid"], keys["keys"][0]["kid"]);
    let decode = |value: &Value| URL_SAFE_NO_PAD.decode(value.as_str().unwrap()).unwrap();
    let point = [
        &[4][..],
        &decode(&keys["keys"][0]["x"]),
        &decode(&keys["keys"][0]["y"]),
    ]
    .concat();
    let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    key.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap())
        .unwrap();
    let (code, _, _) = server
        .send_as(None, "GET", "/openid/v1/jwks", &[], String::new())
        .await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    server.stop().await;
}

#[tokio::test]
async fn reviews_and_grants() {
    let server = TestServer::start().await;
    service_account(&server.client(), "default").await;
    let ours = token(&server, json!({})).await;
    let user = "system:serviceaccount:default:default";
    let rule = |verbs: &[&str], group: &str, resource: &str| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
    let role = |name: &str, rules: Value| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
    let binding = |name: &str, role: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]})
    };
    let group = "rbac.authorization.k8s.io";
    let rules = json!([
        rule(&["create"], group, "clusterroles"),
        rule(&["create"], group, "clusterrolebindings"),
        rule(&["list"], "", "pods")
    ]);
    let (roles, bindings) = (
        format!("{RBAC}/clusterroles"),
        format!("{RBAC}/clusterrolebindings"),
    );
    made(&server, &roles, role("author", rules)).await;
    made(&server, &bindings, binding("author", "author")).await;

    let access = |spec: Value, kind: &str| json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
    let pods = |namespace: &str| json!({"verb": "list", "resource": "pods", "namespace": namespace});
    let reviews = "/apis/authorization.k8s.io/v1";
    let path = format!("{reviews}/subjectaccessreviews");
    let spec = json!({"user": user, "resourceAttributes": pods("default")});
    let review = made(&server, &path, access(spec.clone(), "SubjectAccessReview")).await;
    assert_eq!(review["status"]["allowed"], true);
    // What a client's empty metadata may look like.
    let mut nameless = access(spec.clone(), "SubjectAccessReview");
    nameless["metadata"] = json!({"name": "", "creationTimestamp": null, "labels": {}});
    made(&server, &path, nameless).await;
    let mut named = access(spec.clone(), "SubjectAccessReview");
    named["metadata"] = json!({"name": "mine"});
    let (code, status) = admin(&server, "POST", &path, named).await;
    assert_eq!(code, 422);
    assert!(
        status["message"].as_str().unwrap().contains("must be empty"),
        "{status}"
    );
    let mut selective = spec.clone();
    selective["resourceAttributes"]["labelSelector"] = json!({});
    let (code, status) = admin(&server, "POST", &path, access(selective, "SubjectAccessReview")).await;
    assert_eq!(code, 422, "{status}");
    let local = format!("{reviews}/namespaces/default/localsubjectaccessreviews");
    let review = made(&server, &local, access(spec, "LocalSubjectAccessReview")).await;
    assert_eq!(review["status"]["allowed"], true);
    let elsewhere = json!({"user": user, "resourceAttributes": pods("kube-system")});
    let (code, _) = admin(
        &server,
        "POST",
        &local,
        access(elsewhere, "LocalSubjectAccessReview"),
    )
    .await;
    assert_eq!(code, 422);
    let own = format!("{reviews}/selfsubjectaccessreviews");
    let secrets = json!({"resourceAttributes": {"verb": "get", "resource": "secrets"}});
    let (_, review) = send_with(
        &server,
        &ours,
        "POST",
        &own,
        access(secrets, "SelfSubjectAccessReview"),
    )
    .await;
    assert_eq!(review["status"]["allowed"], false);
    let own = format!("{reviews}/selfsubjectrulesreviews");
    let body = access(json!({"namespace": "default"}), "SelfSubjectRulesReview");
    let (_, review) = send_with(&server, &ours, "POST", &own, body).await;
    let listed = review["status"]["resourceRules"].as_array().unwrap();
    assert!(
        listed.contains(&json!({"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]})),
        "{review}"
    );
    assert_eq!(review["status"]["incomplete"], false);

    // Who may escalate and bind may grant what he does not hold.
    let secrets = || role("secrets", json!([rule(&["get"], "", "secrets")]));
    assert_eq!(send_with(&server, &ours, "POST", &roles, secrets()).await.0, 403);
    assert_eq!(
        send_with(&server, &ours, "POST", &bindings, binding("up", "cluster-admin"))
            .await
            .0,
        403
    );
    let verbs = json!([rule(&["escalate", "bind"], group, "clusterroles")]);
    made(&server, &roles, role("granter", verbs)).await;
    made(&server, &bindings, binding("granter", "granter")).await;
    assert_eq!(send_with(&server, &ours, "POST", &roles, secrets()).await.0, 201);
    assert_eq!(
        send_with(&server, &ours, "POST", &bindings, binding("up", "cluster-admin"))
            .await
            .0,
        201
    );
    assert_eq!(
        send_with(
            &server,
            &ours,
            "GET",
            &format!("{NAMESPACE}/secrets"),
            Value::Null
        )
        .await
        .0,
        200
    );
    server.stop().await;
}
