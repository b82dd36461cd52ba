//! Authentication: who makes the request.
//!
//! Asked in upstream's order: the front proxy's headers, the client's certificate, a bearer token (service account,
//! bootstrap token); who brings nothing is `system:anonymous`, and RBAC decides what that may see. Wrong credentials are
//! 401, never anonymous.

mod authenticator;
mod bootstrap_token;
mod build;
mod certificate;
mod impersonation;
mod issuer;
mod jwt;
mod reviews;
mod service_account;
mod token;
mod token_request;

pub use authenticator::{AuthenticationError, AuthenticationRequest, Authenticator};
pub use build::{build, identity_of_certificate, reviews};
pub use impersonation::impersonate;
pub use issuer::{DiscoveryDocuments, discovery_documents};
