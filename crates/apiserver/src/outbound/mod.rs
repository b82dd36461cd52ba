//! Connections that the server opens to others over HTTPS: extension API servers, webhooks, issuers of tokens.
//!
//! A [`Client`] belongs to one destination and keeps its connections for reuse. Connections are tasks of the server: they
//! end with it.

mod client;
mod fetch;
mod remote;
mod resolve;
mod tls;

pub(crate) use client::{Client, Place};
pub(crate) use fetch::Fetcher;
pub(crate) use remote::Remote;
pub(crate) use resolve::{ServiceRef, endpoints, resolve};
pub(crate) use tls::{TlsOptions, client_config};
