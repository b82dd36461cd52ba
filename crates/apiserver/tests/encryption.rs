//! Encryption at rest: what is in the store, and what happens when keys change.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use base64::Engine;
use http::StatusCode;
use keelson_apiserver::{ApiServerConfig, EncryptionConfig};
use serde_json::{Value, json};
use support::TestServer;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const KEY: &str = "/registry/secrets/default/s";

/// Keys by name and the byte that fills them; the first one writes.
fn keys(keys: &'static [(&'static str, u8)]) -> impl FnOnce(&mut ApiServerConfig) {
    move |config| {
        let list: Vec<Value> = keys
            .iter()
            .map(|(name, byte)| {
                let secret = base64::engine::general_purpose::STANDARD.encode([*byte; 32]);
                json!({"name": name, "secret": secret})
            })
            .collect();
        let text = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
            "resources": [{"resources": ["secrets"],
                "providers": [{"aesgcm": {"keys": list}}, {"identity": {}}]}]});
        config.encryption = Some(EncryptionConfig::parse(&text.to_string()).unwrap());
    }
}

async fn value(server: &TestServer) -> Value {
    let (code, _, text) = server.get(&format!("{SECRETS}/s"), &[]).await;
    assert_eq!(code, StatusCode::OK, "{text}");
    let secret: Value = serde_json::from_str(&text).unwrap();
    secret["data"]["password"].clone()
}

#[tokio::test]
async fn secrets_are_encrypted_and_keys_rotate() {
    // Written before there was encryption.
    let server = TestServer::start().await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
        "data": {"password": "c2VzYW1l"}});
    let headers = [("content-type", "application/json")];
    let (code, _, text) = server.send("POST", SECRETS, &headers, secret.to_string()).await;
    assert_eq!(code, StatusCode::CREATED, "{text}");
    assert!(server.stored(KEY).await.contains("c2VzYW1l"));

    // The start encrypts what is there.
    let server = server.restart_with(keys(&[("k1", 1)])).await.unwrap();
    let stored = server.stored(KEY).await;
    assert!(
        stored.starts_with("k8s:enc:aesgcm:v1:k1:") && !stored.contains("c2VzYW1l"),
        "{stored}"
    );
    assert_eq!(value(&server).await, "c2VzYW1l");
    let patch = [("content-type", "application/merge-patch+json")];
    let change = json!({"data": {"password": "b3Blbg=="}}).to_string();
    let (code, _, text) = server
        .send("PATCH", &format!("{SECRETS}/s"), &patch, change)
        .await;
    assert_eq!(code, StatusCode::OK, "{text}");
    assert_eq!(value(&server).await, "b3Blbg==");
    assert!(server.stored(KEY).await.starts_with("k8s:enc:aesgcm:v1:k1:"));

    // A new key, and then without the old one.
    let server = server.restart_with(keys(&[("k2", 2), ("k1", 1)])).await.unwrap();
    assert!(server.stored(KEY).await.starts_with("k8s:enc:aesgcm:v1:k2:"));
    let server = server.restart_with(keys(&[("k2", 2)])).await.unwrap();
    assert_eq!(value(&server).await, "b3Blbg==");

    // Without its key nothing starts.
    let Err(error) = server.restart_with(keys(&[("k1", 1)])).await else {
        panic!("it started");
    };
    let text = format!("{error}: {:?}", std::error::Error::source(&error));
    assert!(
        text.starts_with("encrypted data in the store cannot be read") && text.contains(KEY),
        "{text}"
    );
}
