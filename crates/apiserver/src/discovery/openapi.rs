//! `/openapi/v2` and `/openapi/v3`, with the custom resources that are served at the moment.
//!
//! Nothing is made before somebody asks. What was made stays until a definition that is part of it changes: a document is
//! known by a fingerprint of its rows, which is compared and not the document.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock, Weak};

use dashmap::DashMap;
use http::header::{CACHE_CONTROL, ETAG, HeaderValue, IF_NONE_MATCH};
use http::{HeaderMap, Response, StatusCode};
use keelson_api::gvk::GroupVersion;
use keelson_api::openapi::{self, CustomKind, V2Writer};
use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::aggregation::View;
use crate::http::query::Query;
use crate::http::{Body, Negotiated, Reply};
use crate::registry::{Kind, KindTable};

/// A document and its ETag.
type Document = Arc<(Vec<u8>, String)>;

/// Documents of built-in kinds alone, made at first use and the same for every server of this process.
static BUILTIN: LazyLock<DashMap<String, Document>> = LazyLock::new(DashMap::new);
/// The encoded built-in part of the v2 document.
static V2: LazyLock<V2Writer> = LazyLock::new(V2Writer::new);

fn builtin(path: &str) -> Option<Document> {
    if let Some(found) = BUILTIN.get(path) {
        return Some(found.clone());
    }
    let document = match path {
        "v2" => encoded(V2.document([])),
        "v3" => document(&openapi::v3_index(std::iter::empty())),
        path => document(&openapi::v3_document(&group_version(path.strip_prefix("v3/")?)?)?),
    };
    BUILTIN.insert(path.to_owned(), document.clone());
    Some(document)
}

fn document(value: &Value) -> Document {
    encoded(serde_json::to_vec(value).expect("invariant: a value can be written"))
}

fn encoded(json: Vec<u8>) -> Document {
    let etag = format!("\"{}\"", hex::encode_upper(Sha256::digest(&json)));
    Arc::new((json, etag))
}

/// Documents with custom resources in them.
#[derive(Default)]
pub(super) struct OpenApiCache {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The rows that the fingerprints are of.
    table: Weak<KindTable>,
    /// Of each group version with custom resources, by its v3 path.
    prints: BTreeMap<String, u64>,
    /// By path below `/openapi/`, with the fingerprint they were made for.
    documents: HashMap<String, (u64, Document)>,
}

fn custom(table: &KindTable) -> impl Iterator<Item = &Arc<Kind>> {
    table.rows().iter().filter(|kind| kind.openapi.is_some())
}

fn custom_kind(kind: &Kind) -> Option<CustomKind<'_>> {
    Some(CustomKind {
        row: &kind.info,
        schema: kind.openapi.as_deref()?,
    })
}

/// What a row's part of the documents depends on.
fn fingerprint(kind: &Kind, hasher: &mut DefaultHasher) {
    let info = &kind.info;
    (&kind.definition, &info.version, &info.kind, &info.list_kind).hash(hasher);
    (&info.plural, info.namespaced, env!("CARGO_PKG_VERSION")).hash(hasher);
}

impl State {
    fn follow(&mut self, table: &Arc<KindTable>) {
        if std::ptr::eq(self.table.as_ptr(), Arc::as_ptr(table)) {
            return;
        }
        self.table = Arc::downgrade(table);
        let mut hashers: BTreeMap<String, DefaultHasher> = BTreeMap::new();
        for kind in custom(table) {
            let hasher = hashers
                .entry(openapi::v3_path(&kind.info.group_version()))
                .or_default();
            fingerprint(kind, hasher);
        }
        self.prints = hashers
            .into_iter()
            .map(|(path, hasher)| (path, hasher.finish()))
            .collect();
        let current: Vec<String> = self.documents.keys().cloned().collect();
        for path in current {
            let print = self.print(&path);
            if print != Some(self.documents[&path].0) {
                self.documents.remove(&path);
            }
        }
    }

    /// The fingerprint of what is custom in a document; `None` when nothing is.
    fn print(&self, path: &str) -> Option<u64> {
        match path.strip_prefix("v3/") {
            Some(group_version) => self.prints.get(group_version).copied(),
            None if self.prints.is_empty() => None,
            None => {
                let mut hasher = DefaultHasher::new();
                self.prints.hash(&mut hasher);
                Some(hasher.finish())
            }
        }
    }

    /// Path and hash of the v3 documents with custom resources.
    fn index(&self) -> impl Iterator<Item = (String, String)> {
        self.prints
            .iter()
            .map(|(path, print)| (path.clone(), format!("{print:016X}")))
    }
}

impl OpenApiCache {
    fn document(&self, table: &Arc<KindTable>, view: &View, path: &str) -> Option<Document> {
        let mut state = self.state.lock();
        state.follow(table);
        if path == "v3" {
            let others = elsewhere(view);
            if others.is_empty() && state.prints.is_empty() {
                return builtin(path);
            }
            return Some(document(&openapi::v3_index(state.index().chain(others))));
        }
        let Some(print) = state.print(path) else {
            drop(state);
            return builtin(path);
        };
        if let Some((_, document)) = state.documents.get(path) {
            return Some(document.clone());
        }
        let made = match path.strip_prefix("v3/") {
            None if path == "v2" => encoded(V2.document(custom(table).filter_map(|kind| custom_kind(kind)))),
            None => return None,
            Some(group_version) => {
                let gv = self::group_version(group_version)?;
                let rows = custom(table).filter(|kind| kind.info.group_version() == gv);
                let rows: Vec<CustomKind<'_>> = rows.filter_map(|kind| custom_kind(kind)).collect();
                document(&openapi::v3_document_with(&gv, &rows)?)
            }
        };
        state.documents.insert(path.to_owned(), (print, made.clone()));
        Some(made)
    }
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
    cache: &OpenApiCache,
    table: &Arc<KindTable>,
    view: &View,
    path: &str,
    query: &Query<'_>,
    headers: &HeaderMap,
    form: Negotiated,
) -> Option<Response<Body>> {
    let name = path.trim_matches('/').strip_prefix("openapi/")?;
    let document = cache.document(table, view, name)?;
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
