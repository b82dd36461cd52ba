//! HTTP: connections, bodies, content negotiation, responses.

mod body;
mod compress;
mod negotiate;
mod pretty;
pub(crate) mod protobuf;
pub mod query;
mod respond;
mod serve;

pub use body::{Body, BodyError, RequestBody};
pub use negotiate::{Format, Negotiated, Offer, Transform};
pub use respond::{Reply, chunked_response, error_response, protobuf_response, text_response};
pub use serve::{Connection, serve};
