//! Admission policies through HTTP.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod mutating;
#[path = "../support/mod.rs"]
mod support;
mod validating;

use serde_json::{Value, json};
use support::TestServer;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const GROUP: &str = "admissionregistration.k8s.io";

/// Path of a resource of the group.
fn path(resource: &str) -> String {
    format!("/apis/{GROUP}/v1/{resource}")
}

/// `kind` is `Validating` or `Mutating`.
fn policy(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": format!("{kind}AdmissionPolicy"),
        "metadata": {"name": name}, "spec": spec})
}

fn binding(kind: &str, name: &str, spec: Value) -> Value {
    let mut binding = policy(kind, name, spec);
    binding["kind"] = json!(format!("{kind}AdmissionPolicyBinding"));
    binding
}

/// `matchConstraints` for writes of resources (`group/version/resource`).
fn writes(resource: &str) -> Value {
    let mut parts = resource.split('/');
    let mut next = || [parts.next().unwrap()];
    json!({"resourceRules": [{"operations": ["CREATE", "UPDATE"],
        "apiGroups": next(), "apiVersions": next(), "resources": next()}]})
}

/// Makes a policy and its binding `NAME-binding`, and waits until admission sees them.
async fn install(server: &TestServer, kind: &str, name: &str, spec: Value, more: Value) {
    let (policies, bindings) = resources(kind);
    server
        .ok("POST", &path(&policies), policy(kind, name, spec))
        .await;
    let mut spec = json!({"policyName": name});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    let bound = format!("{name}-binding");
    server
        .ok("POST", &path(&bindings), binding(kind, &bound, spec))
        .await;
    server.cached(GROUP, &policies, name, true).await;
    server.cached(GROUP, &bindings, &bound, true).await;
}

async fn remove(server: &TestServer, kind: &str, name: &str) {
    let (policies, bindings) = resources(kind);
    let bound = format!("{name}-binding");
    for (resource, name) in [(bindings, bound.as_str()), (policies, name)] {
        let path = format!("{}/{name}", path(&resource));
        server.ok("DELETE", &path, Value::Null).await;
        server.cached(GROUP, &resource, name, false).await;
    }
}

fn resources(kind: &str) -> (String, String) {
    let kind = kind.to_lowercase();
    (
        format!("{kind}admissionpolicies"),
        format!("{kind}admissionpolicybindings"),
    )
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn deployment(name: &str, replicas: i64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

/// A cluster-scoped or namespaced custom resource `limits.example.com` of the kind Limit.
async fn define_limits(server: &TestServer, scope: &str) {
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "limits.example.com"},
        "spec": {"group": "example.com", "scope": scope, "names": {"plural": "limits", "kind": "Limit"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"max": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}},
                    "options": {"type": "object", "properties": {"fast": {"type": "boolean"}}}}}}}]}});
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    server.ok("POST", path, definition).await;
    support::eventually("the custom resource", || async {
        let (code, _, _) = server
            .json("GET", "/apis/example.com/v1/limits", Value::Null)
            .await;
        code.is_success().then_some(())
    })
    .await;
}
