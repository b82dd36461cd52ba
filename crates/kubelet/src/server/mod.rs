//! The kubelet's HTTPS API: pods, logs, streaming, stats and metrics, for clients that the API server knows.

mod auth;
mod listen;
mod logs;
mod router;
mod streaming;

pub use listen::Error;
pub(crate) use listen::{bind, serve};
