//! `metav1.Status`: the one form in which the API reports an error, with upstream's constructors and texts.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::field::{self, quote};
use crate::gvk::{GroupKind, GroupResource};

/// Machine-readable reason of a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// No reason given.
    #[default]
    #[serde(rename = "")]
    Unknown,
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 404
    NotFound,
    /// 409
    AlreadyExists,
    /// 409
    Conflict,
    /// 410: the resource will not come back
    Gone,
    /// 422
    Invalid,
    /// 500: try again later
    ServerTimeout,
    /// 500: the store could not be read
    StoreReadError,
    /// 504
    Timeout,
    /// 429
    TooManyRequests,
    /// 400
    BadRequest,
    /// 405
    MethodNotAllowed,
    /// 406
    NotAcceptable,
    /// 413
    RequestEntityTooLarge,
    /// 415
    UnsupportedMediaType,
    /// 500
    InternalError,
    /// 410: the resource version or continue token is too old
    Expired,
    /// 503
    ServiceUnavailable,
}

impl Reason {
    /// Whether there is no reason.
    pub fn is_unknown(&self) -> bool {
        *self == Self::Unknown
    }
}

/// A `metav1.Status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Always `Status`.
    #[serde(default = "status_kind")]
    pub kind: String,
    /// Always `v1`.
    #[serde(default = "status_version")]
    pub api_version: String,
    /// List metadata; empty for errors.
    #[serde(default)]
    pub metadata: StatusMetadata,
    /// `Success` or `Failure`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// Text for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Reason for programs.
    #[serde(default, skip_serializing_if = "Reason::is_unknown")]
    pub reason: Reason,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
    /// HTTP status code.
    #[serde(default)]
    pub code: u16,
}

/// The `metadata` of a `Status`: a `metav1.ListMeta`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusMetadata {
    /// Resource version, when the answer has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Continue token, when a list can go on inconsistently.
    #[serde(default, rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_token: String,
}

/// What a status is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusDetails {
    /// Name of the object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Kind or resource.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// UID of the object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The single things that went wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    /// Seconds to wait before trying again; 0 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

/// One of the things that went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusCause {
    /// Cause type (`FieldValueInvalid`, `FieldManagerConflict`).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Text for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Path of the field.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

fn status_kind() -> String {
    "Status".to_owned()
}

fn status_version() -> String {
    "v1".to_owned()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

fn about(gr: &GroupResource, name: &str) -> StatusDetails {
    StatusDetails {
        name: name.to_owned(),
        group: gr.group.to_string(),
        kind: gr.resource.to_string(),
        ..StatusDetails::default()
    }
}

impl Status {
    /// A failure with this code, reason and message.
    pub fn failure(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            kind: status_kind(),
            api_version: status_version(),
            metadata: StatusMetadata::default(),
            status: "Failure".to_owned(),
            message: message.into(),
            reason,
            details: None,
            code,
        }
    }

    /// A success (code 200), with details of what it was about.
    pub fn success(details: Option<StatusDetails>) -> Self {
        Self {
            status: "Success".to_owned(),
            details,
            ..Self::failure(200, Reason::Unknown, "")
        }
    }

    /// The same status with these details.
    #[must_use]
    pub fn with_details(mut self, details: StatusDetails) -> Self {
        self.details = Some(details);
        self
    }

    /// The same status with one more cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: impl Into<String>) -> Self {
        let cause = StatusCause {
            reason: reason.to_owned(),
            message: message.into(),
            field: field.into(),
        };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// The same status with a time after which to try again.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// 404: no object of this name.
    pub fn not_found(gr: &GroupResource, name: &str) -> Self {
        Self::failure(404, Reason::NotFound, format!("{gr} {} not found", quote(name)))
            .with_details(about(gr, name))
    }

    /// 404: no such path.
    pub fn path_not_found() -> Self {
        Self::failure(
            404,
            Reason::NotFound,
            "the server could not find the requested resource",
        )
        .with_details(StatusDetails::default())
    }

    /// 409: an object of this name exists.
    pub fn already_exists(gr: &GroupResource, name: &str) -> Self {
        Self::failure(
            409,
            Reason::AlreadyExists,
            format!("{gr} {} already exists", quote(name)),
        )
        .with_details(about(gr, name))
    }

    /// 409: no free name was found for a `generateName`.
    pub fn generate_name_conflict(gr: &GroupResource, name: &str, retry_after_seconds: u32) -> Self {
        let message = format!(
            "{gr} {} already exists, the server was not able to generate a unique name for the object",
            quote(name)
        );
        Self::failure(409, Reason::AlreadyExists, message)
            .with_details(about(gr, name))
            .with_retry_after(retry_after_seconds)
    }

    /// 409: the update lost against another one.
    pub fn conflict(gr: &GroupResource, name: &str, why: impl fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {gr} {}: {why}", quote(name));
        Self::failure(409, Reason::Conflict, message).with_details(about(gr, name))
    }

    /// 409: the usual stale-resource-version conflict.
    pub fn stale(gr: &GroupResource, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(gr, name, why)
    }

    /// 409: fields are owned by other managers; `causes` one per manager and field.
    pub fn apply_conflict(causes: Vec<StatusCause>, message: impl Into<String>) -> Self {
        Self::failure(409, Reason::Conflict, message).with_details(StatusDetails {
            causes,
            ..StatusDetails::default()
        })
    }

    /// 422: the object is invalid.
    pub fn invalid(gk: &GroupKind, name: &str, errors: &[field::Error]) -> Self {
        let head = format!("{gk} {} is invalid", quote(name));
        let message = if errors.is_empty() {
            head
        } else {
            format!("{head}: {}", field::aggregate(errors))
        };
        let causes = errors
            .iter()
            .map(|e| StatusCause {
                reason: e.kind.cause().to_owned(),
                message: e.body(),
                field: if e.path == "<nil>" {
                    String::new()
                } else {
                    e.path.clone()
                },
            })
            .collect();
        Self::failure(422, Reason::Invalid, message).with_details(StatusDetails {
            name: name.to_owned(),
            group: gk.group.to_string(),
            kind: gk.kind.to_string(),
            causes,
            ..StatusDetails::default()
        })
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, Reason::BadRequest, message)
    }

    /// 401: no identity.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        let message: String = message.into();
        let message = if message.is_empty() {
            "not authorized".to_owned()
        } else {
            message
        };
        Self::failure(401, Reason::Unauthorized, message)
    }

    /// 403: not allowed; an empty resource or name is left out of the message.
    pub fn forbidden(gr: &GroupResource, name: &str, why: impl fmt::Display) -> Self {
        let message = if gr.resource.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{gr} is forbidden: {why}")
        } else {
            format!("{gr} {} is forbidden: {why}", quote(name))
        };
        Self::failure(403, Reason::Forbidden, message).with_details(about(gr, name))
    }

    /// 405: the resource does not serve this verb.
    pub fn method_not_supported(gr: &GroupResource, action: &str) -> Self {
        let message = format!(
            "{action} is not supported on resources of kind {}",
            quote(&gr.to_string())
        );
        Self::failure(405, Reason::MethodNotAllowed, message).with_details(about(gr, ""))
    }

    /// 405: the path does not serve this HTTP method.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::failure(405, Reason::MethodNotAllowed, message).with_details(StatusDetails::default())
    }

    /// 410: gone for good.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::failure(410, Reason::Gone, message)
    }

    /// 410: the resource version or continue token is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, Reason::Expired, message)
    }

    /// 500: something that must not happen did.
    pub fn internal(error: impl fmt::Display) -> Self {
        Self::failure(
            500,
            Reason::InternalError,
            format!("Internal error occurred: {error}"),
        )
        .with_details(StatusDetails {
            causes: vec![StatusCause {
                message: error.to_string(),
                ..StatusCause::default()
            }],
            ..StatusDetails::default()
        })
    }

    /// 429 with a time to wait.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::failure(429, Reason::TooManyRequests, message)
            .with_details(StatusDetails::default())
            .with_retry_after(retry_after_seconds)
    }

    /// 503: not now.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, Reason::ServiceUnavailable, message)
    }

    /// 500 `ServerTimeout`: the operation can be tried again.
    pub fn server_timeout(gr: &GroupResource, operation: &str, retry_after_seconds: u32) -> Self {
        let message = format!(
            "The {operation} operation against {gr} could not be completed at this time, please try again."
        );
        Self::failure(500, Reason::ServerTimeout, message)
            .with_details(about(gr, operation))
            .with_retry_after(retry_after_seconds)
    }

    /// 504: the request took too long.
    pub fn timeout(message: impl fmt::Display, retry_after_seconds: u32) -> Self {
        Self::failure(504, Reason::Timeout, format!("Timeout: {message}"))
            .with_details(StatusDetails::default())
            .with_retry_after(retry_after_seconds)
    }

    /// 504 with cause `ResourceVersionTooLarge`: the requested revision lies in the future.
    pub fn too_large_resource_version(requested: u64, current: u64) -> Self {
        Self::timeout(
            format_args!("Too large resource version: {requested}, current: {current}"),
            1,
        )
        .with_cause("ResourceVersionTooLarge", "Too large resource version", "")
    }

    /// 413: the body is too large.
    pub fn request_entity_too_large(message: impl fmt::Display) -> Self {
        Self::failure(
            413,
            Reason::RequestEntityTooLarge,
            format!("Request entity too large: {message}"),
        )
    }

    /// 415: the body's media type is none of `accepted`.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::failure(415, Reason::UnsupportedMediaType, message)
    }

    /// 406: the client accepts none of `accepted`.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!(
            "only the following media types are accepted: {}",
            accepted.join(", ")
        );
        Self::failure(406, Reason::NotAcceptable, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Path;
    use serde_json::json;

    #[test]
    fn wire_form() {
        let status = Status::not_found(&GroupResource::new("apps", "deployments"), "web");
        let expected = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "deployments.apps \"web\" not found", "reason": "NotFound",
            "details": {"name": "web", "group": "apps", "kind": "deployments"}, "code": 404
        });
        assert_eq!(serde_json::to_value(&status).expect("serializable"), expected);
        assert_eq!(
            serde_json::from_value::<Status>(expected).expect("deserializable"),
            status
        );
    }

    #[test]
    fn invalid_has_causes() {
        let path = Path::new("spec").child("x");
        let errors = [
            field::Error::required(&path, "why"),
            field::Error::invalid(&path, 3, "no"),
        ];
        let status = Status::invalid(&GroupKind::new("", "Pod"), "p", &errors);
        assert_eq!(
            status.message,
            "Pod \"p\" is invalid: [spec.x: Required value: why, spec.x: Invalid value: 3: no]"
        );
        let causes = status.details.expect("details").causes;
        assert_eq!(causes[1].reason, "FieldValueInvalid");
        assert_eq!(causes[1].message, "Invalid value: 3: no");
        assert_eq!(causes[1].field, "spec.x");
    }

    #[test]
    fn texts() {
        let gr = GroupResource::new("", "pods");
        let check = |status: Status, code: u16, text: &str| {
            assert_eq!((status.code, status.message.as_str()), (code, text));
        };
        check(
            Status::conflict(&gr, "a", "x"),
            409,
            "Operation cannot be fulfilled on pods \"a\": x",
        );
        check(Status::forbidden(&gr, "", "no"), 403, "pods is forbidden: no");
        check(
            Status::forbidden(&GroupResource::default(), "", "no"),
            403,
            "forbidden: no",
        );
        check(
            Status::method_not_supported(&gr, "patch"),
            405,
            "patch is not supported on resources of kind \"pods\"",
        );
        check(Status::internal("boom"), 500, "Internal error occurred: boom");
        check(Status::unauthorized(""), 401, "not authorized");
        check(
            Status::too_large_resource_version(5, 3),
            504,
            "Timeout: Too large resource version: 5, current: 3",
        );
    }
}
