//! The kubelet's HTTPS API: pods, logs, streaming, stats and metrics, for clients that the API server knows.

mod auth;
mod certificate;
mod listen;
mod logs;
mod router;
mod streaming;

pub use certificate::ServingCertificate;
pub use listen::Error;
pub(crate) use listen::{bind, serve};
