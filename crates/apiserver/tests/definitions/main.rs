//! Definitions over the wire: what is published of them, versions, names, columns, scale, the end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod declared;
mod lifecycle;
mod published;
mod rows;
mod stored;

use http::StatusCode;
use serde_json::{Value, json};
use support::{TestServer, eventually};

pub(crate) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A definition in `stable.example.com` whose versions are given, the first one stored unless they say otherwise.
pub(crate) fn definition(plural: &str, kind: &str, versions: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.stable.example.com")},
        "spec": {"group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
            "versions": versions}})
}

pub(crate) fn version(name: &str, storage: bool, schema: &Value) -> Value {
    json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema}})
}

pub(crate) async fn send(server: &TestServer, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
    let kind = match method {
        "PATCH" if body.is_array() => "application/json-patch+json",
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let (code, _, text) = server.send(method, path, &[("content-type", kind)], body).await;
    (code, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

pub(crate) async fn ok(server: &TestServer, method: &str, path: &str, body: &Value) -> Value {
    let (code, value) = send(server, method, path, body).await;
    assert!(code.is_success(), "{method} {path}: {value}");
    value
}

pub(crate) async fn get(server: &TestServer, path: &str) -> Value {
    ok(server, "GET", path, &Value::Null).await
}

pub(crate) fn condition<'a>(definition: &'a Value, kind: &str) -> &'a Value {
    let conditions = definition["status"]["conditions"].as_array();
    let found = conditions.and_then(|c| c.iter().find(|c| c["type"] == kind));
    found.unwrap_or(&Value::Null)
}

/// Creates a definition and waits until it is served.
pub(crate) async fn define(server: &TestServer, definition: &Value) {
    ok(server, "POST", DEFINITIONS, definition).await;
    let path = format!(
        "{DEFINITIONS}/{}",
        definition["metadata"]["name"].as_str().unwrap()
    );
    eventually("a definition to be established", || async {
        let found = get(server, &path).await;
        (condition(&found, "Established")["status"] == "True").then_some(())
    })
    .await;
}

pub(crate) const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

pub(crate) fn tab(api_version: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": format!("stable.example.com/{api_version}"), "kind": "CronTab", "metadata": {"name": name},
        "spec": spec})
}

/// A schema whose spec has these fields.
pub(crate) fn with_spec(fields: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": fields}, "status": {"type": "object",
        "x-kubernetes-preserve-unknown-fields": true}}})
}

/// A watch, whose events are read one by one.
pub(crate) struct Watch(support::Lines);

impl Watch {
    pub(crate) async fn start(server: &TestServer, path: &str) -> Self {
        Self(support::Lines::get(server, path).await)
    }

    pub(crate) async fn next(&mut self) -> Option<Value> {
        self.0
            .next()
            .await
            .map(|line| serde_json::from_str(&line).unwrap())
    }
}
