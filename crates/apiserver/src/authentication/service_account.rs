//! Service account tokens: bound ones (issued by TokenRequest) and those of Secrets of type
//! `kubernetes.io/service-account-token`.
//!
//! A verified signature is remembered; what the token is bound to is looked up in the caches at each use, so a token dies
//! with its account, pod, secret or node and not some seconds later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dashmap::DashMap;
use jiff::Timestamp;
use keelson_pki::PublicKey;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::bootstrap_token::constant_time_equal;
use super::jwt;
use crate::resources::{Reader, Resources};
use crate::user::{ALL_AUTHENTICATED, UserInfo};
use crate::watch_cache::CachedObject;

/// Issuer of the tokens in Secrets.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// An object being deleted keeps its tokens alive this long after its deletion timestamp (seconds).
const DELETION_LEEWAY: i64 = 60;
/// So many verified tokens are remembered; then all are forgotten.
const REMEMBERED: usize = 8192;

/// `name` and `uid` of something a token is bound to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Reference {
    pub(super) name: String,
    pub(super) uid: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Bound {
    namespace: String,
    serviceaccount: Reference,
    pod: Option<Reference>,
    secret: Option<Reference>,
    node: Option<Reference>,
}

#[derive(Debug)]
struct Claims {
    audiences: Vec<String>,
    not_before: i64,
    expires: i64,
    id: String,
    bound: Bound,
    /// Of a token from a Secret.
    legacy: bool,
    /// Revisions of the account and of the pod, secret or node at which they were found to be the right ones: while they stay
    /// as they are, they need not be read again.
    seen: [AtomicU64; 4],
}

/// An identity, with the audiences of the token that the caller accepts.
pub(super) type Identified = (UserInfo, Vec<String>);

/// Verifies tokens of service accounts.
pub(super) struct ServiceAccountTokens {
    issuer: String,
    keys: Vec<PublicKey>,
    api_audiences: Vec<String>,
    known: DashMap<[u8; 32], Arc<Claims>>,
    accounts: Reader,
    pods: Reader,
    secrets: Reader,
    nodes: Reader,
}

/// What is read of an object that a token is bound to.
#[derive(Deserialize)]
struct Identity {
    metadata: IdentityMetadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct IdentityMetadata {
    uid: String,
    deletion_timestamp: Option<Timestamp>,
}

impl ServiceAccountTokens {
    pub(super) fn new(
        issuer: &str,
        keys: Vec<PublicKey>,
        api_audiences: Vec<String>,
        resources: &Resources,
    ) -> Self {
        Self {
            issuer: issuer.to_owned(),
            keys,
            api_audiences,
            known: DashMap::new(),
            accounts: resources.resource("", "serviceaccounts"),
            pods: resources.resource("", "pods"),
            secrets: resources.resource("", "secrets"),
            nodes: resources.resource("", "nodes"),
        }
    }

    /// `Ok(None)`: not a token of ours. `audiences` empty: the server's own.
    pub(super) async fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<Option<Identified>, String> {
        let key: [u8; 32] = Sha256::digest(token).into();
        let known = self.known.get(&key).map(|claims| claims.clone());
        let claims = match known {
            Some(claims) => claims,
            None => {
                let Some(claims) = self.read(token)? else {
                    return Ok(None);
                };
                if self.known.len() >= REMEMBERED {
                    self.known.clear();
                }
                let claims = Arc::new(claims);
                self.known.insert(key, claims.clone());
                claims
            }
        };
        self.judge(&claims, token, audiences, now).await.map(Some)
    }

    fn read(&self, token: &str) -> Result<Option<Claims>, String> {
        let Ok(unverified) = jwt::claims_unverified(token) else {
            return Ok(None);
        };
        let issuer = unverified.get("iss").and_then(Value::as_str).unwrap_or_default();
        let legacy = issuer == LEGACY_ISSUER;
        if !legacy && (issuer != self.issuer || issuer.is_empty()) {
            return Ok(None);
        }
        let claims = jwt::verify(token, &self.keys).map_err(|e| e.to_string())?;
        let seconds = |field: &str| claims.get(field).and_then(Value::as_f64).map(|s| s as i64);
        let text = |field: &str| {
            claims
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        if legacy {
            let own = |field: &str| text(&format!("kubernetes.io/serviceaccount/{field}"));
            let bound = Bound {
                namespace: own("namespace"),
                serviceaccount: Reference {
                    name: own("service-account.name"),
                    uid: own("service-account.uid"),
                },
                secret: Some(Reference {
                    name: own("secret.name"),
                    uid: String::new(),
                }),
                ..Bound::default()
            };
            return Ok(Some(Claims {
                audiences: self.api_audiences.clone(),
                not_before: 0,
                expires: i64::MAX,
                id: String::new(),
                bound,
                legacy,
                seen: Default::default(),
            }));
        }
        let audiences = match claims.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(many)) => many
                .iter()
                .filter_map(|a| a.as_str().map(str::to_owned))
                .collect(),
            _ => Vec::new(),
        };
        let bound: Bound = claims
            .get("kubernetes.io")
            .and_then(|bound| serde_json::from_value(bound.clone()).ok())
            .ok_or("unable to read the kubernetes.io claims of the token")?;
        Ok(Some(Claims {
            audiences,
            not_before: seconds("nbf").unwrap_or(0),
            // A bound token without an end is none that we issued.
            expires: seconds("exp").ok_or("the token has no expiration")?,
            id: text("jti"),
            bound,
            legacy,
            seen: Default::default(),
        }))
    }

    async fn judge(
        &self,
        claims: &Claims,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<Identified, String> {
        let wanted = if audiences.is_empty() {
            &self.api_audiences[..]
        } else {
            audiences
        };
        let accepted: Vec<String> = wanted
            .iter()
            .filter(|a| claims.audiences.contains(a))
            .cloned()
            .collect();
        if accepted.is_empty() && !wanted.is_empty() {
            return Err(format!(
                "token audiences {:?} is invalid for the target audiences {wanted:?}",
                claims.audiences
            ));
        }
        if now.as_second() >= claims.expires {
            return Err("service account token has expired".to_owned());
        }
        if now.as_second() < claims.not_before {
            return Err("service account token is not valid yet".to_owned());
        }
        let Bound {
            namespace,
            serviceaccount,
            pod,
            secret,
            node,
        } = &claims.bound;
        let (namespace, name) = (namespace.as_str(), serviceaccount.name.as_str());
        let deleted = || format!("service account {namespace}/{name} has been deleted");
        let [of_account, of_pod, of_secret, of_node] = &claims.seen;
        let (_, other) = alive(
            &self.accounts,
            namespace,
            serviceaccount,
            of_account,
            deleted,
            now,
        )
        .await?;
        if let Some(uid) = other {
            return Err(format!(
                "service account UID ({uid}) does not match claim ({})",
                serviceaccount.uid
            ));
        }
        let invalidated = || "service account token has been invalidated".to_owned();
        if let Some(secret) = secret {
            let (object, other) =
                alive(&self.secrets, namespace, secret, of_secret, invalidated, now).await?;
            if claims.legacy {
                check_secret(&object.parse(), token)?;
            } else {
                same(other, secret, "secret")?;
            }
        }
        let mut extra = BTreeMap::new();
        let mut say = |key: &str, value: &str| {
            extra.insert(
                format!("authentication.kubernetes.io/{key}"),
                vec![value.to_owned()],
            );
        };
        if let Some(pod) = pod {
            let (_, other) = alive(&self.pods, namespace, pod, of_pod, invalidated, now).await?;
            same(other, pod, "pod")?;
            say("pod-name", &pod.name);
            say("pod-uid", &pod.uid);
        }
        if let Some(node) = node {
            // Bound to the node alone, it dies with the node; with a pod it only names the node.
            if pod.is_none() {
                let (_, other) = alive(&self.nodes, "", node, of_node, invalidated, now).await?;
                same(other, node, "node")?;
            }
            say("node-name", &node.name);
            say("node-uid", &node.uid);
        }
        if !claims.id.is_empty() {
            say("credential-id", &format!("JTI={}", claims.id));
        }
        let user = UserInfo {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            uid: serviceaccount.uid.clone(),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                ALL_AUTHENTICATED.to_owned(),
            ],
            extra,
        };
        Ok((user, accepted))
    }
}

fn identity(object: &CachedObject) -> Identity {
    serde_json::from_slice(object.stored()).unwrap_or(Identity {
        metadata: IdentityMetadata {
            uid: String::new(),
            deletion_timestamp: None,
        },
    })
}

/// The object, unless it is gone or has been on its way out for longer than the leeway, and its UID where that is another than
/// the reference's. At the revision `seen` nothing is read.
async fn alive(
    reader: &Reader,
    namespace: &str,
    reference: &Reference,
    seen: &AtomicU64,
    gone: impl Fn() -> String,
    now: Timestamp,
) -> Result<(Arc<CachedObject>, Option<String>), String> {
    let object = match reader.get(namespace, &reference.name) {
        Some(object) => object,
        // It may have been created a moment ago.
        None => match reader.get_latest(namespace, &reference.name).await {
            Ok(Some(object)) => object,
            Ok(None) => return Err(gone()),
            Err(error) => return Err(error.to_string()),
        },
    };
    if object.revision() == seen.load(Ordering::Relaxed) {
        return Ok((object, None));
    }
    let IdentityMetadata {
        uid,
        deletion_timestamp,
    } = identity(&object).metadata;
    let same = uid == reference.uid;
    match deletion_timestamp {
        Some(at) if at.as_second() + DELETION_LEEWAY < now.as_second() => return Err(gone()),
        None if same => seen.store(object.revision(), Ordering::Relaxed),
        _ => {}
    }
    Ok((object, (!same).then_some(uid)))
}

fn same(other: Option<String>, reference: &Reference, kind: &str) -> Result<(), String> {
    let Some(uid) = other else { return Ok(()) };
    Err(format!(
        "{kind} UID ({uid}) does not match service account {kind} ref claim ({})",
        reference.uid
    ))
}

fn check_secret(secret: &Value, token: &str) -> Result<(), String> {
    let stored = secret
        .pointer("/data/token")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let stored = STANDARD.decode(stored).unwrap_or_default();
    let equal = constant_time_equal(&stored, token.as_bytes());
    if !equal
        || secret
            .pointer("/metadata/labels/kubernetes.io~1legacy-token-invalid-since")
            .is_some()
    {
        return Err("service account token has been invalidated".to_owned());
    }
    Ok(())
}
