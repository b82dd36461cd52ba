//! Tokens of service accounts in Secrets, against a real API server that verifies them.

use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::support::Cluster;

const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

/// A secret for tokens of `account`.
async fn token_secret(cluster: &Cluster, name: &str, account: &str) -> Secret {
    let metadata = json!({"name": name, "annotations": {NAME: account}});
    let secret = json!({"metadata": metadata, "type": "kubernetes.io/service-account-token"});
    cluster.create::<Secret>(secret).await
}

/// The value of a key, empty if it is missing.
fn data(secret: &Secret, key: &str) -> String {
    let data = secret.data.as_ref().and_then(|data| data.get(key));
    data.map(|value| String::from_utf8(value.0.clone()).unwrap())
        .unwrap_or_default()
}

/// Whose token it is, according to the API server.
async fn user_of(cluster: &Cluster, token: &str) -> Option<String> {
    let api: Api<TokenReview> = Api::all(cluster.client.clone());
    let review = serde_json::from_value(json!({"spec": {"token": token}})).unwrap();
    let status = api
        .create(&PostParams::default(), &review)
        .await
        .unwrap()
        .status
        .unwrap();
    status
        .user
        .filter(|_| status.authenticated == Some(true))?
        .username
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_secrets_are_filled_and_end_with_their_account() {
    let cluster = Cluster::start_with(|config| config.root_ca_pem = Some("the authority".into())).await;
    let account = json!({"metadata": {"name": "robot"}});
    let account = cluster.create::<ServiceAccount>(account).await;
    token_secret(&cluster, "first", "robot").await;
    let filled = |secret: &Secret| !data(secret, "token").is_empty();
    let secret = cluster.until::<Secret>("first", "a token", filled).await;
    assert_eq!(data(&secret, "namespace"), "default");
    assert_eq!(data(&secret, "ca.crt"), "the authority");
    assert_eq!(
        secret.metadata.annotations.as_ref().unwrap()[UID],
        account.metadata.uid.clone().unwrap()
    );
    let token = data(&secret, "token");
    let user = user_of(&cluster, &token).await;
    assert_eq!(user.as_deref(), Some("system:serviceaccount:default:robot"));

    // What somebody took away comes back; a token is made anew.
    let params = PatchParams::default();
    let secrets = cluster.api::<Secret>();
    let patch = Patch::Merge(json!({"data": {"token": null, "ca.crt": "b2xk"}}));
    secrets.patch("first", &params, &patch).await.unwrap();
    let again = cluster
        .until::<Secret>("first", "a token again", |secret| {
            filled(secret) && data(secret, "ca.crt") == "the authority"
        })
        .await;
    assert_ne!(data(&again, "token"), token);
    assert_eq!(user_of(&cluster, &token).await, None, "the old one is invalid");

    // A secret of nobody's does not stay.
    token_secret(&cluster, "stray", "nobody").await;
    let has = |secrets: &[Secret], name: &str| {
        secrets
            .iter()
            .any(|secret| secret.metadata.name.as_deref() == Some(name))
    };
    cluster
        .until_all::<Secret>("no stray", |secrets| !has(secrets, "stray"))
        .await;

    // A deleted secret leaves the account's list.
    token_secret(&cluster, "second", "robot").await;
    cluster.until::<Secret>("second", "a token", filled).await;
    let accounts = cluster.api::<ServiceAccount>();
    let patch = Patch::Merge(json!({"secrets": [{"name": "first"}, {"name": "second"}]}));
    accounts.patch("robot", &params, &patch).await.unwrap();
    secrets.delete("second", &DeleteParams::default()).await.unwrap();
    let listed = |account: &ServiceAccount| {
        let secrets = account.secrets.iter().flatten();
        secrets.filter_map(|secret| secret.name.clone()).eq(["first"])
    };
    cluster
        .until::<ServiceAccount>("robot", "one secret", listed)
        .await;

    accounts.delete("robot", &DeleteParams::default()).await.unwrap();
    cluster
        .until_all::<Secret>("no secret of the account", |secrets| !has(secrets, "first"))
        .await;
    cluster.stop().await;
}
