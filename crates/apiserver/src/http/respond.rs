//! Answers in the agreed form.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY};
use http::{HeaderMap, Response, StatusCode};
use keelson_api::status::Status;

use super::body::Body;
use super::compress;
use super::negotiate::{Format, Negotiated};
use super::pretty::pretty;
use super::protobuf;

/// An answer that is one JSON document.
pub struct Reply {
    /// Status code.
    pub code: StatusCode,
    /// The document.
    pub json: Vec<u8>,
}

impl Reply {
    /// 200 with this document.
    pub fn ok(json: Vec<u8>) -> Self {
        Self {
            code: StatusCode::OK,
            json,
        }
    }

    /// The response in the agreed form.
    pub fn into_response(self, form: Negotiated, request: &HeaderMap) -> Response<Body> {
        let (bytes, form) = encode(self.json, form);
        whole_response(self.code, form.content_type(), bytes, request)
    }
}

/// 200 with a protobuf body.
pub fn protobuf_response(bytes: Vec<u8>, request: &HeaderMap) -> Response<Body> {
    let form = Negotiated {
        format: Format::Protobuf,
        ..Negotiated::JSON
    };
    whole_response(StatusCode::OK, form.content_type(), bytes.into(), request)
}

fn whole_response(
    code: StatusCode,
    content_type: &'static str,
    bytes: Bytes,
    request: &HeaderMap,
) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if bytes.len() >= compress::THRESHOLD && compress::accepts_gzip(request) {
        match compress::gzip(&bytes) {
            Ok(small) => {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
                *response.body_mut() = small.into();
                return response;
            }
            Err(error) => tracing::debug!(%error, "an answer is sent uncompressed"),
        }
    }
    *response.body_mut() = bytes.into();
    response
}

/// The answer that is made piece by piece while it is sent, `length` bytes of JSON.
pub fn chunked_response(
    chunks: impl Iterator<Item = Bytes> + Send + 'static,
    length: u64,
    request: &HeaderMap,
) -> Response<Body> {
    let gzip = length >= compress::THRESHOLD as u64 && compress::accepts_gzip(request);
    let mut response = Response::new(if gzip {
        Body::chunks(compress::GzipChunks::new(chunks), None)
    } else {
        Body::chunks(chunks, Some(length))
    });
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(Negotiated::JSON.content_type()),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

/// The document in the agreed form, and the form it really has.
fn encode(json: Vec<u8>, form: Negotiated) -> (Bytes, Negotiated) {
    let parse = |json: &[u8]| -> serde_json::Value {
        serde_json::from_slice(json).expect("invariant: answers are JSON documents")
    };
    match form.format {
        Format::Yaml => {
            let text =
                serde_yaml_ng::to_string(&parse(&json)).expect("invariant: JSON can be written as YAML");
            (text.into(), form)
        }
        Format::Protobuf => match protobuf::encode(&parse(&json)) {
            Some(bytes) => (bytes.into(), form),
            None => (
                json.into(),
                Negotiated {
                    format: Format::Json,
                    ..form
                },
            ),
        },
        Format::Json if form.pretty => (pretty(&json).into(), form),
        Format::Json => (json.into(), form),
    }
}

/// The answer of a failure.
pub fn error_response(status: &Status, form: Negotiated, request: &HeaderMap) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = serde_json::to_vec(status).expect("invariant: a Status is plain data");
    let mut response = Reply { code, json }.into_response(form, request);
    let retry = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
    if retry > 0 && matches!(status.code, 429 | 500 | 503 | 504) {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(retry));
    }
    response
}

/// A plain text answer.
pub fn text_response(code: StatusCode, text: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(text.into());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert("X-Content-Type-Options", HeaderValue::from_static("nosniff"));
    response
}
