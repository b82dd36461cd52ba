//! The `--oidc-*` flags as the configuration that they are short for.

use std::collections::BTreeMap;

use super::configuration::{
    AuthenticationConfiguration, ClaimMappings, ClaimValidationRule, Issuer, JwtAuthenticator, Mapping,
};

/// `--oidc-issuer-url` and what goes with it.
#[derive(Clone, Debug, Default)]
pub struct OidcFlags {
    /// `--oidc-issuer-url`.
    pub issuer_url: String,
    /// `--oidc-client-id`: the audience of its tokens.
    pub client_id: String,
    /// PEM bundle of `--oidc-ca-file`; the machine's authorities when `None`.
    pub ca_pem: Option<String>,
    /// `--oidc-username-claim`; `sub` unless said.
    pub username_claim: Option<String>,
    /// `--oidc-username-prefix`: `-` is none; unless said it is `<issuer>#`, and none with the claim `email`.
    pub username_prefix: Option<String>,
    /// `--oidc-groups-claim`.
    pub groups_claim: String,
    /// `--oidc-groups-prefix`.
    pub groups_prefix: String,
    /// `--oidc-required-claim`: claims with the values that they must have.
    pub required_claims: BTreeMap<String, String>,
    /// `--oidc-signing-algs`; RS256 when empty.
    pub signing_algs: Vec<String>,
}

/// What `--oidc-signing-algs` may name.
pub(super) const SIGNING_ALGORITHMS: [&str; 8] = [
    "ES256", "ES384", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512",
];

impl OidcFlags {
    /// The same as configuration.
    ///
    /// # Errors
    /// An algorithm that cannot be verified.
    pub(super) fn configuration(&self) -> Result<AuthenticationConfiguration, String> {
        if let Some(unknown) = self
            .signing_algs
            .iter()
            .find(|a| !SIGNING_ALGORITHMS.contains(&a.as_str()))
        {
            return Err(format!("oidc: unsupported signing alg: {unknown:?}"));
        }
        let claim = self.username_claim.clone().unwrap_or_else(|| "sub".to_owned());
        let prefix = match self.username_prefix.as_deref() {
            Some("-") => String::new(),
            None | Some("") if claim != "email" => format!("{}#", self.issuer_url),
            None => String::new(),
            Some(prefix) => prefix.to_owned(),
        };
        let groups = if self.groups_claim.is_empty() {
            Mapping::default()
        } else {
            Mapping {
                claim: self.groups_claim.clone(),
                prefix: Some(self.groups_prefix.clone()),
                ..Mapping::default()
            }
        };
        let algorithms = match self.signing_algs.as_slice() {
            [] => vec!["RS256".to_owned()],
            algorithms => algorithms.to_vec(),
        };
        let required = self
            .required_claims
            .iter()
            .map(|(claim, value)| ClaimValidationRule {
                claim: claim.clone(),
                required_value: value.clone(),
                ..ClaimValidationRule::default()
            });
        let authenticator = JwtAuthenticator {
            issuer: Issuer {
                url: self.issuer_url.clone(),
                certificate_authority: self.ca_pem.clone().unwrap_or_default(),
                audiences: vec![self.client_id.clone()],
                ..Issuer::default()
            },
            claim_validation_rules: required.collect(),
            claim_mappings: ClaimMappings {
                username: Mapping {
                    claim,
                    prefix: Some(prefix),
                    ..Mapping::default()
                },
                groups,
                ..ClaimMappings::default()
            },
            signing_algorithms: Some(algorithms),
            ..JwtAuthenticator::default()
        };
        Ok(AuthenticationConfiguration {
            jwt: vec![authenticator],
            ..AuthenticationConfiguration::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let check = |claim: Option<&str>, prefix: Option<&str>, wanted: &str| {
            let flags = OidcFlags {
                issuer_url: "https://me".into(),
                client_id: "c".into(),
                username_claim: claim.map(Into::into),
                username_prefix: prefix.map(Into::into),
                ..OidcFlags::default()
            };
            let configuration = flags.configuration().unwrap();
            let username = &configuration.jwt[0].claim_mappings.username;
            assert_eq!(username.prefix.as_deref(), Some(wanted), "{claim:?} {prefix:?}");
        };
        check(None, None, "https://me#");
        check(Some("name"), None, "https://me#");
        check(Some("email"), None, "");
        check(None, Some("-"), "");
        check(Some("email"), Some("oidc:"), "oidc:");
        let flags = OidcFlags {
            signing_algs: vec!["HS256".into()],
            ..OidcFlags::default()
        };
        assert_eq!(
            flags.configuration().unwrap_err(),
            "oidc: unsupported signing alg: \"HS256\""
        );
    }
}
