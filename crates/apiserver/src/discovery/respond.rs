//! Which document a path asks for, and in which form.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{HeaderMap, Response, StatusCode};
use keelson_api::status::Status;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{aggregated, legacy, openapi};
use crate::aggregation::{Group, View, groups};
use crate::http::query::Query;
use crate::http::{Body, Negotiated, Reply};
use crate::registry::KindTable;
use crate::server::Inner;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// What is served, and the aggregated documents of it, for one state of the kind table and of the APIServices.
#[derive(Default)]
pub(crate) struct DiscoveryCache {
    last: ArcSwapOption<Documents>,
    openapi: openapi::OpenApiCache,
}

struct Documents {
    table: Arc<KindTable>,
    view: Arc<View>,
    groups: Vec<Group>,
    core: (Vec<u8>, String),
    others: (Vec<u8>, String),
}

impl DiscoveryCache {
    fn documents(&self, table: &Arc<KindTable>, view: &Arc<View>) -> Arc<Documents> {
        if let Some(last) = self.last.load_full()
            && Arc::ptr_eq(&last.table, table)
            && Arc::ptr_eq(&last.view, view)
        {
            return last;
        }
        let groups = groups(table, view);
        let build = |core| {
            let json = serde_json::to_vec(&aggregated::document(&groups, core))
                .expect("invariant: a value can be written");
            let etag = format!("\"{}\"", hex::encode_upper(Sha256::digest(&json)));
            (json, etag)
        };
        let documents = Arc::new(Documents {
            table: table.clone(),
            core: build(true),
            others: build(false),
            view: view.clone(),
            groups,
        });
        self.last.store(Some(documents.clone()));
        documents
    }
}

/// Whether the first form that the client takes and that exists here is the aggregated one.
fn wants_aggregated(headers: &HeaderMap) -> Result<bool, Status> {
    let accept = headers
        .get(ACCEPT)
        .and_then(|a| a.to_str().ok())
        .unwrap_or("")
        .trim();
    if accept.is_empty() {
        return Ok(false);
    }
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters: Vec<&str> = parts.collect();
        let asked = parameters.iter().any(|p| p.starts_with("as="));
        if matches!(media, "application/json" | "*/*" | "application/*") {
            if !asked {
                return Ok(false);
            }
            let all = ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"];
            if all.iter().all(|p| parameters.contains(p)) {
                return Ok(true);
            }
        } else if media == "application/yaml" && !asked {
            return Ok(false);
        }
    }
    Err(Status::not_acceptable(&["application/json", "application/yaml"]))
}

/// Answers discovery and OpenAPI paths; `None` for others.
pub(crate) fn respond(
    server: &Inner,
    path: &str,
    headers: &HeaderMap,
    query: &Query<'_>,
    form: Negotiated,
) -> Result<Option<Response<Body>>, Status> {
    if path.starts_with("/openapi/") {
        return Ok(openapi::respond(
            &server.discovery.openapi,
            &server.registry.kinds(),
            &server.aggregator.view(),
            path,
            query,
            headers,
            form,
        ));
    }
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    if !matches!(parts.first(), None | Some(&("api" | "apis"))) {
        return Ok(None);
    }
    let documents = server
        .discovery
        .documents(&server.registry.kinds(), &server.aggregator.view());
    let value = match parts.as_slice() {
        [] => Some(root(&documents.groups)),
        ["api" | "apis"] => {
            let core = parts[0] == "api";
            if wants_aggregated(headers)? {
                let (json, etag) = if core { &documents.core } else { &documents.others };
                return Ok(Some(tagged(json, etag, headers, form)));
            }
            let address = server.address();
            Some(if core {
                legacy::versions(&address)
            } else {
                legacy::group_list(&documents.groups)
            })
        }
        ["api", version] => legacy::resource_list(&documents.groups, "", version),
        ["apis", group] => legacy::group(&documents.groups, group),
        ["apis", group, version] => legacy::resource_list(&documents.groups, group, version),
        _ => return Ok(None),
    };
    Ok(value.map(|value| {
        let json = serde_json::to_vec(&value).expect("invariant: a value can be written");
        Reply::ok(json).into_response(form, headers)
    }))
}

fn tagged(json: &[u8], etag: &str, headers: &HeaderMap, form: Negotiated) -> Response<Body> {
    let matches = headers.get(IF_NONE_MATCH).and_then(|v| v.to_str().ok()) == Some(etag);
    let mut response = if matches {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let form = Negotiated {
            format: crate::http::Format::Json,
            ..form
        };
        let mut response = Reply::ok(json.to_vec()).into_response(form, headers);
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
        response
    };
    let tag = HeaderValue::from_str(etag).expect("invariant: hexadecimal digits in quotes");
    response.headers_mut().insert(ETAG, tag);
    response
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("Accept"));
    response
}

fn root(groups: &[Group]) -> Value {
    let mut paths = vec![
        "/.well-known/openid-configuration".to_owned(),
        "/api".to_owned(),
        "/api/v1".to_owned(),
        "/apis".to_owned(),
        "/apis/".to_owned(),
        "/healthz".to_owned(),
        "/livez".to_owned(),
        "/metrics".to_owned(),
        "/openapi/v2".to_owned(),
        "/openapi/v3".to_owned(),
        "/openid/v1/jwks".to_owned(),
        "/readyz".to_owned(),
        "/version".to_owned(),
    ];
    for group in groups.iter().filter(|g| !g.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|(gv, _)| format!("/apis/{gv}")));
    }
    paths.sort();
    paths.dedup();
    json!({"paths": paths})
}
