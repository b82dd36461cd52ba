//! The trusted issuers, exchanged when the file changes.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use keelson_api::field::aggregate;
use tokio_util::sync::CancellationToken;

use super::configuration::{AnonymousAuth, AuthenticationConfiguration};
use super::flags::OidcFlags;
use super::issuer::TrustedIssuer;
use super::validate::validate;
use crate::admission::Connections;
use crate::reload::Watched;
use crate::user::UserInfo;

/// Tokens of other issuers.
pub(crate) struct Structured {
    issuers: ArcSwap<Vec<Arc<TrustedIssuer>>>,
    anonymous: Option<AnonymousAuth>,
    disallowed: Vec<String>,
    connections: Connections,
}

impl Structured {
    /// Reads a file, which is then to be followed with [`Self::follow`].
    ///
    /// # Errors
    /// Everything that is wrong with it, for people.
    pub(crate) fn open(
        path: &Path,
        disallowed: &[String],
        connections: &Connections,
    ) -> Result<(Arc<Self>, Watched), String> {
        let failed = |why: String| format!("{}: {why}", path.display());
        let watched = Watched::open(path).map_err(|e| failed(e.to_string()))?;
        let configuration = AuthenticationConfiguration::parse(watched.text()).map_err(failed)?;
        let structured = Self::new(configuration, disallowed, connections).map_err(failed)?;
        Ok((Arc::new(structured), watched))
    }

    /// From the `--oidc-*` flags.
    ///
    /// # Errors
    /// Everything that is wrong with them, for people.
    pub(crate) fn of_flags(
        flags: &OidcFlags,
        disallowed: &[String],
        connections: &Connections,
    ) -> Result<Arc<Self>, String> {
        Self::new(flags.configuration()?, disallowed, connections).map(Arc::new)
    }

    fn new(
        configuration: AuthenticationConfiguration,
        disallowed: &[String],
        connections: &Connections,
    ) -> Result<Self, String> {
        let structured = Self {
            issuers: ArcSwap::default(),
            anonymous: configuration.anonymous.clone(),
            disallowed: disallowed.to_vec(),
            connections: connections.clone(),
        };
        structured.replace(configuration)?;
        Ok(structured)
    }

    /// Trusts the issuers of this configuration from now on. Those that stay as they were keep their keys.
    fn replace(&self, configuration: AuthenticationConfiguration) -> Result<(), String> {
        let programs = validate(&configuration, &self.disallowed).map_err(|errors| aggregate(&errors))?;
        let before = self.issuers.load_full();
        let mut issuers = Vec::new();
        for (authenticator, programs) in configuration.jwt.into_iter().zip(programs) {
            let same = before
                .iter()
                .find(|issuer| *issuer.configuration() == authenticator);
            issuers.push(match same {
                Some(same) => same.clone(),
                None => Arc::new(TrustedIssuer::new(authenticator, programs, &self.connections)?),
            });
        }
        self.issuers.store(Arc::new(issuers));
        Ok(())
    }

    /// Who may come without credentials, as the file said at the start; changes of that need a new start, as upstream.
    pub(crate) fn anonymous(&self) -> Option<&AnonymousAuth> {
        self.anonymous.as_ref()
    }

    /// Takes what the file says at each change; what cannot be used is logged and changes nothing.
    pub(crate) async fn follow(self: Arc<Self>, file: Watched, shutdown: CancellationToken) {
        let taken = |text: &str| match AuthenticationConfiguration::parse(text).and_then(|c| self.replace(c))
        {
            Ok(()) => tracing::info!("reloaded authentication config"),
            Err(error) => tracing::error!(error, "failed to reload authentication config; the old one stays"),
        };
        file.follow(shutdown, taken).await;
    }

    /// `Ok(None)`: a token of none of the issuers.
    ///
    /// # Errors
    /// A token of one of them that is not good.
    pub(crate) async fn authenticate(&self, token: &str) -> Result<Option<UserInfo>, String> {
        let issuers = self.issuers.load_full();
        for issuer in issuers.iter() {
            if let Some(user) = issuer.authenticate(token).await? {
                return Ok(Some(user));
            }
        }
        Ok(None)
    }
}
