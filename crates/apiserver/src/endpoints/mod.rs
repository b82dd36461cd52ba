//! Endpoints: what each request line does, on top of the registry.

mod binding;
mod connect;
mod dispatch;
mod eviction;
mod health;
mod log;
mod patch;
mod read;
mod request;
pub mod reviews;
mod rewrite;
mod scale;
mod status_of;
mod table;
mod upstream;
mod version;
mod watch;
mod write;

pub(crate) use connect::KubeletProxy;
pub(crate) use dispatch::dispatch;
pub(crate) use upstream::{strip_hop_by_hop, tunnel};
pub(crate) use version::{GIT_VERSION, platform};
