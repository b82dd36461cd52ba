//! One call of one hook.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use keelson_api::status::Status;
use serde_json::Value;

use super::hook::Hook;
use super::review::{self, Verdict};
use crate::admission::Attributes;
use crate::admission::matching::{Invocation, convert};

/// Largest answer that is read.
const MAX_ANSWER: usize = 16 << 20;

/// Why a hook did not allow a request.
#[expect(clippy::large_enum_variant, reason = "made once per refused request")]
pub(super) enum CallError {
    /// It could not be asked, or its answer makes no sense: `failurePolicy` decides.
    Failed(String),
    /// It refused, or the request itself is at fault.
    Refused(Status),
}

/// Asks a hook. Warnings and annotations are noted.
pub(super) async fn call(
    hook: &Hook,
    attributes: &Attributes<'_>,
    invocation: &Invocation,
    object: Option<&Value>,
    mutating: bool,
) -> Result<Verdict, CallError> {
    if attributes.dry_run && !hook.dry_run {
        return Err(CallError::Refused(Status::bad_request(format!(
            "admission webhook {:?} does not support dry run",
            hook.name
        ))));
    }
    let uid = uuid::Uuid::new_v4().to_string();
    let old = match (attributes.old_object, &invocation.conversion) {
        (Some(old), Some((from, to))) => Some(convert(from, to, old).map_err(CallError::Refused)?),
        _ => None,
    };
    let question = review::request(
        &uid,
        attributes,
        invocation,
        object,
        old.as_ref().or(attributes.old_object),
    );
    let body = exchange(hook, &question)
        .await
        .map_err(|reason| CallError::Failed(format!("failed to call webhook: {reason}")))?;
    let verdict = review::response(&body, &uid, mutating)
        .map_err(|reason| CallError::Failed(format!("received invalid webhook response: {reason}")))?;
    for (key, value) in &verdict.annotations {
        attributes.notes.annotate(format!("{}/{key}", hook.name), value);
    }
    for warning in &verdict.warnings {
        attributes.notes.warn(warning);
    }
    if verdict.allowed {
        Ok(verdict)
    } else {
        Err(CallError::Refused(review::denial(
            &hook.name,
            verdict.status.as_ref(),
        )))
    }
}

async fn exchange(hook: &Hook, question: &Value) -> Result<Bytes, String> {
    let target = &hook.target;
    let seconds = hook.timeout.as_secs();
    let failed = |why: &dyn std::fmt::Display| format!("Post \"{}?timeout={seconds}s\": {why}", target.url);
    let client = target.client.as_ref().map_err(|e| failed(e))?;
    let uri = client
        .uri(&format!("{}?timeout={seconds}s", target.path))
        .map_err(|e| failed(&e))?;
    let mut request = Request::new(Bytes::from(question.to_string()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    for (name, value) in [
        (CONTENT_TYPE, "application/json"),
        (ACCEPT, "application/json, */*"),
        (USER_AGENT, "kube-apiserver-admission"),
    ] {
        request
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    match tokio::time::timeout(hook.timeout, client.exchange(request, MAX_ANSWER)).await {
        Ok(Ok(response)) => answered(response),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(failed(&"context deadline exceeded")),
    }
}

/// The body of a success; failures in the words of upstream's client.
fn answered(response: Response<Bytes>) -> Result<Bytes, String> {
    let code = response.status();
    if code.is_success() {
        return Ok(response.into_body());
    }
    let body = String::from_utf8_lossy(response.body()).into_owned();
    Err(match code {
        StatusCode::NOT_FOUND => "the server could not find the requested resource".to_owned(),
        StatusCode::UNAUTHORIZED => "the server has asked for the client to provide credentials".to_owned(),
        StatusCode::FORBIDDEN => format!("{} is forbidden", body.trim()),
        StatusCode::SERVICE_UNAVAILABLE => "the server is currently unable to handle the request".to_owned(),
        code if code.is_server_error() => {
            format!("an error on the server ({body:?}) has prevented the request from succeeding")
        }
        code => format!("the server rejected our request for an unknown reason ({code})"),
    })
}
