//! Flags of `kube-apiserver` that say who comes in and what he may do, beyond client certificates and service accounts.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use keelson_apiserver::AuthorizationMode;

use super::components::{duration, pair};

/// Who asks.
#[derive(Clone, Debug, Args)]
pub(crate) struct AuthenticationArgs {
    /// AuthenticationConfiguration: issuers whose tokens are good here; changes are followed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["oidc_issuer_url", "oidc_client_id", "oidc_ca_file",
        "oidc_username_claim", "oidc_username_prefix", "oidc_groups_claim", "oidc_groups_prefix", "oidc_required_claim",
        "oidc_signing_algs"])]
    pub(crate) authentication_config: Option<PathBuf>,
    /// Let requests without credentials in, as system:anonymous
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    pub(crate) anonymous_auth: Option<bool>,
    /// Webhook that knows tokens, as a kubeconfig
    #[arg(long, value_name = "FILE")]
    pub(crate) authentication_token_webhook_config_file: Option<PathBuf>,
    /// How long its answers are remembered
    #[arg(long, default_value = "2m", value_parser = duration, value_name = "DURATION")]
    pub(crate) authentication_token_webhook_cache_ttl: Duration,
    /// Version of the TokenReview that it understands
    #[arg(long, default_value = "v1beta1", value_parser = ["v1", "v1beta1"], value_name = "VERSION")]
    pub(crate) authentication_token_webhook_version: String,
    /// Issuer of OpenID tokens
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    pub(crate) oidc_issuer_url: Option<String>,
    /// Audience of its tokens
    #[arg(long, value_name = "ID", requires = "oidc_issuer_url")]
    pub(crate) oidc_client_id: Option<String>,
    /// Authorities of its certificate [default: those of this machine]
    #[arg(long, value_name = "FILE", requires = "oidc_issuer_url")]
    pub(crate) oidc_ca_file: Option<PathBuf>,
    /// Claim that is the user's name [default: sub]
    #[arg(long, value_name = "CLAIM", requires = "oidc_issuer_url")]
    pub(crate) oidc_username_claim: Option<String>,
    /// Put before it; `-` is nothing [default: the issuer and #, nothing before an email]
    #[arg(
        long,
        value_name = "PREFIX",
        requires = "oidc_issuer_url",
        allow_hyphen_values = true
    )]
    pub(crate) oidc_username_prefix: Option<String>,
    /// Claim that holds the groups
    #[arg(long, value_name = "CLAIM", requires = "oidc_issuer_url")]
    pub(crate) oidc_groups_claim: Option<String>,
    /// Put before each of them
    #[arg(long, value_name = "PREFIX", requires = "oidc_issuer_url")]
    pub(crate) oidc_groups_prefix: Option<String>,
    /// Claims that tokens must have with these values
    #[arg(long, value_delimiter = ',', value_parser = pair, value_name = "CLAIM=VALUE", requires = "oidc_issuer_url")]
    pub(crate) oidc_required_claim: Vec<(String, String)>,
    /// Algorithms that may sign its tokens [default: RS256]
    #[arg(long, value_delimiter = ',', value_name = "ALG", requires = "oidc_issuer_url")]
    pub(crate) oidc_signing_algs: Vec<String>,
}

/// Who decides what may be done.
#[derive(Clone, Debug, Args)]
pub(crate) struct AuthorizationArgs {
    /// Who is asked, in this order: Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny [default: Node,RBAC]
    #[arg(long, value_delimiter = ',', value_name = "MODES")]
    pub(crate) authorization_mode: Vec<AuthorizationMode>,
    /// AuthorizationConfiguration: who is asked; changes are followed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["authorization_mode", "authorization_webhook_config_file"])]
    pub(crate) authorization_config: Option<PathBuf>,
    /// Webhook that is asked with mode Webhook, as a kubeconfig
    #[arg(long, value_name = "FILE")]
    pub(crate) authorization_webhook_config_file: Option<PathBuf>,
    /// Version of the SubjectAccessReview that it understands
    #[arg(long, default_value = "v1beta1", value_parser = ["v1", "v1beta1"], value_name = "VERSION")]
    pub(crate) authorization_webhook_version: String,
    /// How long it is remembered that something is allowed
    #[arg(long, default_value = "5m", value_parser = duration, value_name = "DURATION")]
    pub(crate) authorization_webhook_cache_authorized_ttl: Duration,
    /// How long it is remembered that something is not
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "DURATION")]
    pub(crate) authorization_webhook_cache_unauthorized_ttl: Duration,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::{Cli, Command};

    fn parsed(arguments: &[&str]) -> Result<super::super::ApiserverArgs, String> {
        let required = [
            "keelson",
            "kube-apiserver",
            "--client-ca-file=c",
            "--service-account-issuer=https://i",
            "--service-account-signing-key-file=k",
        ];
        match Cli::try_parse_from(required.iter().chain(arguments)) {
            Ok(Cli {
                command: Command::KubeApiserver(args),
                ..
            }) => Ok(*args),
            Ok(_) => panic!("another command"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn what_goes_together() {
        use keelson_apiserver::AuthorizationMode::{Node, Rbac, Webhook};
        let args = parsed(&["--authorization-mode=Node,Webhook,RBAC", "--anonymous-auth=false"]).unwrap();
        assert_eq!(args.authorization.authorization_mode, [Node, Webhook, Rbac]);
        assert_eq!(args.authentication.anonymous_auth, Some(false));
        let args = parsed(&[
            "--oidc-issuer-url=https://i",
            "--oidc-client-id=c",
            "--oidc-username-prefix=-",
            "--oidc-required-claim=a=b,c=d",
            "--oidc-required-claim=e=f",
        ]);
        let args = args.unwrap().authentication;
        assert_eq!(args.oidc_username_prefix.as_deref(), Some("-"));
        assert_eq!(args.oidc_required_claim.len(), 3);
        for (wrong, why) in [
            (&["--authorization-mode=ABAC"][..], "ABAC is not supported"),
            (
                &["--authorization-config=f", "--authorization-mode=RBAC"],
                "cannot be used with",
            ),
            (
                &[
                    "--authentication-config=f",
                    "--oidc-issuer-url=i",
                    "--oidc-client-id=c",
                ],
                "cannot be used with",
            ),
            (&["--oidc-issuer-url=i"], "--oidc-client-id"),
            (&["--oidc-groups-claim=g"], "--oidc-issuer-url"),
            (
                &["--authentication-token-webhook-version=v2"],
                "possible values: v1, v1beta1",
            ),
        ] {
            let error = parsed(wrong).unwrap_err();
            assert!(error.contains(why), "{wrong:?}: {error}");
        }
    }
}
