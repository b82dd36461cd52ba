//! The union of all authenticators, in upstream's order.

use std::sync::Arc;

use async_trait::async_trait;
use rustls_pki_types::CertificateDer;

use super::certificate::{CertificateAuthenticator, RequestHeaderAuthenticator, user_of};
use super::token::BearerAuthenticator;
use super::{
    AuthenticationError, AuthenticationRequest, Authenticator, reviews as review_handlers, token_request,
};
use crate::authorization::{self, Authorizer, Rbac};
use crate::config::ApiServerConfig;
use crate::endpoints::reviews::ReviewHandlers;
use crate::resources::Resources;
use crate::user::UserInfo;

/// Builds the authenticators once at start. Keys and authorities that cannot be read authenticate nobody, and say so in
/// the log.
pub fn build(config: &ApiServerConfig, resources: &Resources) -> Arc<dyn Authenticator> {
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
    all.push(Box::new(BearerAuthenticator::new(config, resources)));
    Arc::new(Union { authenticators: all })
}

/// Handlers of TokenReview, SelfSubjectReview, the access reviews and `serviceaccounts/token`.
pub fn reviews(
    config: &ApiServerConfig,
    resources: &Resources,
    _authenticator: &Arc<dyn Authenticator>,
    authorizer: &Arc<dyn Authorizer>,
) -> ReviewHandlers {
    let mut handlers = ReviewHandlers::default();
    authorization::handlers(&mut handlers, authorizer, Rbac::new(resources));
    review_handlers::handlers(&mut handlers, BearerAuthenticator::new(config, resources));
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

/// The first that knows the caller; errors count when nobody does.
struct Union {
    authenticators: Vec<Box<dyn Authenticator>>,
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
            [] => Ok(None),
            [one] => Err(AuthenticationError(one.clone())),
            many => Err(AuthenticationError(format!("[{}]", many.join(", ")))),
        }
    }
}
