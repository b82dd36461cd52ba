//! Tokens of service accounts, bound to their pod and renewed before they expire.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ServiceAccount, ServiceAccountTokenProjection};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;

use super::manager::Context;
use crate::pod::spec;

/// Lifetime of a token that asks for none, in seconds.
const DEFAULT_LIFETIME: i64 = 3600;
/// A token is renewed at this age in any case.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// A token is not looked at more often.
const MIN_WAIT: Duration = Duration::from_secs(10);

/// No token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("failed to fetch token: {0}")]
    Request(#[source] Box<kube::Error>),
    #[error("failed to fetch token: the server sent none")]
    Empty,
}

/// What a token is for: service account, audience, lifetime.
pub(crate) type Key = (String, String, i64);

/// A token and its times.
#[derive(Clone)]
pub(crate) struct Token {
    text: String,
    issued: Timestamp,
    expires: Timestamp,
}

impl Token {
    /// How long the token is good: until 80 % of its life has passed.
    fn good_for(&self, now: Timestamp) -> Option<Duration> {
        let life = Duration::try_from(self.expires.duration_since(self.issued)).unwrap_or_default();
        let renew_at = (life * 8 / 10).min(MAX_AGE);
        let age = Duration::try_from(now.duration_since(self.issued)).unwrap_or_default();
        renew_at.checked_sub(age).filter(|left| !left.is_zero())
    }
}

/// The token of a projection, and after what time to ask again.
pub(super) async fn get(
    context: &Context<'_>,
    projection: &ServiceAccountTokenProjection,
) -> Result<(String, Duration), Error> {
    let account = spec::spec(context.pod)
        .service_account_name
        .clone()
        .unwrap_or_else(|| "default".into());
    let audience = projection.audience.clone().unwrap_or_default();
    let lifetime = projection.expiration_seconds.unwrap_or(DEFAULT_LIFETIME);
    let key: Key = (account.clone(), audience.clone(), lifetime);
    let volumes = &context.kubelet.volumes;
    let now = Timestamp::now();
    if let Some(token) = volumes.token(context.uid(), &key)
        && let Some(left) = token.good_for(now)
    {
        return Ok((token.text, left.max(MIN_WAIT)));
    }
    let api = Api::<ServiceAccount>::namespaced(context.kubelet.client.clone(), context.namespace());
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: if audience.is_empty() {
                None
            } else {
                Some(vec![audience])
            },
            expiration_seconds: Some(lifetime),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: context.pod.metadata.name.clone(),
                uid: context.pod.metadata.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let response = api
        .create_token_request(&account, &PostParams::default(), &request)
        .await;
    let status = response
        .map_err(|error| Error::Request(Box::new(error)))?
        .status
        .ok_or(Error::Empty)?;
    let text = status.token.filter(|text| !text.is_empty()).ok_or(Error::Empty)?;
    let expires = status.expiration_timestamp.ok_or(Error::Empty)?.0;
    let token = Token {
        text: text.clone(),
        issued: now,
        expires,
    };
    let left = token.good_for(now).unwrap_or(MIN_WAIT).max(MIN_WAIT);
    volumes.keep_token(context.uid(), key, token);
    Ok((text, left))
}
