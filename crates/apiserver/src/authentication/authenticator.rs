//! What an authenticator is.

use std::sync::Arc;

use async_trait::async_trait;
use http::HeaderMap;
use rustls_pki_types::CertificateDer;

use crate::user::UserInfo;

/// What authenticators look at.
pub struct AuthenticationRequest<'a> {
    /// The request's path.
    pub path: &'a str,
    /// The request's headers (`Authorization`, `Sec-WebSocket-Protocol`, ...).
    pub headers: &'a HeaderMap,
    /// The client's certificates, leaf first, verified against the client CA by TLS; `None` when it sent none.
    pub peer_certificates: Option<&'a [CertificateDer<'static>]>,
    /// The leaf's identity, worked out once per connection by [`super::identity_of_certificate`].
    pub certificate_user: Option<&'a UserInfo>,
}

/// Credentials were given and are wrong; the request is answered with 401.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AuthenticationError(pub String);

/// A way to tell who makes a request.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// `Ok(None)`: no credentials that this authenticator knows. `system:authenticated` is in the groups of the answer, unless it
    /// is `system:anonymous`.
    async fn authenticate(
        &self,
        request: &AuthenticationRequest<'_>,
    ) -> Result<Option<UserInfo>, AuthenticationError>;
}

#[async_trait]
impl<A: Authenticator> Authenticator for Arc<A> {
    async fn authenticate(
        &self,
        request: &AuthenticationRequest<'_>,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        self.as_ref().authenticate(request).await
    }
}
