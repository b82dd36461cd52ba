//! What a server is started with.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use keelson_store::Store;

use crate::audit::AuditConfig;
use crate::authentication::AuthenticationConfig;
use crate::authorization::AuthorizationConfig;
use crate::encryption::EncryptionConfig;

/// A certificate chain and its key, both PEM.
#[derive(Clone, Default)]
pub struct CertificateAndKey {
    /// The chain, leaf first.
    pub certificate_pem: Vec<u8>,
    /// The private key (PKCS#8 or SEC1).
    pub key_pem: Vec<u8>,
}

/// How the server reaches kubelets.
#[derive(Clone, Default)]
pub struct KubeletClientConfig {
    /// The server's client certificate towards kubelets.
    pub identity: CertificateAndKey,
    /// The authority of kubelets' serving certificates; `None` skips verification, as upstream does without
    /// `--kubelet-certificate-authority`.
    pub ca_pem: Option<Vec<u8>>,
}

/// Keys and names of service account tokens.
#[derive(Clone, Default)]
pub struct ServiceAccountConfig {
    /// Signs tokens (PEM).
    pub signing_key_pem: Vec<u8>,
    /// Keys that tokens are verified with (PEM, public or private); the signing key is always among them.
    pub verification_keys_pem: Vec<Vec<u8>>,
    /// `iss` of tokens, e.g. `https://kubernetes.default.svc.cluster.local`.
    pub issuer: String,
    /// Audiences of tokens meant for this server; the issuer when empty.
    pub api_audiences: Vec<String>,
    /// Longest lifetime of a requested token.
    pub max_token_expiration: Option<Duration>,
}

/// Everything [`crate::ApiServer::start`] needs.
#[derive(Clone)]
pub struct ApiServerConfig {
    /// Where to listen; port 0 takes a free one.
    pub bind_address: SocketAddr,
    /// The address that members of the cluster reach this server at (`kubernetes` Service's endpoint).
    pub advertise_address: IpAddr,
    /// The serving certificate.
    pub serving: CertificateAndKey,
    /// Authorities of client certificates (PEM bundle).
    pub client_ca_pem: Vec<u8>,
    /// Authority of the aggregator's client certificates for `X-Remote-*` headers (PEM bundle).
    pub request_header_ca_pem: Option<Vec<u8>>,
    /// Common names allowed with `request_header_ca_pem`; empty allows any.
    pub request_header_allowed_names: Vec<String>,
    /// Ranges of Service addresses; the first is the primary one.
    pub service_cidrs: Vec<IpNet>,
    /// Ports of NodePort services.
    pub node_port_range: RangeInclusive<u16>,
    /// The server's client certificate towards extension API servers (`--proxy-client-cert-file`), of the authority in
    /// `request_header_ca_pem`.
    pub proxy_client: Option<CertificateAndKey>,
    /// Towards kubelets; `None` answers 503 to logs, exec and the like.
    pub kubelet_client: Option<KubeletClientConfig>,
    /// Service account tokens.
    pub service_account: ServiceAccountConfig,
    /// Tokens of other issuers, a webhook, and who may come without credentials.
    pub authentication: AuthenticationConfig,
    /// Who decides what may be done.
    pub authorization: AuthorizationConfig,
    /// The versioned store.
    pub store: Arc<dyn Store>,
    /// What is encrypted in the store (`--encryption-provider-config`).
    pub encryption: Option<EncryptionConfig>,
    /// What is recorded of requests (`--audit-policy-file`); nothing when `None`.
    pub audit: Option<AuditConfig>,
    /// Lifetime of Events.
    pub event_ttl: Duration,
    /// Longest request other than watches and streams.
    pub request_timeout: Duration,
    /// Least lifetime of a watch without `timeoutSeconds`; the real one is up to twice as long.
    pub min_request_timeout: Duration,
}

impl ApiServerConfig {
    /// A configuration with upstream's defaults around what has none.
    pub fn new(store: Arc<dyn Store>, serving: CertificateAndKey, client_ca_pem: Vec<u8>) -> Self {
        Self {
            bind_address: SocketAddr::from(([0, 0, 0, 0], 6443)),
            advertise_address: IpAddr::from([127, 0, 0, 1]),
            serving,
            client_ca_pem,
            request_header_ca_pem: None,
            request_header_allowed_names: Vec::new(),
            service_cidrs: vec![IpNet::V4(
                ipnet::Ipv4Net::new([10, 96, 0, 0].into(), 12).expect("invariant: 12 is a prefix length"),
            )],
            node_port_range: 30000..=32767,
            proxy_client: None,
            kubelet_client: None,
            service_account: ServiceAccountConfig::default(),
            authentication: AuthenticationConfig::default(),
            authorization: AuthorizationConfig::default(),
            store,
            encryption: None,
            audit: None,
            event_ttl: Duration::from_secs(3600),
            request_timeout: Duration::from_secs(60),
            min_request_timeout: Duration::from_secs(1800),
        }
    }
}
