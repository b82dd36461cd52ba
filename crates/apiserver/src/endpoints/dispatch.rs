//! The filter chain and the router: identify, authorize, then hand the request to its endpoint.

use std::sync::Arc;
use std::time::Instant;

use http::header::{HeaderValue, WARNING, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use keelson_api::field::quote;
use keelson_api::status::Status;

use super::request::Incoming;
use super::{connect, health, read, version, watch, write};
use crate::admission::Notes;
use crate::aggregation::{self, Forwarded};
use crate::audit::Recorder;
use crate::authentication::{AuthenticationRequest, impersonate};
use crate::authorization::{Decision, Verdict, forbidden};
use crate::flow::Ticket;
use crate::http::query::Query;
use crate::http::{Body, Connection, Negotiated, Offer, RequestBody, error_response, text_response};
use crate::metrics::Observed;
use crate::request_info::RequestInfo;
use crate::server::Inner;
use crate::user::UserInfo;

/// Answers one request. Never fails: failures are answers.
pub(crate) async fn dispatch(
    server: &Arc<Inner>,
    mut parts: Parts,
    body: RequestBody,
    connection: &Connection,
) -> Response<Body> {
    let started = Instant::now();
    let raw_query = parts.uri.query().unwrap_or("").to_owned();
    let query = Query::new(&raw_query);
    let audit_id = audit_id(&parts);
    let mut form = Negotiated::of(
        &parts.headers,
        &query,
        Offer {
            yaml: true,
            protobuf: false,
        },
    )
    .unwrap_or(Negotiated {
        pretty: false,
        ..Negotiated::JSON
    });
    let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let recorder = server
        .audit
        .as_ref()
        .map(|audit| Recorder::new(audit, &parts, &audit_id, connection));
    let mut ticket = None;
    let notes = Notes::default();
    let metrics = &server.metrics.requests;
    let parsed = RequestInfo::parse(&parts.method, parts.uri.path(), &query);
    let observed = parsed
        .as_ref()
        .ok()
        .and_then(|info| observed(&parts, &query, info));
    let result = match &parsed {
        Err(error) => Err(Status::bad_request(error.to_string())),
        Ok(info) => {
            let _counted = observed.as_ref().and_then(|o| metrics.begin(o));
            let inside = Inside {
                server,
                parts: &parts,
                query,
                info,
                notes: &notes,
                connection,
                recorder: recorder.as_ref(),
            };
            inside.run(&mut form, body, upgrade, &mut ticket).await
        }
    };
    let mut response = match result {
        Ok(response) => response,
        Err(status) => {
            let plain = Negotiated {
                transform: crate::http::Transform::None,
                ..form
            };
            let mut response = error_response(&status, plain, &parts.headers);
            if status.code == 401 {
                let challenge = HeaderValue::from_static("Bearer realm=\"kubernetes-master\"");
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert("Audit-Id", audit_id);
    if let Some(ticket) = ticket {
        ticket.mark(headers);
    }
    for warning in notes.take_warnings() {
        let text = format!("299 - {}", quote_warning(&warning));
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.append(WARNING, value);
        }
    }
    if let Some(observed) = &observed {
        let size = http_body::Body::size_hint(response.body()).exact();
        metrics.answered(observed, response.status(), started.elapsed(), size);
        if observed.is_long_running() && response.status() == http::StatusCode::OK {
            let running = metrics.runs_long(observed);
            response = response.map(|body| body.holding(running));
        }
    }
    match recorder {
        Some(recorder) => recorder.answered(response, &notes).await,
        None => response,
    }
}

fn observed<'a>(parts: &Parts, query: &Query<'_>, info: &'a RequestInfo) -> Option<Observed<'a>> {
    let kind = parts.headers.get(http::header::CONTENT_TYPE);
    let apply = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/apply-patch"));
    Observed::of(&parts.method, info, apply, query.get("dryRun").is_some())
}

fn audit_id(parts: &Parts) -> HeaderValue {
    match parts.headers.get("Audit-ID").filter(|id| id.len() <= 64) {
        Some(given) => given.clone(),
        None => HeaderValue::from_str(&uuid::Uuid::new_v4().to_string())
            .expect("invariant: a UUID is a header value"),
    }
}

fn quote_warning(text: &str) -> String {
    let clean: String = text.chars().filter(|c| !c.is_control()).collect();
    format!("\"{}\"", clean.replace('\\', "\\\\").replace('"', "\\\""))
}

struct Inside<'a, 's> {
    server: &'s Arc<Inner>,
    parts: &'a Parts,
    query: Query<'a>,
    info: &'a RequestInfo,
    notes: &'a Notes,
    connection: &'a Connection,
    recorder: Option<&'a Recorder>,
}

impl<'s> Inside<'_, 's> {
    /// Answers the request; `ticket` gets its seats, which are kept until the answer begins.
    async fn run(
        &self,
        form: &mut Negotiated,
        body: RequestBody,
        upgrade: Option<hyper::upgrade::OnUpgrade>,
        ticket: &mut Option<Ticket<'s>>,
    ) -> Result<Response<Body>, Status> {
        let (server, info) = (self.server, self.info);
        let user = match &self.connection.local_user {
            Some(user) => user.clone(),
            None => Arc::new(self.authenticate().await?),
        };
        let authorizer = server.authorizer.as_ref();
        let acting = impersonate(&self.parts.headers, &user, info, authorizer).await?;
        if let Some(recorder) = self.recorder {
            let long = info.verb == "watch" || connect::is_connect(info);
            recorder.identified(&user, acting.as_ref(), info, long).await;
        }
        let user = match acting {
            Some(other) => Arc::new(other),
            None => user,
        };
        *ticket = Some(server.flow.admit(&user, info, self.listed()).await?);
        self.authorize(&user).await?;
        let body = self.recorded(body).await?;
        if let Some(entry) = server.aggregator.view().route(self.parts.uri.path()) {
            let request = Forwarded {
                user: &user,
                parts: self.parts,
                body,
                upgrade,
                remote: self.connection.remote,
            };
            return aggregation::serve(server, entry, request).await;
        }
        if !info.is_resource {
            return self.non_resource(*form).await;
        }
        let kind = server
            .registry
            .kind(&info.api_group, &info.api_version, &info.resource);
        let Some(kind) = kind else { return Ok(not_found()) };
        if let Some(warning) = kind
            .custom
            .as_ref()
            .and_then(|custom| custom.deprecation.as_ref())
        {
            self.notes.warn(warning);
        }
        let offer = Offer {
            yaml: info.verb != "watch",
            protobuf: !kind.traits.typed_items,
        };
        if !connect::is_connect(info) {
            *form = Negotiated::of(&self.parts.headers, &self.query, offer)?;
        }
        if !info.namespace.is_empty() && !kind.info.namespaced && kind.info.plural != "namespaces" {
            return Ok(not_found());
        }
        let incoming = Incoming {
            server,
            info,
            user: &user,
            headers: &self.parts.headers,
            query: self.query,
            notes: self.notes,
            form: *form,
            connection: self.connection,
        };
        if connect::is_connect(info) {
            connect::connect(&incoming, &kind, self.parts, body, upgrade).await
        } else {
            self.resource(&incoming, &kind, body).await
        }
    }

    /// The body, of which a copy went into the audit event when the policy asks for it.
    async fn recorded(&self, body: RequestBody) -> Result<RequestBody, Status> {
        let reads = self.info.is_read_only() || connect::is_connect(self.info);
        match self.recorder {
            Some(recorder) if !reads && recorder.wants_request() => {
                let bytes = body.read().await?;
                recorder.request(&self.parts.headers, &bytes);
                Ok(RequestBody::local(http_body_util::Full::new(bytes)))
            }
            _ => Ok(body),
        }
    }

    /// How many objects a list may have.
    fn listed(&self) -> usize {
        if self.info.verb != "list" {
            return 0;
        }
        let caches = self.server.registry.resources().caches();
        let stored = caches
            .try_kind(&self.info.api_group, &self.info.resource)
            .map_or(0, |cache| cache.len());
        match self.query.get("limit").and_then(|l| l.parse::<usize>().ok()) {
            Some(limit) if limit > 0 => stored.min(limit),
            _ => stored,
        }
    }

    async fn resource(
        &self,
        incoming: &Incoming<'_>,
        kind: &Arc<crate::registry::Kind>,
        body: RequestBody,
    ) -> Result<Response<Body>, Status> {
        let info = self.info;
        if info.parts.len() > 3 {
            return Ok(not_found());
        }
        check_verb(kind, info)?;
        if kind.info.namespaced
            && info.namespace.is_empty()
            && !matches!(info.verb.as_str(), "list" | "watch")
        {
            return Ok(not_found());
        }
        let deadline = self.server.config.request_timeout;
        if info.verb == "watch" {
            return watch::watch(incoming, kind).await;
        }
        let work = async {
            match info.verb.as_str() {
                "get" => read::get(incoming, kind).await,
                "list" => read::list(incoming, kind).await,
                "create" => write::create(incoming, kind, body).await,
                "update" => write::update(incoming, kind, body).await,
                "patch" => super::patch::patch(incoming, kind, body).await,
                "delete" => write::delete(incoming, kind, body).await,
                "deletecollection" => write::delete_collection(incoming, kind, body).await,
                _ => Err(Status::method_not_allowed()),
            }
        };
        match tokio::time::timeout(deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(Status::timeout(
                "request did not complete within the allotted timeout",
                0,
            )),
        }
    }

    async fn authenticate(&self) -> Result<UserInfo, Status> {
        let connection = self.connection;
        let request = AuthenticationRequest {
            path: self.parts.uri.path(),
            headers: &self.parts.headers,
            peer_certificates: connection.certificates.as_ref().map(|c| c.as_slice()),
            certificate_user: None,
        };
        match self.server.authenticator.authenticate(&request).await {
            Ok(Some(user)) => Ok(user),
            Ok(None) => Err(Status::unauthorized("Unauthorized")),
            Err(error) => {
                tracing::debug!(%error, "Unable to authenticate the request");
                Err(Status::unauthorized("Unauthorized"))
            }
        }
    }

    async fn authorize(&self, user: &UserInfo) -> Result<(), Status> {
        let verdict = self.server.authorizer.review(user, self.info).await;
        let Verdict {
            decision,
            reason,
            error,
        } = verdict;
        if let Some(recorder) = self.recorder {
            recorder.authorized(decision == Decision::Allow, &reason);
        }
        if decision == Decision::Allow {
            return Ok(());
        }
        if let Some(error) = error {
            // Nobody knows whether it is forbidden.
            tracing::error!(error, "a request could not be authorized");
            let place = self.parts.uri.path_and_query().map_or("/", |p| p.as_str());
            return Err(Status::internal(format!(
                "Internal Server Error: {}: {error}",
                quote(place)
            )));
        }
        Err(forbidden(user, self.info, &reason))
    }

    async fn non_resource(&self, form: Negotiated) -> Result<Response<Body>, Status> {
        let path = self.parts.uri.path().trim_end_matches('/');
        let method = &self.parts.method;
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Status::method_not_allowed());
        }
        let headers = &self.parts.headers;
        let server = self.server;
        if let Some(response) = health::respond(server, path, &self.query).await {
            return Ok(response);
        }
        if let Some(response) = crate::discovery::respond(server, path, headers, &self.query, form)? {
            return Ok(response);
        }
        if let Some(documents) = &server.token_documents {
            let found = match path {
                "/.well-known/openid-configuration" => Some((&documents.configuration, "application/json")),
                "/openid/v1/jwks" => Some((&documents.keys, "application/jwk-set+json")),
                _ => None,
            };
            if let Some((text, kind)) = found {
                let mut response = text_response(StatusCode::OK, text.clone());
                let headers = response.headers_mut();
                headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(kind));
                let public = HeaderValue::from_static("public, max-age=3600");
                headers.insert(http::header::CACHE_CONTROL, public);
                return Ok(response);
            }
        }
        if let Some(response) = crate::flow::dump(&server.flow, path) {
            return Ok(response);
        }
        match path {
            "/version" => Ok(version::respond(form, headers)),
            "/metrics" => Ok(server.metrics.respond(&server.registry).await),
            _ => Ok(not_found()),
        }
    }
}

pub(super) fn not_found() -> Response<Body> {
    text_response(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn check_verb(kind: &crate::registry::Kind, info: &RequestInfo) -> Result<(), Status> {
    let served = if info.subresource.is_empty() {
        kind.info.has_verb(&info.verb)
    } else {
        match kind.info.subresource(&info.subresource) {
            Some(sub) => sub.has_verb(&info.verb),
            None => return Err(Status::path_not_found()),
        }
    };
    if served {
        Ok(())
    } else {
        Err(Status::method_not_allowed())
    }
}
