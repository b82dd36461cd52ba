//! GET of one object and of lists.

mod list_body;

use std::sync::Arc;

use http::Response;
use keelson_api::status::Status;
use serde_json::Value;

use super::request::Incoming;
use super::{scale, table};
use crate::http::{Body, Format, Reply, Transform, chunked_response, protobuf_response};
use crate::registry::continue_token::ContinueToken;
use crate::registry::options::{ListOptions, VersionMatch, parse_revision};
use crate::registry::{Kind, Selection, served, status_of, store_status};
use crate::watch_cache::{CachedObject, Page, PageRequest, push_number};

/// GET of an object or of a subresource that shows it.
pub(super) async fn get(incoming: &Incoming<'_>, kind: &Arc<Kind>) -> Result<Response<Body>, Status> {
    let info = incoming.info;
    if kind.cache.is_none() {
        return super::status_of::component_status(incoming, &info.name);
    }
    let version = incoming.query.get("resourceVersion");
    let version = parse_revision(version.as_deref().unwrap_or(""))?;
    let namespace = incoming.namespace(kind);
    let object = incoming
        .server
        .registry
        .get(kind, namespace, &info.name, version)
        .await?;
    match info.subresource.as_str() {
        "scale" => {
            let scale = scale::shown(kind, &served(kind, &object))?;
            reply_value(incoming, &scale)
        }
        _ => reply_object(incoming, kind, &object, http::StatusCode::OK),
    }
}

/// Answers with a JSON value of some other kind.
pub(super) fn reply_value(incoming: &Incoming<'_>, value: &Value) -> Result<Response<Body>, Status> {
    let json = serde_json::to_vec(value).map_err(Status::internal)?;
    Ok(Reply::ok(json).into_response(incoming.form, incoming.headers))
}

/// Answers with a stored object in the agreed shape.
pub(super) fn reply_object(
    incoming: &Incoming<'_>,
    kind: &Kind,
    object: &CachedObject,
    code: http::StatusCode,
) -> Result<Response<Body>, Status> {
    let json = match incoming.form.transform {
        Transform::None => object_json(kind, object),
        Transform::Table => {
            let objects = [served(kind, object)];
            table::table(kind, &objects, object.revision(), None, &incoming.query, true)?
        }
        Transform::PartialObjectMetadata => {
            let partial = table::partial_metadata(&served(kind, object));
            serde_json::to_vec(&partial).map_err(Status::internal)?
        }
        Transform::PartialObjectMetadataList => {
            return Err(Status::not_acceptable(&["application/json", "application/yaml"]));
        }
    };
    Ok(Reply { code, json }.into_response(incoming.form, incoming.headers))
}

/// The whole object as the row serves it.
pub(super) fn object_json(kind: &Kind, object: &CachedObject) -> Vec<u8> {
    if !kind.conversion.is_same() {
        return serde_json::to_vec(&served(kind, object)).expect("invariant: a value can be written");
    }
    let mut json = Vec::with_capacity(object.len_hint());
    object.write_json_as(&kind.head, &mut json);
    json
}

/// A list read from the cache or, for old revisions, from the store.
pub(super) struct Listed {
    pub(super) page: Page,
    pub(super) continue_token: Option<String>,
}

/// GET of a list.
pub(super) async fn list(incoming: &Incoming<'_>, kind: &Arc<Kind>) -> Result<Response<Body>, Status> {
    if kind.cache.is_none() {
        return super::status_of::component_statuses(incoming);
    }
    let options = ListOptions::parse(&incoming.query, false)?;
    let selection = Selection::parse(&incoming.query, kind)?;
    let listed = read_list(incoming, kind, &options, &selection).await?;
    match incoming.form.transform {
        Transform::None if incoming.form.format == Format::Protobuf && kind.schema().is_ok() => {
            let bytes = list_body::protobuf(kind, &listed).await?;
            Ok(protobuf_response(bytes, incoming.headers))
        }
        Transform::None => {
            let plain = incoming.form.format == Format::Json && !incoming.form.pretty;
            if plain && list_body::is_spliced(kind) {
                let (pieces, length) = list_body::pieces(kind, listed);
                return Ok(chunked_response(pieces, length, incoming.headers));
            }
            let json = list_body::whole(kind, listed);
            Ok(Reply::ok(json).into_response(incoming.form, incoming.headers))
        }
        Transform::Table => {
            let objects: Vec<Value> = listed.page.objects.iter().map(|o| served(kind, o)).collect();
            let json = table::table(
                kind,
                &objects,
                listed.page.revision,
                Some(&listed),
                &incoming.query,
                true,
            )?;
            Ok(Reply::ok(json).into_response(incoming.form, incoming.headers))
        }
        Transform::PartialObjectMetadata | Transform::PartialObjectMetadataList => {
            let items: Vec<Value> = listed
                .page
                .objects
                .iter()
                .map(|o| table::partial_metadata(&served(kind, o)))
                .collect();
            let mut json =
                b"{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/v1\",".to_vec();
            write_list_meta(&mut json, &listed);
            json.extend_from_slice(b",\"items\":");
            serde_json::to_writer(&mut json, &items).map_err(Status::internal)?;
            json.push(b'}');
            Ok(Reply::ok(json).into_response(incoming.form, incoming.headers))
        }
    }
}

/// Appends `"metadata":{...}` of a list.
pub(super) fn write_list_meta(out: &mut Vec<u8>, listed: &Listed) {
    out.extend_from_slice(b"\"metadata\":{\"resourceVersion\":\"");
    push_number(out, listed.page.revision);
    out.push(b'"');
    if let Some(token) = &listed.continue_token {
        out.extend_from_slice(b",\"continue\":\"");
        out.extend_from_slice(token.as_bytes());
        out.push(b'"');
    }
    if let Some(remaining) = listed.page.remaining.filter(|_| listed.continue_token.is_some()) {
        out.extend_from_slice(b",\"remainingItemCount\":");
        push_number(out, remaining as u64);
    }
    out.push(b'}');
}

/// Reads the objects of a list request.
pub(super) async fn read_list(
    incoming: &Incoming<'_>,
    kind: &Kind,
    options: &ListOptions,
    selection: &Selection,
) -> Result<Listed, Status> {
    let caches = incoming.server.registry.resources().caches();
    let token = match options.continue_token.as_str() {
        "" => None,
        text => Some(ContinueToken::decode(text).map_err(|e| Status::bad_request(e.to_string()))?),
    };
    if token.is_some() && !matches!(options.resource_version.as_str(), "" | "0") {
        return Err(Status::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    let requested = options.revision()?;
    let mut exact = None;
    match (&token, requested, options.version_match) {
        (Some(token), ..) => match u64::try_from(token.rv) {
            Ok(revision) => {
                caches.wait_for(revision).await.map_err(|e| status_of(&e))?;
                exact = Some(revision);
            }
            Err(_) => caches.wait_until_current().await.map_err(|e| status_of(&e))?,
        },
        (None, None, _) => caches.wait_until_current().await.map_err(|e| status_of(&e))?,
        (None, Some(0), _) => {}
        (None, Some(revision), version_match) => {
            caches.wait_for(revision).await.map_err(|e| status_of(&e))?;
            // With a limit, and no match given, upstream reads exactly this revision.
            if version_match == Some(VersionMatch::Exact) || (version_match.is_none() && options.limit > 0) {
                exact = Some(revision);
            }
        }
    }
    let namespace = match incoming.info.namespace.as_str() {
        _ if !kind.info.namespaced => None,
        "" => selection.namespace.as_deref(),
        namespace => Some(namespace),
    };
    let named = selection
        .name
        .as_deref()
        .filter(|_| namespace.is_some() || !kind.info.namespaced);
    let request = PageRequest {
        namespace,
        name: named,
        start: token.as_ref().map(|t| t.start.as_bytes()),
        limit: options.limit,
        exact,
        count_remaining: options.limit > 0
            && selection.is_everything()
            && token.as_ref().is_none_or(|t| t.left.is_none()),
    };
    let cache = kind.cache()?;
    let everything = selection.is_everything();
    let page = cache.page(&request, |o| everything || selection.matches(o));
    let mut page = match page {
        Ok(page) => page,
        Err(_) => {
            from_store(
                incoming,
                kind,
                &request,
                exact.unwrap_or(0),
                selection,
                token.as_ref(),
            )
            .await?
        }
    };
    if let Some(left) = token.as_ref().and_then(|t| t.left)
        && page.more
    {
        let returned = page.objects.len() as u64;
        page.remaining = usize::try_from(left.saturating_sub(returned)).ok();
    }
    page.objects = incoming.server.registry.forms(kind, page.objects).await?;
    let continue_token = match page.objects.last() {
        Some(last) if page.more => {
            let key = std::str::from_utf8(last.key()).expect("invariant: keys are text");
            let left = page.remaining.map(|r| r as u64);
            Some(ContinueToken::after(key, page.revision, left).encode())
        }
        _ => None,
    };
    Ok(Listed { page, continue_token })
}

/// A list at a revision that the ring has forgotten.
async fn from_store(
    incoming: &Incoming<'_>,
    kind: &Kind,
    request: &PageRequest<'_>,
    revision: u64,
    selection: &Selection,
    token: Option<&ContinueToken>,
) -> Result<Page, Status> {
    let spec = kind.cache()?.spec();
    let store = incoming.server.registry.resources().caches().store();
    let prefix = match request.namespace {
        Some(namespace) => format!("{}{namespace}/", spec.prefix),
        None => spec.prefix.clone(),
    };
    let mut range = keelson_store::RangeRequest::prefix(prefix);
    range.revision = Some(keelson_store::Revision(revision));
    if let Some(start) = request.start {
        let key = [spec.prefix.as_bytes(), start].concat();
        if key.as_slice() > range.start.as_ref() {
            range.start = key.into();
        }
    }
    let answer = store.range(range).await.map_err(|error| match error {
        keelson_store::Error::Compacted { .. } => expired(token),
        other => store_status(&other),
    })?;
    let mut page = Page {
        revision,
        ..Page::default()
    };
    for kv in answer.kvs {
        let object =
            CachedObject::new(spec, &kv.key, kv.value, kv.mod_revision.0).map_err(|e| status_of(&e))?;
        if !selection.matches(&object) {
            continue;
        }
        if request.limit > 0 && page.objects.len() == request.limit {
            page.more = true;
            break;
        }
        page.objects.push(Arc::new(object));
    }
    Ok(page)
}

/// 410 for a page whose revision is gone; the status carries a token that goes on at the newest revision.
fn expired(token: Option<&ContinueToken>) -> Status {
    let Some(token) = token else {
        return Status::expired("The resourceVersion for the provided list is too old.");
    };
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let mut newest = token.clone();
    newest.rv = -1;
    newest.left = None;
    status.metadata.continue_token = newest.encode();
    status
}
