//! Authentication: who makes the request.

mod authenticator;
mod build;

pub use authenticator::{AuthenticationError, AuthenticationRequest, Authenticator};
pub use build::{build, identity_of_certificate, reviews};
