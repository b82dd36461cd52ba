//! Configuration: where the store is, how registries are reached, credentials.
//!
//! Registries are configured in the form of k3s' `registries.yaml`, which most users of small clusters know:
//!
//! ```yaml
//! mirrors:
//!   docker.io:
//!     endpoint: ["https://mirror.example:5000", "http://plain.example"]
//!   "*":
//!     endpoint: ["https://cache.example"]
//! configs:
//!   "mirror.example:5000":
//!     auth: {username: u, password: p}
//!     tls: {ca_file: /etc/ssl/mirror.pem}
//! ```
//!
//! Endpoints are tried in order and the registry itself last. Plain HTTP is spoken only to an endpoint written
//! `http://…`, and to loopback registries (`localhost`, `127.0.0.0/8`, `::1`) after HTTPS failed, as containerd
//! allows. `insecure_skip_verify` is refused: give `ca_file` instead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;

use super::error::ImageError;

/// Settings of one image store.
#[derive(Debug, Clone)]
pub struct ImageConfig {
    /// Directory of the store; created when missing. It must lie on a file system that can be an overlay upper
    /// layer (not itself overlay), and is used by one process at a time.
    pub root: PathBuf,
    /// How registries are reached.
    pub registries: RegistriesConfig,
    /// Platform wanted from multi-platform images.
    pub platform: Platform,
    /// Layers downloaded and unpacked at the same time, over all pulls; each uses one blocking thread.
    pub max_concurrent_layers: usize,
    /// How often a request, or a download that makes no progress, is repeated after a transient failure.
    pub max_retries: u32,
    /// First pause between retries; doubles each time up to 30 times the value, with jitter.
    pub retry_backoff: Duration,
    /// A connection attempt, an answer's head, or a silent download is given up after this time.
    pub io_timeout: Duration,
}

impl ImageConfig {
    /// Defaults for a store at `root`: no mirrors, this machine's platform, 3 layers at once, 5 retries from 500 ms.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            registries: RegistriesConfig::default(),
            platform: Platform::host(),
            max_concurrent_layers: 3,
            max_retries: 5,
            retry_backoff: Duration::from_millis(500),
            io_timeout: Duration::from_secs(30),
        }
    }
}

/// `os/architecture[/variant]` in Go's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// For example `linux`.
    pub os: String,
    /// For example `amd64`.
    pub architecture: String,
    /// For example `v8`; empty when the architecture has one variant only.
    pub variant: String,
}

impl Platform {
    /// The platform this program was built for.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "x86" => ("386", ""),
            "arm" => ("arm", "v7"),
            "powerpc64" => ("ppc64le", ""),
            "loongarch64" => ("loong64", ""),
            other => (other, ""),
        };
        Self {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.into(),
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// `registries.yaml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistriesConfig {
    /// Mirrors by registry domain as in image references; `*` stands for every domain without an own entry.
    #[serde(default)]
    pub mirrors: BTreeMap<String, Mirror>,
    /// Credentials and TLS by `host[:port]` of the endpoint that is contacted.
    #[serde(default)]
    pub configs: BTreeMap<String, HostConfig>,
}

/// The endpoints standing in for one registry.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// `https://host[:port][/prefix]` or `http://…`, tried in order.
    #[serde(default)]
    pub endpoint: Vec<String>,
}

/// Credentials and TLS settings of one endpoint.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// Used when the pull brings no credentials for this registry.
    #[serde(default)]
    pub auth: Option<AuthConfig>,
    /// TLS settings.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
}

/// PEM files for one endpoint.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Trusted in addition to the system's roots.
    pub ca_file: Option<PathBuf>,
    /// Client certificate chain.
    pub cert_file: Option<PathBuf>,
    /// Client key.
    pub key_file: Option<PathBuf>,
}

impl RegistriesConfig {
    /// Parses the YAML text of a `registries.yaml`.
    pub fn from_yaml(text: &str) -> Result<Self, ImageError> {
        let config: Self =
            serde_yaml_ng::from_str(text).map_err(|e| ImageError::InvalidConfig(e.to_string()))?;
        for endpoint in config.mirrors.values().flat_map(|m| &m.endpoint) {
            if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
                return Err(ImageError::InvalidConfig(format!(
                    "endpoint {endpoint:?} must start with https:// or http://"
                )));
            }
        }
        Ok(config)
    }

    /// Reads a `registries.yaml`; a missing file is the empty configuration.
    pub fn load(path: &Path) -> Result<Self, ImageError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::from_yaml(&text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(ImageError::io("read", path, e)),
        }
    }
}

/// Credentials of one pull, with the fields of CRI's `AuthConfig`.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// User name.
    #[serde(default)]
    pub username: String,
    /// Password.
    #[serde(default)]
    pub password: String,
    /// Base64 of `username:password`.
    #[serde(default)]
    pub auth: String,
    /// When not empty, credentials are only for this server.
    #[serde(default)]
    pub server_address: String,
    /// OAuth2 refresh token.
    #[serde(default)]
    pub identity_token: String,
    /// Bearer token sent to the registry as it is.
    #[serde(default)]
    pub registry_token: String,
}

impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// What an [`AuthConfig`] comes down to.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Anonymous,
    Basic { username: String, password: String },
    IdentityToken(String),
    RegistryToken(String),
}

impl AuthConfig {
    /// The credentials to use at `domain`; anonymous when they are for another server.
    pub(crate) fn credentials_for(&self, domain: &str) -> Result<Credentials, ImageError> {
        if !self.server_address.is_empty() {
            let address = self.server_address.trim();
            let bare = address.split_once("://").map_or(address, |(_, rest)| rest);
            let host = bare.split('/').next().unwrap_or_default();
            if canonical_host(host) != canonical_host(domain) {
                return Ok(Credentials::Anonymous);
            }
        }
        if !self.username.is_empty() {
            return Ok(Credentials::Basic {
                username: self.username.clone(),
                password: self.password.clone(),
            });
        }
        if !self.identity_token.is_empty() {
            return Ok(Credentials::IdentityToken(self.identity_token.clone()));
        }
        if !self.auth.is_empty() {
            let invalid = || ImageError::InvalidConfig("auth is not base64 of \"username:password\"".into());
            let decoded = base64::engine::general_purpose::STANDARD
                .decode(self.auth.trim())
                .map_err(|_| invalid())?;
            let text = String::from_utf8(decoded).map_err(|_| invalid())?;
            let (username, password) = text.split_once(':').ok_or_else(invalid)?;
            return Ok(Credentials::Basic {
                username: username.to_owned(),
                password: password.trim_matches('\0').to_owned(),
            });
        }
        if !self.registry_token.is_empty() {
            return Ok(Credentials::RegistryToken(self.registry_token.clone()));
        }
        Ok(Credentials::Anonymous)
    }
}

/// All spellings of Docker Hub are one host.
fn canonical_host(host: &str) -> &str {
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_follow_the_server_address() {
        let basic = |u: &str, p: &str| Credentials::Basic {
            username: u.into(),
            password: p.into(),
        };
        let auth = AuthConfig {
            auth: "dTpwOnE=".into(),
            server_address: "https://index.docker.io/v1/".into(),
            ..AuthConfig::default()
        };
        assert!(auth.credentials_for("docker.io").expect("ok") == basic("u", "p:q"));
        assert!(auth.credentials_for("evil.example").expect("ok") == Credentials::Anonymous);
        let broken = AuthConfig {
            auth: "%%".into(),
            ..AuthConfig::default()
        };
        assert!(broken.credentials_for("x").is_err());
        assert!(!format!("{auth:?}").contains("dTpw"), "secrets never reach a log");
    }

    #[test]
    fn yaml_is_strict() {
        let ok = "mirrors: {docker.io: {endpoint: ['http://127.0.0.1:1']}}\nconfigs: {'127.0.0.1:1': {auth: {username: a, password: b}}}";
        assert_eq!(RegistriesConfig::from_yaml(ok).expect("valid").mirrors.len(), 1);
        for bad in [
            "mirrors: {docker.io: {endpoint: ['127.0.0.1:1']}}",
            "configs: {h: {tls: {insecure_skip_verify: true}}}",
            "mirror: {}",
        ] {
            assert!(RegistriesConfig::from_yaml(bad).is_err(), "{bad}");
        }
    }
}
