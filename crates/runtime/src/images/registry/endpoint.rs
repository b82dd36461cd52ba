//! One server that answers for a repository: requests with authorization and redirects.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use url::Url;

use super::auth::{Authorizer, parse_challenges};
use super::http::{HttpClient, error_detail, send};
use crate::images::config::Credentials;
use crate::images::error::ImageError;

const MAX_REDIRECTS: usize = 10;
const AGENT: &str = concat!("keelson/", env!("CARGO_PKG_VERSION"));

/// A registry or mirror, with the state of its authorization.
pub(super) struct Endpoint {
    /// `scheme://host[:port]/v2/<repository>/`.
    pub(super) base: Url,
    /// Plain HTTP on loopback, tried after HTTPS.
    pub(super) plain_fallback: bool,
    pub(super) client: HttpClient,
    pub(super) credentials: Credentials,
    pub(super) scope: String,
    pub(super) timeout: Duration,
    /// The header that worked last. Whoever meets a 401 fetches a new one while the others wait.
    pub(super) authorization: tokio::sync::Mutex<Option<HeaderValue>>,
}

impl Endpoint {
    /// Sends a request to `url`, answering challenges and following redirects. Any status below 400 is returned,
    /// others are errors.
    pub(super) async fn request(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, ImageError> {
        let mut fresh_tokens = 0;
        loop {
            let authorization = self.authorization.lock().await.clone();
            let response = self
                .follow(method, url, headers, body.clone(), authorization.as_ref())
                .await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return self.check(method, url, response).await;
            }
            if fresh_tokens == 2 {
                return Err(self.refused(response).await);
            }
            let challenges = parse_challenges(response.headers());
            let mut current = self.authorization.lock().await;
            if *current != authorization {
                // Another request has fetched a new token meanwhile.
                continue;
            }
            let authorizer = Authorizer {
                client: &self.client,
                credentials: &self.credentials,
                endpoint: &self.base,
                scope: &self.scope,
                timeout: self.timeout,
            };
            let answer = authorizer.answer(&challenges).await?;
            if *current == Some(answer.clone()) {
                // The same credentials again would be refused again.
                drop(current);
                return Err(self.refused(response).await);
            }
            *current = Some(answer);
            fresh_tokens += 1;
        }
    }

    async fn follow(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: Bytes,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, ImageError> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = method.clone();
            *request.uri_mut() = url
                .as_str()
                .parse()
                .map_err(|e| ImageError::RegistryUnavailable(format!("invalid address {url}: {e}")))?;
            *request.headers_mut() = headers.clone();
            request
                .headers_mut()
                .insert(USER_AGENT, HeaderValue::from_static(AGENT));
            if let Some(value) = authorization
                && url.origin() == self.base.origin()
            {
                request.headers_mut().insert(AUTHORIZATION, value.clone());
            }
            let response = send(&self.client, request, self.timeout).await?;
            let redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !redirect || (*method != Method::GET && *method != Method::HEAD) {
                return Ok(response);
            }
            let target = response
                .headers()
                .get(LOCATION)
                .and_then(|v| v.to_str().ok())
                .and_then(|location| url.join(location).ok())
                .ok_or_else(|| ImageError::RegistryUnavailable(format!("{url} redirects to nowhere")))?;
            if target.scheme() != "https" && !(target.scheme() == "http" && url.scheme() == "http") {
                return Err(ImageError::RegistryUnavailable(format!(
                    "{} redirects from HTTPS to {}",
                    url.authority(),
                    target.authority()
                )));
            }
            url = target;
        }
        Err(ImageError::RegistryUnavailable(format!(
            "{}: more than {MAX_REDIRECTS} redirects",
            url.authority()
        )))
    }

    async fn refused(&self, response: Response<Incoming>) -> ImageError {
        let status = response.status();
        let detail = error_detail(response, self.timeout).await;
        ImageError::Unauthorized(format!("{}: {status}{detail}", self.base.authority()))
    }

    async fn check(
        &self,
        method: &Method,
        url: &Url,
        response: Response<Incoming>,
    ) -> Result<Response<Incoming>, ImageError> {
        let status = response.status();
        let mut bare = url.clone();
        bare.set_query(None);
        if status.is_success() || status.is_redirection() {
            return Ok(response);
        }
        if status == StatusCode::FORBIDDEN {
            return Err(self.refused(response).await);
        }
        if status == StatusCode::NOT_FOUND {
            return Err(ImageError::NotFound(bare.to_string()));
        }
        let detail = error_detail(response, self.timeout).await;
        if status.is_server_error()
            || matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
            )
        {
            return Err(ImageError::RegistryUnavailable(format!(
                "{bare}: {status}{detail}"
            )));
        }
        Err(ImageError::UnexpectedStatus {
            method: method.to_string(),
            url: bare.to_string(),
            status: status.to_string(),
            detail,
        })
    }
}
