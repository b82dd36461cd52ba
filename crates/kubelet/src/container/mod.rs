//! Sandboxes and containers through CRI: their configuration, images, start, hooks, end, logs and removal.

pub(crate) mod config;
pub(crate) mod credentials;
pub(crate) mod dns;
pub(crate) mod env;
pub(crate) mod expansion;
pub(crate) mod fields;
pub(crate) mod gc;
pub(crate) mod hooks;
pub(crate) mod hosts;
pub(crate) mod images;
pub(crate) mod kill;
pub(crate) mod logs;
pub(crate) mod mounts;
pub(crate) mod rotation;
mod rpc;
pub(crate) mod sandbox;
pub(crate) mod security;
pub(crate) mod service_env;
pub(crate) mod start;

pub(crate) use config::resources;
pub(crate) use rpc::rpc_error;
