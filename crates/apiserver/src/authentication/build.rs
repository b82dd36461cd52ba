//! The union of all authenticators, in upstream's order.

use std::sync::Arc;

use async_trait::async_trait;
use rustls_pki_types::CertificateDer;

use super::certificate::{CertificateAuthenticator, RequestHeaderAuthenticator, user_of};
use super::external::External;
use super::structured::AnonymousAuth;
use super::token::BearerAuthenticator;
use super::{
    AuthenticationError, AuthenticationRequest, Authenticator, reviews as review_handlers, token_request,
};
use crate::authorization::{self, Authorizers};
use crate::config::ApiServerConfig;
use crate::endpoints::reviews::ReviewHandlers;
use crate::resources::Resources;
use crate::user::UserInfo;

/// Who asks, found out in all ways that are configured.
pub(crate) struct Authentication {
    /// For requests.
    pub(crate) authenticator: Arc<dyn Authenticator>,
    /// For tokens alone, as TokenReview has them.
    tokens: Arc<BearerAuthenticator>,
}

/// Builds the authenticators once at start. Keys and authorities that cannot be read authenticate nobody, and say so in
/// the log.
pub(crate) fn build(config: &ApiServerConfig, resources: &Resources, external: External) -> Authentication {
    let anonymous = external.anonymous.clone();
    let mut all: Vec<Box<dyn Authenticator>> = Vec::new();
    match RequestHeaderAuthenticator::new(config) {
        Ok(Some(authenticator)) => all.push(Box::new(authenticator)),
        Ok(None) => {}
        Err(error) => tracing::error!(%error, "the front proxy's authority cannot be used"),
    }
    match CertificateAuthenticator::new(&config.client_ca_pem) {
        Ok(authenticator) => all.push(Box::new(authenticator)),
        Err(error) => tracing::error!(%error, "the authority of client certificates cannot be used"),
    }
    let tokens = Arc::new(BearerAuthenticator::new(config, resources, external));
    all.push(Box::new(tokens.clone()));
    let union = Union {
        authenticators: all,
        anonymous,
    };
    Authentication {
        authenticator: Arc::new(union),
        tokens,
    }
}

/// Handlers of TokenReview, SelfSubjectReview, the access reviews and `serviceaccounts/token`.
pub(crate) fn reviews(
    config: &ApiServerConfig,
    resources: &Resources,
    authentication: &Authentication,
    authorizers: &Arc<Authorizers>,
) -> ReviewHandlers {
    let mut handlers = ReviewHandlers::default();
    authorization::handlers(&mut handlers, authorizers);
    review_handlers::handlers(&mut handlers, authentication.tokens.clone());
    match token_request::TokenRequestHandler::new(config, resources) {
        Ok(handler) => handlers.insert("", "serviceaccounts/token", Arc::new(handler)),
        Err(error) => tracing::error!(%error, "no tokens can be issued: the signing key cannot be used"),
    }
    handlers
}

/// Common name as user, organisations as groups; `None` without a common name. The certificate is not judged.
pub fn identity_of_certificate(leaf: &CertificateDer<'_>) -> Option<UserInfo> {
    user_of(&keelson_pki::Certificate::from_der(leaf).ok()?)
}

/// The first that knows the caller; errors count when nobody does, and who brings nothing is anonymous where that is allowed.
struct Union {
    authenticators: Vec<Box<dyn Authenticator>>,
    anonymous: AnonymousAuth,
}

#[async_trait]
impl Authenticator for Union {
    async fn authenticate(
        &self,
        request: &AuthenticationRequest<'_>,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        let mut errors = Vec::new();
        for authenticator in &self.authenticators {
            match authenticator.authenticate(request).await {
                Ok(Some(user)) => return Ok(Some(user)),
                Ok(None) => {}
                Err(AuthenticationError(error)) => errors.push(error),
            }
        }
        match errors.as_slice() {
            [] => Ok(self.anonymous.allows(request.path).then(UserInfo::anonymous)),
            [one] => Err(AuthenticationError(one.clone())),
            many => Err(AuthenticationError(format!("[{}]", many.join(", ")))),
        }
    }
}
