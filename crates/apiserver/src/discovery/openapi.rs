//! `/openapi/v2` and `/openapi/v3`.

use http::Response;
use http::HeaderMap;

use crate::http::query::Query;
use crate::http::{Body, Negotiated};
use crate::registry::KindTable;

/// Answers an OpenAPI path; `None` for paths that have no document.
pub(super) fn respond(
    _table: &KindTable,
    _path: &str,
    _query: &Query<'_>,
    _headers: &HeaderMap,
    _form: Negotiated,
) -> Option<Response<Body>> {
    None
}
