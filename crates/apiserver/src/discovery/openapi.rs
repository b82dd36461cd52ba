//! `/openapi/v2` and `/openapi/v3`.

use std::sync::{Arc, LazyLock};

use dashmap::DashMap;
use http::header::{CACHE_CONTROL, ETAG, HeaderValue, IF_NONE_MATCH};
use http::{HeaderMap, Response, StatusCode};
use keelson_api::gvk::GroupVersion;
use keelson_api::openapi;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::aggregation::View;
use crate::http::query::Query;
use crate::http::{Body, Negotiated, Reply};

/// A document and its ETag.
type Document = Arc<(Vec<u8>, String)>;

/// Documents of built-in kinds, made at first use and the same for every server of this process.
static BUILTIN: LazyLock<DashMap<String, Document>> = LazyLock::new(DashMap::new);

fn builtin(path: &str) -> Option<Document> {
    if let Some(found) = BUILTIN.get(path) {
        return Some(found.clone());
    }
    let value = match path {
        "v2" => openapi::v2(serde_json::Map::new(), serde_json::Map::new()),
        "v3" => openapi::v3_index(std::iter::empty()),
        path => openapi::v3_document(&group_version(path.strip_prefix("v3/")?)?)?,
    };
    let document = document(&value);
    BUILTIN.insert(path.to_owned(), document.clone());
    Some(document)
}

fn document(value: &Value) -> Document {
    let json = serde_json::to_vec(value).expect("invariant: a value can be written");
    let etag = format!("\"{}\"", hex::encode_upper(Sha256::digest(&json)));
    Arc::new((json, etag))
}

/// Path and hash of the documents of extension servers.
fn elsewhere(view: &View) -> Vec<(String, String)> {
    view.elsewhere()
        .filter_map(|entry| {
            let hash = view.documents.get(&entry.name)?.openapi_hash.clone()?;
            Some((format!("apis/{}/{}", entry.group, entry.version), hash))
        })
        .collect()
}

/// `api/v1` or `apis/apps/v1`
fn group_version(path: &str) -> Option<GroupVersion> {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["api", version] => Some(GroupVersion::new("", (*version).to_owned())),
        ["apis", group, version] => Some(GroupVersion::new((*group).to_owned(), (*version).to_owned())),
        _ => None,
    }
}

/// Answers an OpenAPI path; `None` for paths that have no document.
pub(super) fn respond(
    view: &View,
    path: &str,
    query: &Query<'_>,
    headers: &HeaderMap,
    form: Negotiated,
) -> Option<Response<Body>> {
    let name = path.trim_matches('/').strip_prefix("openapi/")?;
    let others = if name == "v3" { elsewhere(view) } else { Vec::new() };
    let document = if others.is_empty() {
        builtin(name)?
    } else {
        document(&openapi::v3_index(others))
    };
    let (json, etag) = document.as_ref();
    let tag = HeaderValue::from_str(etag).expect("invariant: hexadecimal digits in quotes");
    if headers.get(IF_NONE_MATCH) == Some(&tag) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response.headers_mut().insert(ETAG, tag);
        return Some(response);
    }
    let mut response = Reply::ok(json.clone()).into_response(form, headers);
    response.headers_mut().insert(ETAG, tag);
    // A document that is asked for by its hash never changes.
    if query.get("hash").is_some() {
        let forever = HeaderValue::from_static("public, immutable");
        response.headers_mut().insert(CACHE_CONTROL, forever);
    }
    Some(response)
}
