//! Join tokens: a bootstrap token (`id.secret`, a Secret in `kube-system`) together with the hash of the cluster's
//! authority, so that a joining machine knows that it speaks to the right server before it says anything.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Api, Client};
use rand::Rng;
use serde::Serialize;

const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const NAMESPACE: &str = "kube-system";
const GROUPS: &str = "system:bootstrappers:kubeadm:default-node-token";
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// `id.secret@sha256:hash`.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Six characters; public.
    pub id: String,
    /// Sixteen characters.
    pub secret: String,
    /// `sha256:` and the hexadecimal hash of the authority's public key, as `kubeadm` computes it.
    pub ca_hash: String,
}

/// The token has not the form `id.secret@sha256:hash`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the token must have the form ID.SECRET@sha256:HASH, as `keelson token create` prints it")]
pub struct MalformedToken;

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{}", self.id, self.secret, self.ca_hash)
    }
}

/// The secret stays out of logs.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}.…@{})", self.id, self.ca_hash)
    }
}

impl FromStr for JoinToken {
    type Err = MalformedToken;

    fn from_str(text: &str) -> Result<Self, MalformedToken> {
        let (token, ca_hash) = text.trim().split_once('@').ok_or(MalformedToken)?;
        let (id, secret) = token.split_once('.').ok_or(MalformedToken)?;
        let valid = |part: &str, length| part.len() == length && part.bytes().all(|b| ALPHABET.contains(&b));
        let hash = ca_hash.strip_prefix("sha256:").ok_or(MalformedToken)?;
        if !valid(id, 6)
            || !valid(secret, 16)
            || hash.len() != 64
            || !hash.bytes().all(|b| b.is_ascii_hexdigit())
        {
            return Err(MalformedToken);
        }
        Ok(Self {
            id: id.into(),
            secret: secret.into(),
            ca_hash: ca_hash.to_ascii_lowercase(),
        })
    }
}

impl JoinToken {
    /// What is sent to the server: `id.secret`.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    fn generate(ca_hash: &str) -> Self {
        Self {
            id: random(6),
            secret: random(16),
            ca_hash: ca_hash.into(),
        }
    }
}

fn random(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length)
        .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))
        .collect()
}

/// What `keelson token list` shows; never the secret.
#[derive(Clone, Debug, Serialize)]
pub struct TokenInfo {
    /// The public part.
    pub id: String,
    /// When it ends; `None` for never.
    pub expires: Option<String>,
    /// What it is for.
    pub description: String,
}

/// Makes a token that is good for `ttl` (`None`: for ever) and stores it in the cluster.
pub async fn create(
    client: &Client,
    ca_hash: &str,
    ttl: Option<SignedDuration>,
    description: &str,
) -> Result<JoinToken, kube::Error> {
    let token = JoinToken::generate(ca_hash);
    let mut data = BTreeMap::from([
        ("token-id".to_owned(), token.id.clone()),
        ("token-secret".to_owned(), token.secret.clone()),
        ("usage-bootstrap-authentication".to_owned(), "true".to_owned()),
        ("usage-bootstrap-signing".to_owned(), "true".to_owned()),
        ("auth-extra-groups".to_owned(), GROUPS.to_owned()),
        ("description".to_owned(), description.to_owned()),
    ]);
    if let Some(ttl) = ttl {
        let expiration = (Timestamp::now() + ttl)
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string();
        data.insert("expiration".to_owned(), expiration);
    }
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(format!("bootstrap-token-{}", token.id)),
            namespace: Some(NAMESPACE.into()),
            ..ObjectMeta::default()
        },
        type_: Some(SECRET_TYPE.into()),
        string_data: Some(data),
        ..Secret::default()
    };
    api(client).create(&PostParams::default(), &secret).await?;
    Ok(token)
}

/// The tokens in the cluster.
pub async fn list(client: &Client) -> Result<Vec<TokenInfo>, kube::Error> {
    let params = ListParams::default().fields(&format!("type={SECRET_TYPE}"));
    let secrets = api(client).list(&params).await?;
    let info = |secret: Secret| {
        let data = secret.data.unwrap_or_default();
        let text = |key: &str| {
            data.get(key)
                .map(|ByteString(b)| String::from_utf8_lossy(b).into_owned())
        };
        TokenInfo {
            id: text("token-id").unwrap_or_default(),
            expires: text("expiration"),
            description: text("description").unwrap_or_default(),
        }
    };
    Ok(secrets.into_iter().map(info).collect())
}

/// Deletes the token of this id.
pub async fn delete(client: &Client, id: &str) -> Result<(), kube::Error> {
    api(client)
        .delete(&format!("bootstrap-token-{id}"), &DeleteParams::default())
        .await
        .map(|_| ())
}

fn api(client: &Client) -> Api<Secret> {
    Api::namespaced(client.clone(), NAMESPACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_hide_their_secret() {
        let token = JoinToken::generate(&format!("sha256:{}", "ab".repeat(32)));
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(&token.secret));
    }

    #[test]
    fn malformed_tokens_are_refused() {
        let hash = "ab".repeat(32);
        for text in [
            String::new(),
            "abcdef.0123456789abcdef".into(),
            format!("abcdef.0123456789abcde@sha256:{hash}"),
            format!("ABCDEF.0123456789abcdef@sha256:{hash}"),
            format!("abcdef.0123456789abcdef@sha512:{hash}"),
            "abcdef.0123456789abcdef@sha256:12".into(),
        ] {
            assert_eq!(text.parse::<JoinToken>(), Err(MalformedToken), "{text}");
        }
    }
}
