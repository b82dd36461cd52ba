//! Conversion by a webhook: ConversionReview v1, and v1beta1 for those who know nothing newer.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode};
use serde_json::{Map, Value, json};
use url::Url;

use crate::admission::Connections;
use crate::aggregation::ca_bundle;
use crate::outbound::{Client, Place, ServiceRef, TlsOptions, client_config};
use crate::resources::Resources;

/// How long a webhook may take, as upstream's client.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer that is read.
const MAX_ANSWER: usize = 64 << 20;
const GROUP: &str = "apiextensions.k8s.io";

/// The webhook of a definition.
pub(super) struct Webhook {
    /// As errors name it, without the query.
    url: String,
    path: String,
    client: Result<Client, String>,
    /// Of `ConversionReview`.
    version: Option<&'static str>,
}

impl Webhook {
    /// Reads `spec.conversion.webhook`.
    pub(super) fn of(crd: &Value, resources: &Resources, connections: &Connections) -> Self {
        let webhook = &crd["spec"]["conversion"]["webhook"];
        let versions = webhook["conversionReviewVersions"].as_array();
        let version = versions.into_iter().flatten().find_map(|v| match v.as_str()? {
            "v1" => Some("v1"),
            "v1beta1" => Some("v1beta1"),
            _ => None,
        });
        let config = &webhook["clientConfig"];
        let bundle = ca_bundle(&config["caBundle"]);
        let connect = |place: Place, server_name: &str| {
            let tls = client_config(&TlsOptions {
                ca_bundle: &bundle,
                ..TlsOptions::default()
            })?;
            Client::new(place, server_name, tls, &connections.tasks, &connections.shutdown)
        };
        let (url, path, client) = if let Some(service) = ServiceRef::of(&config["service"]) {
            let path = config["service"]["path"].as_str().unwrap_or_default();
            let path = format!("/{}", path.trim_start_matches('/'));
            let name = service.server_name();
            let url = format!("https://{name}:{}{path}", service.port);
            let client = connect(Place::Service(service, resources.clone()), &name);
            (url, path, client)
        } else {
            let text = config["url"].as_str().unwrap_or_default();
            match Url::parse(text) {
                Ok(url) => {
                    let host = url.host_str().unwrap_or_default().to_owned();
                    let bare = host.trim_matches(['[', ']']).to_owned();
                    let port = url.port_or_known_default().unwrap_or(443);
                    let client = connect(Place::Host(bare, port), &host);
                    (text.to_owned(), url.path().to_owned(), client)
                }
                Err(error) => (
                    text.to_owned(),
                    String::new(),
                    Err(format!("parse {text:?}: {error}")),
                ),
            }
        };
        Self {
            url,
            path,
            client,
            version,
        }
    }

    /// Converts objects to `desired`, an `apiVersion`. `what` names them in errors, whose texts are upstream's and others for
    /// the items of a list.
    pub(super) async fn convert(
        &self,
        objects: &[Value],
        desired: &str,
        what: &str,
        list: bool,
    ) -> Result<Vec<Value>, String> {
        let version = self
            .version
            .ok_or_else(|| "no supported conversion review versions".to_owned())?;
        let uid = uuid::Uuid::new_v4().to_string();
        let review = json!({
            "kind": "ConversionReview", "apiVersion": format!("{GROUP}/{version}"),
            "request": {"uid": uid, "desiredAPIVersion": desired, "objects": objects},
        });
        let failed = |why: String| format!("conversion webhook for {what} failed: {why}");
        let body = self.exchange(&review).await.map_err(failed)?;
        let converted = answered(&body, version, &uid).map_err(failed)?;
        let (got, expected) = (converted.len(), objects.len());
        if got != expected {
            return Err(format!(
                "conversion webhook for {what} returned {got} objects, expected {expected}"
            ));
        }
        let pairs = objects.iter().zip(converted).enumerate();
        pairs
            .map(|(at, (original, converted))| {
                checked(original, converted, desired).map_err(|why| {
                    format!(
                        "conversion webhook for {what} returned invalid {}",
                        why.said(at, list)
                    )
                })
            })
            .collect()
    }

    async fn exchange(&self, review: &Value) -> Result<Bytes, String> {
        let seconds = TIMEOUT.as_secs();
        let failed = |why: &dyn std::fmt::Display| format!("Post \"{}?timeout={seconds}s\": {why}", self.url);
        let client = self.client.as_ref().map_err(|e| failed(e))?;
        let uri = client
            .uri(&format!("{}?timeout={seconds}s", self.path))
            .map_err(|e| failed(&e))?;
        let mut request = Request::new(Bytes::from(review.to_string()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        for (name, value) in [
            (CONTENT_TYPE, "application/json"),
            (ACCEPT, "application/json, */*"),
            (USER_AGENT, "kube-apiserver"),
        ] {
            request
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        let answer = match tokio::time::timeout(TIMEOUT, client.exchange(request, MAX_ANSWER)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => return Err(failed(&"context deadline exceeded")),
        };
        match answer.status() {
            code if code.is_success() => Ok(answer.into_body()),
            StatusCode::NOT_FOUND => Err("the server could not find the requested resource".to_owned()),
            code if code.is_server_error() => {
                let body = String::from_utf8_lossy(answer.body()).into_owned();
                Err(format!(
                    "an error on the server ({body:?}) has prevented the request from succeeding"
                ))
            }
            code => Err(format!(
                "the server rejected our request for an unknown reason ({code})"
            )),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The converted objects of an answer.
fn answered(body: &[u8], version: &str, uid: &str) -> Result<Vec<Value>, String> {
    let mut review: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    if version == "v1" {
        let (given, kind) = (text(&review["apiVersion"]), text(&review["kind"]));
        if (given, kind) != ("apiextensions.k8s.io/v1", "ConversionReview") {
            return Err(format!(
                "expected webhook response of {GROUP}/v1, Kind=ConversionReview, got {given}, Kind={kind}"
            ));
        }
    }
    let response = &mut review["response"];
    if !response.is_object() {
        return Err("no response provided".to_owned());
    }
    let got = text(&response["uid"]);
    if version == "v1" && got != uid {
        return Err(format!("expected response.uid={uid:?}, got {got:?}"));
    }
    let result = &response["result"];
    let status = text(&result["status"]);
    if status != "Success" {
        let message = text(&result["message"]);
        return Err(if message.is_empty() {
            format!("response.result.status was '{status}', not 'Success'")
        } else {
            message.to_owned()
        });
    }
    Ok(match response["convertedObjects"].take() {
        Value::Array(objects) => objects,
        _ => Vec::new(),
    })
}

/// What is wrong with a converted object.
enum Invalid {
    Kind(String),
    Object(String),
    Metadata(String),
}

impl Invalid {
    fn said(&self, at: usize, list: bool) -> String {
        match self {
            Self::Kind(why) | Self::Object(why) if list => format!("converted object at index {at}: {why}"),
            Self::Metadata(why) if list => format!("metadata in object at index {at}: {why}"),
            Self::Kind(why) => format!("object at index {at}: {why}"),
            Self::Object(why) => format!("object: {why}"),
            Self::Metadata(why) => format!("metadata: {why}"),
        }
    }
}

/// Whether it is the same object in the version that was asked for. Of its metadata, labels and annotations alone may differ.
fn checked(original: &Value, mut converted: Value, desired: &str) -> Result<Value, Invalid> {
    let got = text(&converted["apiVersion"]);
    if got != desired {
        return Err(Invalid::Kind(format!(
            "invalid groupVersion (expected {desired}, received {got})"
        )));
    }
    let (expected, got) = (text(&original["kind"]), text(&converted["kind"]));
    if expected != got {
        return Err(Invalid::Kind(format!(
            "invalid kind (expected {expected}, received {got})"
        )));
    }
    for (field, called) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (expected, got) = (
            text(&original["metadata"][field]),
            text(&converted["metadata"][field]),
        );
        if expected != got {
            return Err(Invalid::Object(format!(
                "must have the same {called}: {expected} != {got}"
            )));
        }
    }
    let invalid = |why: &str| Err(Invalid::Metadata(why.to_owned()));
    let Value::Object(given) = converted["metadata"].take() else {
        return invalid("missing metadata in converted object");
    };
    let mut metadata = original["metadata"].as_object().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match given.get(field) {
            None | Some(Value::Null) => {
                metadata.remove(field);
            }
            Some(Value::Object(map)) => {
                check_map(field, map).map_err(Invalid::Metadata)?;
                metadata.insert(field.to_owned(), Value::Object(map.clone()));
            }
            Some(_) => {
                return invalid(&format!("invalid metadata.{field} in converted object"));
            }
        }
    }
    converted["metadata"] = Value::Object(metadata);
    Ok(converted)
}

fn check_map(field: &str, map: &Map<String, Value>) -> Result<(), String> {
    match map.iter().find(|(_, value)| !value.is_string()) {
        Some((key, _)) => Err(format!(
            "metadata.{field}[{key}] must be a string in converted object"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let answer = |response: Value| {
            json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response})
                .to_string()
        };
        let check = |body: String, expected: Result<usize, &str>| {
            let got = answered(body.as_bytes(), "v1", "u").map(|objects| objects.len());
            assert_eq!(got, expected.map_err(str::to_owned));
        };
        check(
            answer(json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": [{}, {}]})),
            Ok(2),
        );
        check(
            answer(json!({"uid": "v", "result": {"status": "Success"}})),
            Err("expected response.uid=\"u\", got \"v\""),
        );
        check(
            answer(json!({"uid": "u", "result": {"status": "Failure", "message": "no"}})),
            Err("no"),
        );
        check(
            answer(json!({"uid": "u"})),
            Err("response.result.status was '', not 'Success'"),
        );
        check(answer(Value::Null), Err("no response provided"));
        check(
            json!({"kind": "X", "apiVersion": "v1"}).to_string(),
            Err(
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got v1, Kind=X",
            ),
        );
    }

    #[test]
    fn only_labels_and_annotations_may_change() {
        let original = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n", "uid": "u", "generation": 3,
            "labels": {"a": "b"}, "annotations": {"c": "d"}}});
        let converted = json!({"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "n", "uid": "u", "generation": 9,
            "labels": {"x": "y"}}, "spec": 1});
        let got = checked(&original, converted.clone(), "g/v2").ok().unwrap();
        assert_eq!(
            got,
            json!({"apiVersion": "g/v2", "kind": "K", "spec": 1,
                "metadata": {"name": "n", "uid": "u", "generation": 3, "labels": {"x": "y"}}})
        );
        for (field, value) in [
            ("apiVersion", json!("g/v3")),
            ("kind", json!("L")),
            ("metadata", json!({"name": "m"})),
        ] {
            let mut wrong = converted.clone();
            wrong[field] = value;
            assert!(checked(&original, wrong, "g/v2").is_err(), "{field}");
        }
    }
}
