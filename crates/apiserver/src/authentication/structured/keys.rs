//! The keys of an issuer: found by its discovery document, fetched over HTTPS, and fetched again when a token is signed by
//! one that is not known.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value;

use crate::authentication::jwt::Signed;
use crate::outbound::Fetcher;

/// At most so many documents are fetched from one issuer in [`WINDOW`]: who sends tokens with invented key ids must not be
/// able to make this server flood the issuer.
const FETCHES: usize = 10;
const WINDOW: Duration = Duration::from_secs(60);

/// One key of a JSON web key set.
struct Key {
    id: String,
    material: Material,
}

enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Jwk {
    kty: String,
    kid: String,
    #[serde(rename = "use")]
    purpose: String,
    crv: String,
    n: String,
    e: String,
    x: String,
    y: String,
}

impl Key {
    /// `None`: not a key that signatures can be verified with here.
    fn of(jwk: Jwk) -> Option<Self> {
        if !matches!(jwk.purpose.as_str(), "" | "sig") {
            return None;
        }
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
        let number = |text: &str| -> Option<Vec<u8>> {
            let bytes = decode(text)?;
            let number: Vec<u8> = bytes.into_iter().skip_while(|b| *b == 0).collect();
            (!number.is_empty()).then_some(number)
        };
        let point = |size: usize| -> Option<Vec<u8>> {
            let (x, y) = (decode(&jwk.x)?, decode(&jwk.y)?);
            (x.len() == size && y.len() == size).then(|| [&[4u8][..], &x, &y].concat())
        };
        let material = match (jwk.kty.as_str(), jwk.crv.as_str()) {
            ("RSA", _) => Material::Rsa {
                n: number(&jwk.n)?,
                e: number(&jwk.e)?,
            },
            ("EC", "P-256") => Material::P256(point(32)?),
            ("EC", "P-384") => Material::P384(point(48)?),
            _ => return None,
        };
        Some(Self {
            id: jwk.kid,
            material,
        })
    }

    fn verifies(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Rsa { n, e } => {
                let parameters = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                let key = RsaPublicKeyComponents { n, e };
                key.verify(parameters, message, signature).is_ok()
            }
            Material::P256(point) if algorithm == "ES256" => {
                let key = UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point);
                key.verify(message, signature).is_ok()
            }
            Material::P384(point) if algorithm == "ES384" => {
                let key = UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point);
                key.verify(message, signature).is_ok()
            }
            Material::P256(_) | Material::P384(_) => false,
        }
    }
}

/// What was fetched.
struct Known {
    keys_url: String,
    keys: Vec<Key>,
}

impl Known {
    /// Whether one of the keys signed the token: the one that it names, any when it names none.
    fn verifies(&self, token: &Signed<'_>) -> bool {
        let fitting = self
            .keys
            .iter()
            .filter(|key| token.key_id.is_empty() || key.id == token.key_id);
        fitting
            .into_iter()
            .any(|key| key.verifies(&token.algorithm, token.message.as_bytes(), &token.signature))
    }
}

/// The keys of one issuer.
pub(super) struct IssuerKeys {
    issuer: String,
    discovery_url: String,
    fetcher: Fetcher,
    known: ArcSwapOption<Known>,
    /// Whoever fetches holds this; with the times of fetches in the last [`WINDOW`].
    fetching: tokio::sync::Mutex<VecDeque<Instant>>,
}

impl IssuerKeys {
    /// Of an issuer whose discovery document is at `discovery_url`; at its usual place when that is empty.
    pub(super) fn new(issuer: &str, discovery_url: &str, fetcher: Fetcher) -> Self {
        let discovery_url = match discovery_url {
            "" => format!(
                "{}/.well-known/openid-configuration",
                issuer.trim_end_matches('/')
            ),
            url => url.to_owned(),
        };
        Self {
            issuer: issuer.to_owned(),
            discovery_url,
            fetcher,
            known: ArcSwapOption::empty(),
            fetching: tokio::sync::Mutex::default(),
        }
    }

    /// Checks a token's signature.
    ///
    /// # Errors
    /// It is by no key of the issuer, or the issuer's keys cannot be fetched.
    pub(super) async fn verify(&self, token: &Signed<'_>) -> Result<(), String> {
        let before = self.known.load_full();
        if before.as_ref().is_some_and(|known| known.verifies(token)) {
            return Ok(());
        }
        let known = self.fetch(before).await?;
        if known.verifies(token) {
            Ok(())
        } else {
            Err("failed to verify signature: failed to verify id token signature".to_owned())
        }
    }

    /// The keys after `before`. One of many that need them fetches them.
    async fn fetch(&self, before: Option<Arc<Known>>) -> Result<Arc<Known>, String> {
        let mut recent = self.fetching.lock().await;
        let now = self.known.load_full();
        if let Some(now) = now.filter(|now| before.as_ref().is_none_or(|before| !Arc::ptr_eq(now, before))) {
            return Ok(now);
        }
        recent.retain(|at| at.elapsed() < WINDOW);
        if recent.len() >= FETCHES {
            return Err(format!(
                "the keys of {} were fetched too often lately",
                self.issuer
            ));
        }
        recent.push_back(Instant::now());
        let keys_url = match &before {
            Some(known) => known.keys_url.clone(),
            None => self.discover().await?,
        };
        let keys = self.keys_at(&keys_url).await?;
        let known = Arc::new(Known { keys_url, keys });
        self.known.store(Some(known.clone()));
        Ok(known)
    }

    /// The keys' URL, from the discovery document.
    async fn discover(&self) -> Result<String, String> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            jwks_uri: String,
        }
        let failed = |why: String| format!("authenticator not initialized: {why}");
        let bytes = self
            .fetcher
            .get(&self.discovery_url, None)
            .await
            .map_err(failed)?;
        let document: Document = serde_json::from_slice(&bytes)
            .map_err(|e| failed(format!("failed to decode provider discovery object: {e}")))?;
        if document.issuer != self.issuer {
            return Err(failed(format!(
                "issuer did not match the issuer returned by provider, expected {:?} got {:?}",
                self.issuer, document.issuer
            )));
        }
        Ok(document.jwks_uri)
    }

    async fn keys_at(&self, url: &str) -> Result<Vec<Key>, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let failed = |why: String| format!("fetching keys {why}");
        let bytes = self.fetcher.get(url, None).await.map_err(failed)?;
        let set: Set = serde_json::from_slice(&bytes).map_err(|e| failed(format!("{url:?}: {e}")))?;
        // Keys of kinds that are not known here stand beside the others; they are no error.
        let keys: Vec<Key> = set
            .keys
            .into_iter()
            .filter_map(|jwk| Key::of(serde_json::from_value(jwk).ok()?))
            .collect();
        tracing::debug!(
            issuer = self.issuer,
            keys = keys.len(),
            "fetched the keys of an issuer"
        );
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A modulus, then tokens that its key signed with each of the six algorithms.
    const RSA: &str = include_str!("testdata/rsa.txt");

    fn key(jwk: Value) -> Option<Key> {
        Key::of(serde_json::from_value(jwk).unwrap())
    }

    fn known(keys: impl IntoIterator<Item = Key>) -> Known {
        Known {
            keys_url: String::new(),
            keys: keys.into_iter().collect(),
        }
    }

    #[test]
    fn signatures_of_rsa_keys() {
        let mut lines = RSA.lines();
        let jwk = json!({"kty": "RSA", "kid": "k", "use": "sig", "n": lines.next().unwrap(), "e": "AQAB"});
        let keys = known(key(jwk.clone()));
        let mut other = jwk;
        other["kid"] = json!("another");
        let others = known(key(other));
        let mut seen = Vec::new();
        for token in lines {
            let mut signed = Signed::of(token).unwrap();
            assert!(keys.verifies(&signed), "{}", signed.algorithm);
            assert!(
                !others.verifies(&signed),
                "the key that the token names, no other"
            );
            let name = std::mem::replace(&mut signed.algorithm, "ES256".to_owned());
            assert!(!keys.verifies(&signed));
            signed.algorithm = name;
            signed.signature[7] ^= 1;
            assert!(!keys.verifies(&signed));
            seen.push(signed.algorithm);
        }
        assert_eq!(seen.join(" "), "RS256 RS384 RS512 PS256 PS384 PS512");
    }

    #[test]
    fn keys_of_a_set() {
        let usable = |jwk: Value| key(jwk).is_some();
        assert!(
            !usable(json!({"kty": "oct", "k": "AAAA"})),
            "a shared secret is no key of an issuer"
        );
        assert!(!usable(
            json!({"kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB"})
        ));
        assert!(usable(json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"})));
        assert!(!usable(json!({"kty": "RSA", "n": "", "e": "AQAB"})));
        assert!(!usable(
            json!({"kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB"})
        ));
        assert!(!usable(json!({"kty": "EC", "crv": "P-521"})));
        let pair = keelson_pki::PrivateKey::generate().unwrap();
        let token = pair.sign_jwt(&json!({})).unwrap();
        assert!(known(key(pair.public().to_jwk())).verifies(&Signed::of(&token).unwrap()));
    }
}
