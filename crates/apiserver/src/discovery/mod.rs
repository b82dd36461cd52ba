//! Discovery: what is served, in the legacy form and aggregated (v2) with ETag and 304, and OpenAPI.

mod aggregated;
mod legacy;
mod openapi;
mod respond;

pub(crate) use respond::{DiscoveryCache, respond};
