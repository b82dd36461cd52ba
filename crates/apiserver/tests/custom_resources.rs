//! Custom resources over the wire: rules of the expression language, schemas, ratcheting.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use http::StatusCode;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use support::TestServer;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
const MERGE: [(&str, &str); 1] = [("content-type", "application/merge-patch+json")];

/// A definition of widgets whose spec has this schema.
fn definition(spec: &Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": spec}}}}]}})
}

async fn define(server: &TestServer, spec: &Value) {
    let (code, _, text) = server
        .send("POST", DEFINITIONS, &JSON, definition(spec).to_string())
        .await;
    assert_eq!(code, StatusCode::CREATED, "{text}");
    let definitions: Api<CustomResourceDefinition> = Api::all(server.client());
    let established = await_condition(definitions, "widgets.example.com", is_crd_established());
    tokio::time::timeout(Duration::from_secs(20), established)
        .await
        .unwrap()
        .unwrap();
}

fn widget(name: &str, spec: &Value) -> String {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

/// Creates a widget and gives the code and the message.
async fn create(server: &TestServer, name: &str, spec: &Value) -> (StatusCode, String) {
    let (code, _, text) = server.send("POST", WIDGETS, &JSON, widget(name, spec)).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    (code, answer["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn rules() {
    let server = TestServer::start().await;
    let spec = json!({"type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "messageExpression": "'min %d is above max %d'.format([self.min, self.max])"},
            {"rule": "!has(self.name) || self.name.matches('^[a-z]+$')", "message": "name is not lower case",
                "fieldPath": ".name", "reason": "FieldValueForbidden"},
            {"rule": "self.kind == oldSelf.kind", "message": "kind is immutable"},
            {"rule": "!oldSelf.hasValue() || self.max >= oldSelf.value().max", "optionalOldSelf": true, "message": "max grows only"}],
        "properties": {
            "min": {"type": "integer", "default": 0}, "max": {"type": "integer", "default": 0},
            "name": {"type": "string", "maxLength": 20}, "kind": {"type": "string", "maxLength": 20, "default": "a"},
            "ports": {"type": "array", "maxItems": 10, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"],
                    "x-kubernetes-validations": [{"rule": "self.port > 0", "message": "port must be positive"}],
                    "properties": {"name": {"type": "string", "maxLength": 10}, "port": {"type": "integer"}}}}}});
    define(&server, &spec).await;
    for (given, message) in [
        (
            json!({"min": 3, "max": 2}),
            "spec: Invalid value: \"object\": min 3 is above max 2",
        ),
        (
            json!({"name": "X"}),
            "spec.name: Forbidden: name is not lower case",
        ),
        (
            json!({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 0}]}),
            "spec.ports[1]: Invalid value: \"object\": port must be positive",
        ),
    ] {
        let (code, found) = create(&server, "bad", &given).await;
        assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{given}");
        assert!(found.contains(message), "{found}");
    }
    let (code, message) = create(&server, "w", &json!({"max": 5})).await;
    assert_eq!(code, StatusCode::CREATED, "{message}");
    for (patch, message) in [
        (json!({"spec": {"kind": "b"}}), Some("kind is immutable")),
        (json!({"spec": {"max": 4}}), Some("max grows only")),
        (json!({"spec": {"max": 6}}), None),
    ] {
        let path = format!("{WIDGETS}/w");
        let (code, _, text) = server.send("PATCH", &path, &MERGE, patch.to_string()).await;
        match message {
            Some(message) => {
                assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
                assert!(text.contains(message), "{text}");
            }
            None => assert_eq!(code, StatusCode::OK, "{text}"),
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unchanged_is_not_refused() {
    let server = TestServer::start().await;
    let open =
        json!({"type": "object", "properties": {"name": {"type": "string"}, "size": {"type": "integer"}}});
    define(&server, &open).await;
    let (code, message) = create(&server, "w", &json!({"name": "Upper", "size": 1})).await;
    assert_eq!(code, StatusCode::CREATED, "{message}");
    // The definition becomes stricter than the object is.
    let strict = json!({"spec": {"versions": [{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 20,
                "x-kubernetes-validations": [{"rule": "self != 'Upper'", "message": "not this name"}]},
            "size": {"type": "integer", "maximum": 9}}}}}}}]}});
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let (code, _, text) = server.send("PATCH", &path, &MERGE, strict.to_string()).await;
    assert_eq!(code, StatusCode::OK, "{text}");
    let path = format!("{WIDGETS}/w");
    // The new definition is in force when it refuses what the old one took.
    let refused = async {
        loop {
            let patch = json!({"spec": {"size": 10}}).to_string();
            let (code, _, _) = server
                .send("PATCH", &format!("{path}?dryRun=All"), &MERGE, patch)
                .await;
            if code == StatusCode::UNPROCESSABLE_ENTITY {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), refused)
        .await
        .unwrap();
    let (code, headers, text) = server
        .send("PATCH", &path, &MERGE, json!({"spec": {"size": 2}}).to_string())
        .await;
    assert_eq!(code, StatusCode::OK, "{text}");
    let warnings: Vec<_> = headers
        .get_all("warning")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    assert!(
        warnings.iter().any(|warning| warning.contains("not this name")),
        "{warnings:?}"
    );
    let (code, _, text) = server
        .send(
            "PATCH",
            &path,
            &MERGE,
            json!({"spec": {"name": "Other"}}).to_string(),
        )
        .await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
    assert!(
        text.contains("spec.name in body should match '^[a-z]+$'"),
        "{text}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas() {
    let server = TestServer::start().await;
    let spec = json!({"type": "object", "properties": {
        "code": {"type": "string", "pattern": "^\\d{3}$"},
        "when": {"type": "string", "format": "date-time"},
        "address": {"type": "string", "format": "ipv4"},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "step": {"type": "integer", "multipleOf": 5},
        "either": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}}});
    define(&server, &spec).await;
    for (given, message) in [
        (
            json!({"code": "12a"}),
            "spec.code: Invalid value: \"12a\": spec.code in body should match '^\\d{3}$'",
        ),
        (
            json!({"when": "yesterday"}),
            "spec.when in body must be of type date-time: \"yesterday\"",
        ),
        (
            json!({"address": "1.2.3"}),
            "spec.address in body must be of type ipv4: \"1.2.3\"",
        ),
        (json!({"set": ["a", "a"]}), "spec.set[1]: Duplicate value: \"a\""),
        (json!({"step": 7}), "spec.step in body should be a multiple of 5"),
        (
            json!({"either": {"a": "x", "b": "y"}}),
            "must validate one and only one schema (oneOf). Found multiple valid alternatives",
        ),
    ] {
        let (code, found) = create(&server, "bad", &given).await;
        assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{given}");
        assert!(found.contains(message), "{found}");
    }
    let good = json!({"code": "123", "when": "2020-01-01T00:00:00Z", "address": "1.2.3.4", "set": ["a", "b"], "step": 10,
        "either": {"a": "x"}});
    let (code, message) = create(&server, "good", &good).await;
    assert_eq!(code, StatusCode::CREATED, "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_are_judged() {
    let server = TestServer::start().await;
    let root = "spec.validation.openAPIV3Schema.properties[spec]";
    for (spec, message) in [
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.nope == 1"}]}),
            format!("{root}.x-kubernetes-validations[0].rule: Invalid value: {{\"rule\":\"self.nope == 1\"}}: compilation failed: ERROR: <input>:1:5: undefined field 'nope'"),
        ),
        (
            json!({"type": "object", "properties": {"n": {"type": "integer"}}, "x-kubernetes-validations": [{"rule": "self.n"}]}),
            "cel expression must evaluate to a bool".to_owned(),
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "true", "messageExpression": "1"}]}),
            "messageExpression must evaluate to a string".to_owned(),
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.l.all(a, self.l.all(b, a != b))"}],
                "properties": {"l": {"type": "array", "items": {"type": "string"}}}}),
            format!("{root}.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"),
        ),
        (
            json!({"type": "object", "properties": {"l": {"type": "array", "maxItems": 2, "items": {"type": "integer",
                "x-kubernetes-validations": [{"rule": "self > oldSelf"}]}}}}),
            "oldSelf cannot be used on the uncorrelatable portion of the schema within spec.validation.openAPIV3Schema.properties[spec].properties[l].items".to_owned(),
        ),
        (
            json!({"type": "object", "properties": {"x": {}}}),
            format!("{root}.properties[x].type: Required value: must not be empty for specified object fields"),
        ),
        (
            json!({"type": "object", "properties": {"x": {"type": "string", "pattern": "("}}}),
            format!("{root}.properties[x].pattern: Invalid value: \"(\""),
        ),
        (
            json!({"type": "object", "properties": {"x": {"type": "array"}}}),
            format!("{root}.properties[x].items: Required value: must be specified"),
        ),
        (
            json!({"type": "object", "properties": {"x": {"type": "integer", "maximum": 3, "default": 5}}}),
            format!("{root}.properties[x].default"),
        ),
    ] {
        let (code, _, text) = server.send("POST", DEFINITIONS, &JSON, definition(&spec).to_string()).await;
        assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{spec}: {text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        let found = answer["message"].as_str().unwrap();
        assert!(found.contains(&message), "{found}");
    }
    server.stop().await;
}
