//! `WWW-Authenticate` challenges and what answers them: basic credentials or a token from the named server.

use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde::Deserialize;
use url::Url;

use super::http::{HttpClient, error_detail, read_body, send};
use crate::images::config::Credentials;
use crate::images::error::ImageError;

const CLIENT_ID: &str = "keelson";

/// One challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: String,
        scope: String,
    },
}

/// All challenges that are understood, Bearer first.
pub(super) fn parse_challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            challenges.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer") {
            let parameters = parse_parameters(rest);
            let get = |name: &str| {
                parameters
                    .iter()
                    .find(|(k, _)| k == name)
                    .map(|(_, v)| v.clone())
                    .unwrap_or_default()
            };
            let realm = get("realm");
            if !realm.is_empty() {
                challenges.insert(
                    0,
                    Challenge::Bearer {
                        realm,
                        service: get("service"),
                        scope: get("scope"),
                    },
                );
            }
        }
    }
    challenges
}

/// `name="value", name=value`; quoted values may hold commas and escapes.
fn parse_parameters(text: &str) -> Vec<(String, String)> {
    let mut parameters = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
        let mut name = String::new();
        while let Some(c) = chars.next_if(|c| !matches!(c, '=' | ',')) {
            name.push(c);
        }
        if chars.next_if_eq(&'=').is_none() {
            return parameters;
        }
        let mut value = String::new();
        if chars.next_if_eq(&'"').is_some() {
            while let Some(c) = chars.next() {
                match c {
                    '"' => break,
                    '\\' => value.extend(chars.next()),
                    c => value.push(c),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',') {
                value.push(c);
            }
        }
        parameters.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
}

pub(super) fn basic(username: &str, password: &str) -> Result<HeaderValue, ImageError> {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    secret(&format!("Basic {encoded}"))
}

fn bearer(token: &str) -> Result<HeaderValue, ImageError> {
    secret(&format!("Bearer {token}"))
}

fn secret(text: &str) -> Result<HeaderValue, ImageError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        ImageError::InvalidConfig("credentials hold characters that HTTP cannot carry".into())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// What stands behind a request when a challenge comes.
pub(super) struct Authorizer<'a> {
    pub(super) client: &'a HttpClient,
    pub(super) credentials: &'a Credentials,
    /// The endpoint that challenges.
    pub(super) endpoint: &'a Url,
    /// `repository:<path>:pull`, used when the challenge names no scope.
    pub(super) scope: &'a str,
    pub(super) timeout: Duration,
}

impl Authorizer<'_> {
    /// The `Authorization` header that answers one of `challenges`.
    pub(super) async fn answer(&self, challenges: &[Challenge]) -> Result<HeaderValue, ImageError> {
        if let Credentials::RegistryToken(token) = self.credentials {
            return bearer(token);
        }
        let host = self.endpoint.authority();
        for challenge in challenges {
            match (challenge, self.credentials) {
                (
                    Challenge::Bearer {
                        realm,
                        service,
                        scope,
                    },
                    _,
                ) => {
                    return bearer(&self.fetch_token(realm, service, scope).await?);
                }
                (Challenge::Basic, Credentials::Basic { username, password }) => {
                    return basic(username, password);
                }
                (Challenge::Basic, _) => {}
            }
        }
        Err(ImageError::Unauthorized(match challenges {
            [] => format!("{host} refused the request and named no way to authenticate"),
            _ => format!("{host}: no basic auth credentials"),
        }))
    }

    async fn fetch_token(&self, realm: &str, service: &str, scope: &str) -> Result<String, ImageError> {
        let mut url = Url::parse(realm)
            .map_err(|e| ImageError::RegistryUnavailable(format!("token server {realm:?}: {e}")))?;
        if url.scheme() != "https" && !(url.scheme() == "http" && self.endpoint.scheme() == "http") {
            return Err(ImageError::Unauthorized(format!(
                "{} names the token server {realm}, which is not HTTPS",
                self.endpoint.authority()
            )));
        }
        let scope = if scope.is_empty() { self.scope } else { scope };
        let request = match self.credentials {
            Credentials::IdentityToken(token) => {
                let form = url::form_urlencoded::Serializer::new(String::new())
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("service", service)
                    .append_pair("client_id", CLIENT_ID)
                    .append_pair("scope", scope)
                    .append_pair("refresh_token", token)
                    .finish();
                Request::builder()
                    .method(Method::POST)
                    .uri(url.as_str())
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .header(ACCEPT, "application/json")
                    .body(Full::new(Bytes::from(form)))
            }
            credentials => {
                url.query_pairs_mut()
                    .append_pair("service", service)
                    .append_pair("scope", scope)
                    .append_pair("client_id", CLIENT_ID);
                let mut request = Request::builder()
                    .uri(url.as_str())
                    .header(ACCEPT, "application/json");
                if let Credentials::Basic { username, password } = credentials {
                    request = request.header(AUTHORIZATION, basic(username, password)?);
                }
                request.body(Full::new(Bytes::new()))
            }
        };
        let request =
            request.map_err(|e| ImageError::RegistryUnavailable(format!("token server {realm:?}: {e}")))?;
        let response = send(self.client, request, self.timeout).await?;
        let status = response.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            let detail = error_detail(response, self.timeout).await;
            return Err(ImageError::RegistryUnavailable(format!(
                "token server {realm}: {status}{detail}"
            )));
        }
        if !status.is_success() {
            let kind = match self.credentials {
                Credentials::Anonymous => "anonymous",
                _ => "oauth",
            };
            let detail = error_detail(response, self.timeout).await;
            return Err(ImageError::Unauthorized(format!(
                "failed to authorize: failed to fetch {kind} token: unexpected status from {realm}: \
                 {status}{detail}"
            )));
        }
        let body = read_body(response, 1024 * 1024, self.timeout).await?;
        #[derive(Deserialize)]
        struct Token {
            #[serde(default)]
            token: String,
            #[serde(default)]
            access_token: String,
        }
        let token: Token =
            serde_json::from_slice(&body).map_err(|e| ImageError::manifest("token answer", e))?;
        match (token.access_token, token.token) {
            (access, token) if access.is_empty() && token.is_empty() => Err(ImageError::Unauthorized(
                format!("token server {realm} sent no token"),
            )),
            (access, token) if access.is_empty() => Ok(token),
            (access, _) => Ok(access),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let parse = |texts: &[&str]| {
            let mut headers = HeaderMap::new();
            for text in texts {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(text).expect("header"));
            }
            parse_challenges(&headers)
        };
        let bearer = |realm: &str, service: &str, scope: &str| Challenge::Bearer {
            realm: realm.into(),
            service: service.into(),
            scope: scope.into(),
        };
        assert_eq!(
            parse(&[r#"Bearer realm="https://a/t",service="r.io",scope="repository:a/b:pull,push""#]),
            [bearer("https://a/t", "r.io", "repository:a/b:pull,push")]
        );
        assert_eq!(
            parse(&["Basic realm=x", r#"bearer Realm="https://a""#]),
            [bearer("https://a", "", ""), Challenge::Basic]
        );
        assert_eq!(parse(&["Bearer", "Digest x=y", r#"Bearer realm=""#]), []);
    }
}
