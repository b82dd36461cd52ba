//! What authentication is configured with, beyond certificates and service accounts.

use std::path::PathBuf;
use std::time::Duration;

use super::structured::OidcFlags;

/// Tokens of other issuers, a webhook, and who may come without credentials.
#[derive(Clone, Debug, Default)]
pub struct AuthenticationConfig {
    /// Issuers whose tokens are good here.
    pub issuers: TokenIssuers,
    /// `--authentication-token-webhook-config-file` and what goes with it.
    pub webhook: Option<TokenWebhookConfig>,
    /// `--anonymous-auth`; `None` is the default, which a file of [`TokenIssuers`] may replace.
    pub anonymous: Option<bool>,
}

/// Where issuers are configured.
#[derive(Clone, Debug, Default)]
pub enum TokenIssuers {
    /// Nowhere: there are none.
    #[default]
    None,
    /// `--authentication-config`: an AuthenticationConfiguration, which is followed.
    File(PathBuf),
    /// The `--oidc-*` flags.
    Oidc(OidcFlags),
}

/// A webhook that knows tokens.
#[derive(Clone, Debug)]
pub struct TokenWebhookConfig {
    /// `--authentication-token-webhook-config-file`: a kubeconfig.
    pub config_file: PathBuf,
    /// `--authentication-token-webhook-cache-ttl`.
    pub cache_ttl: Duration,
    /// `--authentication-token-webhook-version`: `v1` or `v1beta1`.
    pub version: String,
}

/// Authentication cannot work as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationConfigError {
    /// The AuthenticationConfiguration or the `--oidc-*` flags.
    #[error("the authentication configuration is invalid: {0}")]
    Issuers(String),
    /// The token webhook.
    #[error("the authentication webhook cannot be used: {0}")]
    Webhook(String),
    /// Two places say who may come without credentials.
    #[error(
        "--anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration file"
    )]
    Anonymous,
}
