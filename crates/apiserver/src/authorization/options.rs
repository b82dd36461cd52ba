//! Which authorizers are asked, and in which order.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Who decides what may be done, after `system:masters`, who may do everything.
#[derive(Clone, Debug)]
pub enum AuthorizationConfig {
    /// `--authorization-mode` and what goes with it.
    Modes {
        /// Asked in this order.
        modes: Vec<AuthorizationMode>,
        /// For [`AuthorizationMode::Webhook`].
        webhook: Option<AuthorizationWebhookConfig>,
    },
    /// `--authorization-config`: an AuthorizationConfiguration, which is followed.
    File(PathBuf),
}

/// A kind of authorizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthorizationMode {
    /// What nodes may do with what their pods refer to.
    Node,
    /// Roles and bindings.
    Rbac,
    /// Somebody else is asked.
    Webhook,
    /// Everything is allowed.
    AlwaysAllow,
    /// Nothing is allowed.
    AlwaysDeny,
}

/// `--authorization-webhook-*`.
#[derive(Clone, Debug)]
pub struct AuthorizationWebhookConfig {
    /// `--authorization-webhook-config-file`: a kubeconfig.
    pub config_file: PathBuf,
    /// `--authorization-webhook-version`: `v1` or `v1beta1`.
    pub version: String,
    /// `--authorization-webhook-cache-authorized-ttl`.
    pub authorized_ttl: Duration,
    /// `--authorization-webhook-cache-unauthorized-ttl`.
    pub unauthorized_ttl: Duration,
}

/// Authorization cannot work as it is configured; the text is for people.
#[derive(Debug, thiserror::Error)]
#[error("the authorization configuration is invalid: {0}")]
pub struct AuthorizationConfigError(pub(super) String);

impl Default for AuthorizationConfig {
    fn default() -> Self {
        Self::Modes {
            modes: vec![AuthorizationMode::Node, AuthorizationMode::Rbac],
            webhook: None,
        }
    }
}

impl AuthorizationMode {
    /// All of them, in the order in which upstream lists them.
    pub(super) const ALL: [Self; 5] = [
        Self::AlwaysAllow,
        Self::AlwaysDeny,
        Self::Node,
        Self::Rbac,
        Self::Webhook,
    ];

    /// As flags and files name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Rbac => "RBAC",
            Self::Webhook => "Webhook",
            Self::AlwaysAllow => "AlwaysAllow",
            Self::AlwaysDeny => "AlwaysDeny",
        }
    }
}

impl FromStr for AuthorizationMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "ABAC" {
            return Err(
                "authorization mode ABAC is not supported: write its policy as roles and bindings".to_owned(),
            );
        }
        let found = Self::ALL.into_iter().find(|mode| mode.name() == text);
        found.ok_or_else(|| format!("authorization-mode {text:?} is not a valid mode"))
    }
}
