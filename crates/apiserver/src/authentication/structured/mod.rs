//! Tokens of other issuers: `apiserver.config.k8s.io` AuthenticationConfiguration, and the `--oidc-*` flags, which are a
//! short form of it.
//!
//! [`configuration`] is the file, [`validate`] judges and compiles it, [`keys`] fetches issuers' keys, [`issuer`] turns a
//! token into a user, [`reload`] exchanges the issuers when the file changes. An issuer's discovery document and keys are
//! fetched when the first of its tokens comes, and keys again when a token names one that is not known, at most ten times
//! in a minute; upstream fetches the former before. Left out: ES512, for which the cryptographic provider has no
//! verification, `egressSelectorType`, which is refused, and redirects.

mod configuration;
mod distributed;
mod expressions;
mod flags;
mod issuer;
mod keys;
mod reload;
mod validate;

pub(super) use configuration::AnonymousAuth;
pub use flags::OidcFlags;
pub(super) use reload::Structured;
