//! What is known about one request, and the events that it becomes.

use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Frame, SizeHint};
use jiff::Timestamp;
use keelson_api::codec::protobuf;
use keelson_api::gvk::GroupVersion;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::backend::Audit;
use super::policy::{Decision, Level};
use crate::admission::Notes;
use crate::http::{Body, BodyError, Connection};
use crate::registry::model;
use crate::request_info::RequestInfo;
use crate::user::UserInfo;

/// Largest document that is unpacked into an event.
const MAX_DOCUMENT: u64 = 8 << 20;

/// Records one request.
pub(crate) struct Recorder {
    audit: Arc<Audit>,
    received: Timestamp,
    known: Mutex<Known>,
}

/// The event so far.
struct Known {
    event: Value,
    decision: Option<Decision>,
    long_running: bool,
}

impl Recorder {
    pub(crate) fn new(
        audit: &Arc<Audit>,
        parts: &Parts,
        audit_id: &HeaderValue,
        connection: &Connection,
    ) -> Self {
        let received = Timestamp::now();
        let mut sources: Vec<String> = parts
            .headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .map(|v| v.trim().to_owned())
            .collect();
        sources.extend(connection.remote.map(|r| r.ip().to_string()));
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1",
            "auditID": String::from_utf8_lossy(audit_id.as_bytes()),
            "requestURI": parts.uri.path_and_query().map_or("/", |p| p.as_str()),
            "verb": parts.method.as_str().to_ascii_lowercase(),
            "user": {},
            "requestReceivedTimestamp": keelson_api::time::format_micro(received),
        });
        if !sources.is_empty() {
            event["sourceIPs"] = json!(sources);
        }
        if let Some(agent) = parts.headers.get(USER_AGENT) {
            event["userAgent"] = json!(String::from_utf8_lossy(agent.as_bytes()));
        }
        Self {
            audit: audit.clone(),
            received,
            known: Mutex::new(Known {
                event,
                decision: None,
                long_running: false,
            }),
        }
    }

    /// The request is this user's, who acts as `acting` perhaps. Records that it was received.
    pub(crate) async fn identified(
        &self,
        user: &UserInfo,
        acting: Option<&UserInfo>,
        info: &RequestInfo,
        long_running: bool,
    ) {
        let event = {
            let mut known = self.known.lock();
            let decision = self.audit.policy().decide(user, info);
            known.event["verb"] = json!(info.verb);
            known.event["user"] = user_value(user);
            if let Some(acting) = acting {
                known.event["impersonatedUser"] = user_value(acting);
            }
            if info.is_resource {
                known.event["objectRef"] = object_reference(info);
            }
            known.event["level"] = json!(decision.level.as_str());
            known.decision = Some(decision);
            known.long_running = long_running;
            known.stage("RequestReceived", self.received)
        };
        self.send(event).await;
    }

    /// Whether the request's body belongs into the event.
    pub(crate) fn wants_request(&self) -> bool {
        let known = self.known.lock();
        known.decision.as_ref().is_some_and(|d| d.level >= Level::Request)
    }

    /// The request's body.
    pub(crate) fn request(&self, headers: &HeaderMap, bytes: &Bytes) {
        let mut known = self.known.lock();
        if let Some(object) = document(headers, bytes) {
            known.event["requestObject"] = known.pruned(object);
        }
    }

    /// What authorization says.
    pub(crate) fn authorized(&self, allowed: bool, reason: &str) {
        let mut known = self.known.lock();
        let decision = if allowed { "allow" } else { "forbid" };
        known.event["annotations"]["authorization.k8s.io/decision"] = json!(decision);
        known.event["annotations"]["authorization.k8s.io/reason"] = json!(reason);
    }

    /// Records the answer; of a stream its beginning, and its end when it ends.
    pub(crate) async fn answered(self, response: Response<Body>, notes: &Notes) -> Response<Body> {
        let (begun, long_running) = {
            let mut known = self.known.lock();
            if known.decision.is_none() {
                // Nobody was identified: what is known of such requests is their metadata.
                let decision = self
                    .audit
                    .policy()
                    .decide(&UserInfo::default(), &RequestInfo::default());
                known.event["level"] = json!("Metadata");
                known.decision = Some(Decision {
                    level: decision.level.min(Level::Metadata),
                    ..decision
                });
            }
            for (key, value) in notes.take_annotations() {
                known.event["annotations"][key] = json!(value);
            }
            known.event["responseStatus"] = json!({"metadata": {}, "code": response.status().as_u16()});
            known.response(&response);
            let begun = if known.long_running {
                known.stage("ResponseStarted", Timestamp::now())
            } else {
                known.stage("ResponseComplete", Timestamp::now())
            };
            (begun, known.long_running)
        };
        self.send(begun).await;
        if !long_running {
            return response;
        }
        response.map(|body| {
            Body::boxed(Followed {
                body,
                recorder: Some(self),
            })
        })
    }

    async fn send(&self, event: Option<Value>) {
        if let Some(event) = event {
            self.audit.send(event).await;
        }
    }
}

impl Known {
    /// The event at a stage, unless the policy leaves it out.
    fn stage(&self, stage: &str, at: Timestamp) -> Option<Value> {
        let decision = self.decision.as_ref()?;
        if decision.level == Level::None || decision.omit_stages.iter().any(|s| s == stage) {
            return None;
        }
        let mut event = self.event.clone();
        event["stage"] = json!(stage);
        event["stageTimestamp"] = json!(keelson_api::time::format_micro(at));
        Some(event)
    }

    fn response(&mut self, response: &Response<Body>) {
        let failed = response.status().as_u16() >= 400;
        let wants_all = self
            .decision
            .as_ref()
            .is_some_and(|d| d.level == Level::RequestResponse);
        if !failed && !wants_all {
            return;
        }
        let Some(object) = response
            .body()
            .bytes()
            .and_then(|bytes| document(response.headers(), bytes))
        else {
            return;
        };
        if failed && object["kind"] == "Status" {
            let mut status = object.clone();
            if let Some(status) = status.as_object_mut() {
                status.remove("kind");
                status.remove("apiVersion");
            }
            self.event["responseStatus"] = status;
        }
        if wants_all {
            self.event["responseObject"] = self.pruned(object);
        }
    }

    /// A document without what the policy leaves out.
    fn pruned(&self, mut object: Value) -> Value {
        if !self.decision.as_ref().is_some_and(|d| d.omit_managed_fields) {
            return object;
        }
        let strip = |object: &mut Value| {
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
        };
        strip(&mut object);
        if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
            items.iter_mut().for_each(strip);
        }
        object
    }
}

fn user_value(user: &UserInfo) -> Value {
    let mut value = Map::new();
    for (field, text) in [("username", &user.name), ("uid", &user.uid)] {
        if !text.is_empty() {
            value.insert(field.to_owned(), json!(text));
        }
    }
    if !user.groups.is_empty() {
        value.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        value.insert("extra".to_owned(), json!(user.extra));
    }
    Value::Object(value)
}

fn object_reference(info: &RequestInfo) -> Value {
    let mut value = Map::new();
    for (field, text) in [
        ("resource", &info.resource),
        ("namespace", &info.namespace),
        ("name", &info.name),
        ("apiGroup", &info.api_group),
        ("apiVersion", &info.api_version),
        ("subresource", &info.subresource),
    ] {
        if !text.is_empty() {
            value.insert(field.to_owned(), json!(text));
        }
    }
    Value::Object(value)
}

/// A body as JSON; `None` when it cannot be read as such.
fn document(headers: &HeaderMap, bytes: &Bytes) -> Option<Value> {
    if bytes.is_empty() {
        return None;
    }
    let text = |name| {
        headers
            .get(name)
            .and_then(|v: &HeaderValue| v.to_str().ok())
            .unwrap_or("")
    };
    let mut plain = Vec::new();
    let bytes: &[u8] = if text(CONTENT_ENCODING) == "gzip" {
        let mut decoder = flate2::read::GzDecoder::new(bytes.as_ref()).take(MAX_DOCUMENT);
        decoder.read_to_end(&mut plain).ok()?;
        &plain
    } else {
        bytes
    };
    let kind = text(CONTENT_TYPE);
    if kind.starts_with("application/vnd.kubernetes.protobuf") {
        let decoded = protobuf::decode(bytes, |version, kind| {
            model::schema_of(&GroupVersion::parse(version).ok()?.with_kind(kind.to_owned()))
        });
        return decoded.ok();
    }
    if kind.contains("yaml") {
        return serde_yaml_ng::from_slice(bytes).ok();
    }
    serde_json::from_slice(bytes).ok()
}

/// A stream whose end is recorded.
struct Followed {
    body: Body,
    recorder: Option<Recorder>,
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let Some(recorder) = self.recorder.take() else {
            return;
        };
        let event = recorder.known.lock().stage("ResponseComplete", Timestamp::now());
        if let Some(event) = event {
            recorder.audit.send_later(event);
        }
    }
}
