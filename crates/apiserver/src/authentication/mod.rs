//! Authentication: who makes the request.
//!
//! Asked in upstream's order: the front proxy's headers, the client's certificate, a bearer token (service account,
//! bootstrap token, another issuer's, the webhook's); who brings nothing is `system:anonymous` where that is allowed, and
//! RBAC decides what that may see. Wrong credentials are 401, never anonymous.

mod authenticator;
mod bootstrap_token;
mod build;
mod certificate;
mod external;
mod impersonation;
mod issuer;
mod jwt;
mod options;
mod reviews;
mod service_account;
mod structured;
mod token;
mod token_request;
mod webhook;

pub use authenticator::{AuthenticationError, AuthenticationRequest, Authenticator};
pub use build::identity_of_certificate;
pub(crate) use build::{build, reviews};
pub(crate) use external::External;
pub use impersonation::impersonate;
pub use issuer::{DiscoveryDocuments, discovery_documents};
pub use options::{AuthenticationConfig, AuthenticationConfigError, TokenIssuers, TokenWebhookConfig};
pub use structured::OidcFlags;
