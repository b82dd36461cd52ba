//! The union of all authenticators, in upstream's order.

use std::sync::Arc;

use async_trait::async_trait;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{AuthenticationError, AuthenticationRequest, Authenticator};
use crate::authorization::Authorizer;
use crate::config::ApiServerConfig;
use crate::endpoints::reviews::ReviewHandlers;
use crate::resources::Resources;
use crate::user::{ALL_AUTHENTICATED, UserInfo};

/// Builds the authenticators once at start.
pub fn build(_config: &ApiServerConfig, _resources: &Resources) -> Arc<dyn Authenticator> {
    Arc::new(CertificateAuthenticator)
}

/// Handlers of TokenReview, SelfSubjectReview, the access reviews and `serviceaccounts/token`.
pub fn reviews(
    _config: &ApiServerConfig,
    _resources: &Resources,
    _authenticator: &Arc<dyn Authenticator>,
    _authorizer: &Arc<dyn Authorizer>,
) -> ReviewHandlers {
    ReviewHandlers::default()
}

/// Common name as user, organisations as groups; `None` without a common name.
pub fn identity_of_certificate(leaf: &CertificateDer<'_>) -> Option<UserInfo> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> = certificate
        .subject()
        .iter_organization()
        .filter_map(|o| o.as_str().ok().map(str::to_owned))
        .collect();
    groups.push(ALL_AUTHENTICATED.to_owned());
    Some(UserInfo { name, groups, ..UserInfo::default() })
}

struct CertificateAuthenticator;

#[async_trait]
impl Authenticator for CertificateAuthenticator {
    async fn authenticate(
        &self,
        request: &AuthenticationRequest<'_>,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        Ok(request.certificate_user.cloned())
    }
}
