//! What extends the API: custom resources, aggregated APIs, webhooks, admission policies.

use serde_json::{Map, Value, json};

use crate::access::{
    Fields, child, default_nonzero, default_text, default_to, each, ensure, is_nil, is_unset, str_of,
};

fn empty(fields: &mut Fields, key: &str) {
    if is_nil(fields, key) {
        fields.insert(key.to_owned(), Value::Object(Map::new()));
    }
}

/// `CustomResourceDefinition`: names, conversion, and the version that is stored.
pub(super) fn custom_resource_definition(fields: &mut Fields) {
    let spec = ensure(fields, "spec");
    let names = ensure(spec, "names");
    let kind = str_of(names, "kind").to_owned();
    if is_unset(names, "singular") {
        names.insert("singular".to_owned(), Value::from(kind.to_lowercase()));
    }
    if is_unset(names, "listKind") && !kind.is_empty() {
        names.insert("listKind".to_owned(), Value::from(format!("{kind}List")));
    }
    if is_nil(spec, "conversion") {
        spec.insert("conversion".to_owned(), json!({"strategy": "None"}));
    }
    let conversion = ensure(spec, "conversion");
    if let Some(config) = child(conversion, "webhook").and_then(|webhook| child(webhook, "clientConfig")) {
        service_port(config);
    }
    let versions = spec
        .get("versions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let mut stored = versions
        .filter(|version| version["storage"] == true)
        .map(|version| version["name"].clone());
    let stored = stored.next();
    let status = ensure(fields, "status");
    if is_unset(status, "storedVersions")
        && let Some(version) = stored
    {
        status.insert("storedVersions".to_owned(), json!([version]));
    }
}

fn service_port(config: &mut Fields) {
    if let Some(service) = child(config, "service") {
        default_nonzero(service, "port", 443);
    }
}

/// `APIService`.
pub(super) fn api_service(fields: &mut Fields) {
    if let Some(spec) = child(fields, "spec") {
        service_port(spec);
    }
}

fn webhook(webhook: &mut Fields) {
    default_to(webhook, "failurePolicy", "Fail");
    default_to(webhook, "matchPolicy", "Equivalent");
    empty(webhook, "namespaceSelector");
    empty(webhook, "objectSelector");
    default_to(webhook, "timeoutSeconds", 10);
    each(webhook, "rules", |rule| default_to(rule, "scope", "*"));
    if let Some(config) = child(webhook, "clientConfig") {
        service_port(config);
    }
}

/// `ValidatingWebhookConfiguration`.
pub(super) fn validating_webhooks(fields: &mut Fields) {
    each(fields, "webhooks", webhook);
}

/// `MutatingWebhookConfiguration`.
pub(super) fn mutating_webhooks(fields: &mut Fields) {
    each(fields, "webhooks", |hook| {
        webhook(hook);
        default_to(hook, "reinvocationPolicy", "Never");
    });
}

fn match_resources(spec: &mut Fields, key: &str) {
    if let Some(resources) = child(spec, key) {
        default_to(resources, "matchPolicy", "Equivalent");
        empty(resources, "namespaceSelector");
        empty(resources, "objectSelector");
        for list in ["resourceRules", "excludeResourceRules"] {
            each(resources, list, |rule| default_to(rule, "scope", "*"));
        }
    }
}

/// `ValidatingAdmissionPolicy`.
pub(super) fn validating_policy(fields: &mut Fields) {
    let spec = ensure(fields, "spec");
    default_to(spec, "failurePolicy", "Fail");
    match_resources(spec, "matchConstraints");
}

/// `MutatingAdmissionPolicy`.
pub(super) fn mutating_policy(fields: &mut Fields) {
    let spec = ensure(fields, "spec");
    default_to(spec, "failurePolicy", "Fail");
    default_text(spec, "reinvocationPolicy", "Never");
    match_resources(spec, "matchConstraints");
}

/// `ValidatingAdmissionPolicyBinding` and `MutatingAdmissionPolicyBinding`.
pub(super) fn policy_binding(fields: &mut Fields) {
    match_resources(ensure(fields, "spec"), "matchResources");
}
