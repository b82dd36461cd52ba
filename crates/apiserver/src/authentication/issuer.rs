//! What others need to verify our tokens: `/.well-known/openid-configuration` and `/openid/v1/jwks`.

use keelson_pki::{PrivateKey, PublicKey};
use serde_json::{Value, json};

use crate::config::{ApiServerConfig, ServiceAccountConfig};

/// The two documents, as bytes to serve.
#[derive(Clone, Debug)]
pub struct DiscoveryDocuments {
    /// `/.well-known/openid-configuration`, `application/json`.
    pub configuration: String,
    /// `/openid/v1/jwks`, `application/jwk-set+json`.
    pub keys: String,
}

/// The documents of this server; `None` when the issuer is no URL or there is no key.
pub fn discovery_documents(config: &ApiServerConfig) -> Option<DiscoveryDocuments> {
    let keys = verification_keys(&config.service_account).ok()?;
    let issuer = &config.service_account.issuer;
    if keys.is_empty() || !issuer.starts_with("https://") {
        return None;
    }
    let mut algorithms: Vec<&str> = keys.iter().map(|key| key.jws_algorithm().name()).collect();
    algorithms.sort_unstable();
    algorithms.dedup();
    let configuration = json!({
        "issuer": issuer,
        "jwks_uri": format!("https://{}/openid/v1/jwks", external_host(config)),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
    });
    let keys: Vec<Value> = keys.iter().map(PublicKey::to_jwk).collect();
    Some(DiscoveryDocuments {
        configuration: configuration.to_string(),
        keys: json!({ "keys": keys }).to_string(),
    })
}

fn external_host(config: &ApiServerConfig) -> String {
    let port = config.bind_address.port();
    std::net::SocketAddr::new(config.advertise_address, if port == 0 { 443 } else { port }).to_string()
}

/// All keys that tokens are verified with, the signing key's public half first.
pub(super) fn verification_keys(config: &ServiceAccountConfig) -> Result<Vec<PublicKey>, keelson_pki::Error> {
    let mut keys = Vec::new();
    if !config.signing_key_pem.is_empty() {
        keys.push(PrivateKey::from_pem(&String::from_utf8_lossy(&config.signing_key_pem))?.public());
    }
    for pem in &config.verification_keys_pem {
        for key in PublicKey::all_from_pem(&String::from_utf8_lossy(pem))? {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    Ok(keys)
}

/// Audiences that mean this server.
pub(super) fn api_audiences(config: &ServiceAccountConfig) -> Vec<String> {
    match config.api_audiences.as_slice() {
        [] if config.issuer.is_empty() => Vec::new(),
        [] => vec![config.issuer.clone()],
        audiences => audiences.to_vec(),
    }
}
