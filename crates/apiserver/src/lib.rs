//! kube-apiserver: HTTP, authentication, authorization, admission, registry, watch cache, discovery.
//!
//! A request passes [`endpoints`]' dispatcher (identity, authorization), reaches its endpoint, and from there the
//! [`registry`], the only writer of the store. Reads are served by the [`watch_cache`] from the bytes that are stored.
//! In-process clients enter the same dispatcher through [`ApiServer::local_service`].

pub mod admission;
pub mod aggregation;
mod audit;
pub mod authentication;
pub mod authorization;
pub mod bootstrap;
pub mod config;
mod custom;
mod discovery;
mod encryption;
pub mod endpoints;
mod expiring;
mod flow;
pub mod http;
mod local;
mod masters;
mod metrics;
mod outbound;
pub mod registry;
mod reload;
pub mod request_info;
pub mod resources;
mod server;
pub mod user;
pub mod watch_cache;

pub use aggregation::{LocalApi, LocalApiService};
pub use audit::{AuditConfig, AuditError, AuditLog, AuditPolicy, AuditPolicyError, AuditWebhook};
pub use authentication::{
    AuthenticationConfig, AuthenticationConfigError, OidcFlags, TokenIssuers, TokenWebhookConfig,
};
pub use authorization::{
    AuthorizationConfig, AuthorizationConfigError, AuthorizationMode, AuthorizationWebhookConfig,
};
pub use config::{ApiServerConfig, CertificateAndKey, KubeletClientConfig, ServiceAccountConfig};
pub use encryption::{EncryptionConfig, EncryptionConfigError};
pub use local::LocalService;
pub use server::{ApiServer, StartError};
