//! AuthenticationConfiguration as it is written.

use serde::Deserialize;

/// Versions that can be read; they have the same fields.
const VERSIONS: [&str; 3] = [
    "apiserver.config.k8s.io/v1",
    "apiserver.config.k8s.io/v1beta1",
    "apiserver.config.k8s.io/v1alpha1",
];

/// `apiserver.config.k8s.io` AuthenticationConfiguration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AuthenticationConfiguration {
    pub(super) api_version: String,
    pub(super) kind: String,
    #[serde(default)]
    pub(super) jwt: Vec<JwtAuthenticator>,
    #[serde(default)]
    pub(super) anonymous: Option<AnonymousAuth>,
}

/// Who may come without credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AnonymousAuth {
    /// Whether anybody may.
    pub(crate) enabled: bool,
    /// Where: anywhere when there are none.
    #[serde(default)]
    pub(crate) conditions: Vec<AnonymousCondition>,
}

/// A path that may be asked for without credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AnonymousCondition {
    /// The whole path.
    pub(crate) path: String,
}

impl AnonymousAuth {
    /// Whether a request for `path` may come without credentials.
    pub(crate) fn allows(&self, path: &str) -> bool {
        self.enabled && (self.conditions.is_empty() || self.conditions.iter().any(|c| c.path == path))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct JwtAuthenticator {
    pub(super) issuer: Issuer,
    pub(super) claim_validation_rules: Vec<ClaimValidationRule>,
    pub(super) claim_mappings: ClaimMappings,
    pub(super) user_validation_rules: Vec<UserValidationRule>,
    /// `--oidc-signing-algs`; a file allows all.
    #[serde(skip)]
    pub(super) signing_algorithms: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Issuer {
    pub(super) url: String,
    #[serde(rename = "discoveryURL")]
    pub(super) discovery_url: String,
    pub(super) certificate_authority: String,
    pub(super) audiences: Vec<String>,
    pub(super) audience_match_policy: String,
    pub(super) egress_selector_type: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ClaimValidationRule {
    pub(super) claim: String,
    pub(super) required_value: String,
    pub(super) expression: String,
    pub(super) message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ClaimMappings {
    pub(super) username: Mapping,
    pub(super) groups: Mapping,
    pub(super) uid: PlainMapping,
    pub(super) extra: Vec<ExtraMapping>,
}

/// A claim with a prefix, or an expression.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Mapping {
    pub(super) claim: String,
    pub(super) prefix: Option<String>,
    pub(super) expression: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct PlainMapping {
    pub(super) claim: String,
    pub(super) expression: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ExtraMapping {
    pub(super) key: String,
    pub(super) value_expression: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct UserValidationRule {
    pub(super) expression: String,
    pub(super) message: String,
}

impl AuthenticationConfiguration {
    /// Reads YAML or JSON; fields that do not exist are errors. What the fields say is not judged here.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let configuration: Self = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
        let Self {
            api_version, kind, ..
        } = &configuration;
        if kind != "AuthenticationConfiguration" || !VERSIONS.contains(&api_version.as_str()) {
            return Err(format!(
                "expected AuthenticationConfiguration of apiserver.config.k8s.io/v1, found {kind:?} of {api_version:?}"
            ));
        }
        Ok(configuration)
    }
}
