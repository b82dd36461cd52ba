//! From flags to what the API server is told about who comes in and what he may do.

use anyhow::Result;
use keelson_apiserver::{
    AuthenticationConfig, AuthorizationConfig, AuthorizationWebhookConfig, OidcFlags, TokenIssuers,
    TokenWebhookConfig,
};

use crate::cli::{AuthenticationArgs, AuthorizationArgs};
use crate::commands::standalone;

/// Who asks.
pub(super) fn authentication(args: &AuthenticationArgs) -> Result<AuthenticationConfig> {
    let issuers = match (&args.authentication_config, &args.oidc_issuer_url) {
        (Some(file), _) => TokenIssuers::File(file.clone()),
        (None, Some(issuer_url)) => {
            let authority = args.oidc_ca_file.as_deref();
            let authority = authority
                .map(|file| standalone::read("oidc-ca-file", file))
                .transpose()?;
            TokenIssuers::Oidc(OidcFlags {
                issuer_url: issuer_url.clone(),
                client_id: args.oidc_client_id.clone().unwrap_or_default(),
                ca_pem: authority.map(|pem| String::from_utf8_lossy(&pem).into_owned()),
                username_claim: args.oidc_username_claim.clone(),
                username_prefix: args.oidc_username_prefix.clone(),
                groups_claim: args.oidc_groups_claim.clone().unwrap_or_default(),
                groups_prefix: args.oidc_groups_prefix.clone().unwrap_or_default(),
                required_claims: args.oidc_required_claim.iter().cloned().collect(),
                signing_algs: args.oidc_signing_algs.clone(),
            })
        }
        (None, None) => TokenIssuers::None,
    };
    let webhook = args.authentication_token_webhook_config_file.as_ref();
    Ok(AuthenticationConfig {
        issuers,
        webhook: webhook.map(|config_file| TokenWebhookConfig {
            config_file: config_file.clone(),
            cache_ttl: args.authentication_token_webhook_cache_ttl,
            version: args.authentication_token_webhook_version.clone(),
        }),
        anonymous: args.anonymous_auth,
    })
}

/// Who decides what may be done.
pub(super) fn authorization(args: &AuthorizationArgs) -> AuthorizationConfig {
    if let Some(file) = &args.authorization_config {
        return AuthorizationConfig::File(file.clone());
    }
    let webhook = args.authorization_webhook_config_file.as_ref();
    let webhook = webhook.map(|config_file| AuthorizationWebhookConfig {
        config_file: config_file.clone(),
        version: args.authorization_webhook_version.clone(),
        authorized_ttl: args.authorization_webhook_cache_authorized_ttl,
        unauthorized_ttl: args.authorization_webhook_cache_unauthorized_ttl,
    });
    match (args.authorization_mode.as_slice(), AuthorizationConfig::default()) {
        ([], AuthorizationConfig::Modes { modes, .. }) => AuthorizationConfig::Modes { modes, webhook },
        (modes, _) => AuthorizationConfig::Modes {
            modes: modes.to_vec(),
            webhook,
        },
    }
}
