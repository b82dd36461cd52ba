//! Who asks, and whether they may: client certificates and TokenReview, then SubjectAccessReview, with short memories.

use std::collections::HashMap;
use std::time::Duration;

use http::{Method, Request, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::kubelet::Kubelet;

/// How long answers are remembered; upstream's defaults.
const TOKEN_TTL: Duration = Duration::from_secs(120);
const ALLOWED_TTL: Duration = Duration::from_secs(300);
const DENIED_TTL: Duration = Duration::from_secs(30);
/// Entries beyond which the caches are emptied of what has expired.
const CACHE: usize = 1024;

/// Somebody who is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
}

impl User {
    /// Common name and organizations of a verified certificate.
    pub(super) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let subject = parsed.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject
            .iter_organization()
            .filter_map(|part| part.as_str().ok())
            .map(str::to_owned);
        Some(Self {
            name,
            groups: groups.chain(["system:authenticated".to_owned()]).collect(),
        })
    }
}

/// Why a request is refused.
#[derive(Debug)]
pub(super) enum Refusal {
    Unauthorized,
    Forbidden(String),
    Failed(String),
}

/// Until when an answer counts, and the answer.
type Decision = (Instant, bool);
type Identified = (Instant, Option<User>);

/// Remembers answers of the API server.
#[derive(Default)]
pub(crate) struct Authenticator {
    tokens: Mutex<HashMap<[u8; 32], Identified>>,
    decisions: Mutex<HashMap<(User, String, String), Decision>>,
}

/// The subresources of `nodes` that a request needs any one of, the narrowest first.
pub(super) fn subresources(path: &str) -> &'static [&'static str] {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "statusz" => &["statusz"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

impl Authenticator {
    /// Lets a request pass, or says why not.
    pub(super) async fn check<B>(
        &self,
        kubelet: &Kubelet,
        peer: Option<User>,
        request: &Request<B>,
    ) -> Result<User, Refusal> {
        let user = match peer {
            Some(user) => user,
            None => self
                .by_token(kubelet, request)
                .await?
                .ok_or(Refusal::Unauthorized)?,
        };
        let verb = verb(request.method());
        let wanted = subresources(request.uri().path());
        for subresource in wanted {
            if self.allowed(kubelet, &user, verb, subresource).await? {
                return Ok(user);
            }
        }
        let subresource = wanted.first().copied().unwrap_or("proxy");
        Err(Refusal::Forbidden(format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{subresource}])",
            user.name
        )))
    }

    async fn by_token<B>(&self, kubelet: &Kubelet, request: &Request<B>) -> Result<Option<User>, Refusal> {
        let value = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let Some(token) = value
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(str::trim)
        else {
            return Ok(None);
        };
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some((until, user)) = self.tokens.lock().get(&key)
            && *until > Instant::now()
        {
            return Ok(user.clone());
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: None,
            },
            ..TokenReview::default()
        };
        let answer = Api::<TokenReview>::all(kubelet.client.clone())
            .create(&PostParams::default(), &review)
            .await;
        let status = answer
            .map_err(|error| Refusal::Failed(error.to_string()))?
            .status
            .unwrap_or_default();
        let user = status
            .authenticated
            .unwrap_or_default()
            .then(|| status.user.unwrap_or_default())
            .map(|info| User {
                name: info.username.unwrap_or_default(),
                groups: info.groups.unwrap_or_default(),
            });
        let mut tokens = self.tokens.lock();
        let now = Instant::now();
        if tokens.len() >= CACHE {
            tokens.retain(|_, (until, _)| *until > now);
        }
        tokens.insert(key, (now + TOKEN_TTL, user.clone()));
        Ok(user)
    }

    async fn allowed(
        &self,
        kubelet: &Kubelet,
        user: &User,
        verb: &str,
        subresource: &str,
    ) -> Result<bool, Refusal> {
        let key = (user.clone(), verb.to_owned(), subresource.to_owned());
        if let Some((until, allowed)) = self.decisions.lock().get(&key)
            && *until > Instant::now()
        {
            return Ok(*allowed);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(kubelet.config.node_name.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api = Api::<SubjectAccessReview>::all(kubelet.client.clone());
        let answer = api.create(&PostParams::default(), &review).await;
        let allowed = answer
            .map_err(|error| Refusal::Failed(error.to_string()))?
            .status
            .is_some_and(|status| status.allowed);
        let mut decisions = self.decisions.lock();
        let now = Instant::now();
        if decisions.len() >= CACHE {
            decisions.retain(|_, (until, _)| *until > now);
        }
        decisions.insert(
            key,
            (now + if allowed { ALLOWED_TTL } else { DENIED_TTL }, allowed),
        );
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_need_their_subresource() {
        for (path, expected) in [
            ("/stats/summary", "stats"),
            ("/metrics/resource", "metrics"),
            ("/pods", "pods"),
            ("/exec/ns/p/c", "proxy"),
            ("/containerLogs/ns/p/c", "proxy"),
            ("/configz", "configz"),
        ] {
            assert_eq!(subresources(path)[0], expected, "{path}");
        }
    }
}
