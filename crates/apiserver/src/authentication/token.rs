//! Bearer tokens: from the `Authorization` header or a WebSocket's subprotocol, asked of each kind of token in turn.

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use jiff::Timestamp;

use super::bootstrap_token::BootstrapTokens;
use super::external::External;
use super::issuer::{api_audiences, verification_keys};
use super::service_account::{Identified, ServiceAccountTokens};
use super::{AuthenticationError, AuthenticationRequest, Authenticator};
use crate::config::ApiServerConfig;
use crate::resources::Resources;
use crate::user::UserInfo;

const WEBSOCKET_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// All kinds of bearer tokens.
pub(super) struct BearerAuthenticator {
    service_accounts: ServiceAccountTokens,
    bootstrap: BootstrapTokens,
    external: External,
    api_audiences: Vec<String>,
}

impl BearerAuthenticator {
    pub(super) fn new(config: &ApiServerConfig, resources: &Resources, external: External) -> Self {
        let keys = verification_keys(&config.service_account).unwrap_or_else(|error| {
            tracing::error!(%error, "a key of service account tokens cannot be used; their tokens are refused");
            Vec::new()
        });
        let api_audiences = api_audiences(&config.service_account);
        let issuer = &config.service_account.issuer;
        Self {
            service_accounts: ServiceAccountTokens::new(issuer, keys, api_audiences.clone(), resources),
            bootstrap: BootstrapTokens::new(resources),
            external,
            api_audiences,
        }
    }

    /// Audiences of this server.
    pub(super) fn api_audiences(&self) -> &[String] {
        &self.api_audiences
    }

    /// Whose token it is, and for which of `audiences` (empty: the server's) it is good. Each kind of token is asked in
    /// upstream's order; the first that knows it answers.
    pub(super) async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<Identified>, String> {
        let now = Timestamp::now();
        let mut errors = Vec::new();
        match self.service_accounts.authenticate(token, audiences, now).await {
            Ok(None) => {}
            Ok(found) => return Ok(found),
            Err(error) => errors.push(error),
        }
        // What names no audience is good for this server.
        let own = audiences.is_empty() || audiences.iter().any(|a| self.api_audiences.contains(a));
        if own {
            let mut user = self.bootstrap.authenticate(token, now).await;
            if user.is_none()
                && let Some(structured) = &self.external.structured
            {
                match structured.authenticate(token).await {
                    Ok(found) => user = found,
                    Err(error) => errors.push(error),
                }
            }
            if let Some(user) = user {
                let known = audiences.iter().filter(|a| self.api_audiences.contains(a));
                return Ok(Some((user, known.cloned().collect())));
            }
        }
        if let Some(webhook) = &self.external.webhook {
            let wanted = if audiences.is_empty() {
                &self.api_audiences
            } else {
                audiences
            };
            match webhook.authenticate(token, wanted, &self.api_audiences).await {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => errors.push(error),
            }
        }
        match errors.as_slice() {
            [] => Ok(None),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

/// The token of a request; `Some("")` never.
fn token_of(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(http::header::AUTHORIZATION) {
        let value = value.to_str().ok()?.trim();
        let (scheme, token) = value.split_once(' ')?;
        let token = token.split(' ').next().unwrap_or_default();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    headers
        .get_all(http::header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|protocol| {
            let encoded = protocol.trim().strip_prefix(WEBSOCKET_PREFIX)?;
            let token = String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()?;
            (!token.is_empty()).then_some(token)
        })
}

#[async_trait]
impl Authenticator for BearerAuthenticator {
    async fn authenticate(
        &self,
        request: &AuthenticationRequest<'_>,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        let Some(token) = token_of(request.headers) else {
            return Ok(None);
        };
        match self.authenticate_token(&token, &[]).await {
            Ok(Some((user, _))) => Ok(Some(user)),
            Ok(None) => Err(AuthenticationError("invalid bearer token".to_owned())),
            Err(reason) => Err(AuthenticationError(format!("[invalid bearer token, {reason}]"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_tokens_stand() {
        let check = |header: &'static str, value: &str, want: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header, value.parse().unwrap());
            assert_eq!(token_of(&headers).as_deref(), want, "{header}: {value}");
        };
        check("authorization", "Bearer abc", Some("abc"));
        check("authorization", "bearer abc", Some("abc"));
        check("authorization", "Basic abc", None);
        check("authorization", "Bearer ", None);
        check("authorization", "Bearer", None);
        let socket = format!(
            "v5.channel.k8s.io, {WEBSOCKET_PREFIX}{}",
            URL_SAFE_NO_PAD.encode("t.o.k")
        );
        check("sec-websocket-protocol", &socket, Some("t.o.k"));
        check("sec-websocket-protocol", "v5.channel.k8s.io", None);
    }
}
