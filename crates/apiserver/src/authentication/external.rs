//! Ways of authentication that depend on others: read and judged before the server starts.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::structured::{AnonymousAuth, Structured};
use super::webhook::TokenWebhook;
use super::{AuthenticationConfigError, TokenIssuers};
use crate::admission::Connections;
use crate::config::ApiServerConfig;
use crate::reload::Watched;

/// What is configured beyond certificates and service accounts.
#[derive(Clone)]
pub(crate) struct External {
    pub(super) structured: Option<Arc<Structured>>,
    pub(super) webhook: Option<Arc<TokenWebhook>>,
    pub(super) anonymous: AnonymousAuth,
}

/// A file that is to be followed while the server runs.
pub(crate) struct Followed {
    structured: Arc<Structured>,
    file: Watched,
}

impl External {
    /// Reads the files that are configured.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn open(
        config: &ApiServerConfig,
        connections: &Connections,
    ) -> Result<(Self, Option<Followed>), AuthenticationConfigError> {
        let options = &config.authentication;
        let own = std::slice::from_ref(&config.service_account.issuer);
        let mut followed = None;
        let structured = match &options.issuers {
            TokenIssuers::None => None,
            TokenIssuers::File(path) => {
                let opened = Structured::open(path, own, connections);
                let (structured, file) = opened.map_err(AuthenticationConfigError::Issuers)?;
                followed = Some(Followed {
                    structured: structured.clone(),
                    file,
                });
                Some(structured)
            }
            TokenIssuers::Oidc(flags) => {
                let structured = Structured::of_flags(flags, own, connections);
                Some(structured.map_err(AuthenticationConfigError::Issuers)?)
            }
        };
        let of_file = structured.as_ref().and_then(|s| s.anonymous().cloned());
        let anonymous = match (of_file, options.anonymous) {
            (Some(_), Some(_)) => return Err(AuthenticationConfigError::Anonymous),
            (Some(anonymous), None) => anonymous,
            (None, flag) => AnonymousAuth {
                enabled: flag.unwrap_or(true),
                conditions: Vec::new(),
            },
        };
        let webhook = options
            .webhook
            .as_ref()
            .map(|webhook| TokenWebhook::open(webhook, connections));
        let webhook = webhook.transpose().map_err(AuthenticationConfigError::Webhook)?;
        let external = Self {
            structured,
            webhook: webhook.map(Arc::new),
            anonymous,
        };
        Ok((external, followed))
    }
}

impl Followed {
    /// Takes changes of the file until `shutdown`.
    pub(crate) fn start(self, shutdown: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(self.structured.follow(self.file, shutdown))
    }
}
