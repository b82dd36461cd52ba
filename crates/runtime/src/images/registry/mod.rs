//! A client of the OCI distribution protocol: endpoints, TLS, authorization, manifests and blobs.
//!
//! Credentials go only to the registry they are for: not to mirrors, not along redirects to other origins, and from an
//! HTTPS registry never to a token server on plain HTTP.

mod auth;
mod download;
mod endpoint;
mod http;
mod push;
mod repository;

pub(crate) use download::Chunk;
pub(crate) use repository::{Registry, Repository};
