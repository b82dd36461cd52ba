//! What extends the API: custom resources, aggregated APIs, webhooks; and certificate requests.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::rules::{self, immutable, invalid_all, required_text};
use crate::access::{flag, int, is_empty, items, text};
use crate::field::{Error, ErrorList, Path};
use crate::names;

/// `CustomResourceDefinition`: names, versions, scope. Schemas are judged by who compiles them.
pub(super) fn custom_resource_definition(errors: &mut ErrorList, path: &Path, object: &Value) {
    let spec = &object["spec"];
    let (group, given) = (text(spec, "group"), &spec["names"]);
    let expected = format!("{}.{group}", text(given, "plural"));
    let name = text(&object["metadata"], "name");
    if name != expected {
        let why = "must be spec.names.plural+\".\"+spec.group";
        errors.push(Error::invalid(&Path::new("metadata").child("name"), name, why));
    }
    if group.is_empty() {
        errors.push(Error::required(&path.child("group"), ""));
    } else {
        let messages = names::dns1123_subdomain(group);
        if messages.is_empty() && !group.contains('.') {
            let why = "should be a domain with at least one dot";
            errors.push(Error::invalid(&path.child("group"), group, why));
        }
        invalid_all(errors, &path.child("group"), group, messages);
    }
    match text(spec, "scope") {
        "" => errors.push(Error::required(&path.child("scope"), "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(Error::not_supported(
            &path.child("scope"),
            other,
            &["Cluster", "Namespaced"],
        )),
    }
    let names_path = path.child("names");
    for field in ["plural", "singular"] {
        let value = text(given, field);
        if value.is_empty() && field == "plural" {
            errors.push(Error::required(&names_path.child(field), ""));
        } else if !value.is_empty() {
            invalid_all(
                errors,
                &names_path.child(field),
                value,
                names::dns1035_label(value),
            );
        }
    }
    for field in ["kind", "listKind"] {
        let value = text(given, field);
        if value.is_empty() {
            errors.push(Error::required(&names_path.child(field), ""));
        } else {
            let messages = names::dns1035_label(&value.to_lowercase());
            let messages = messages
                .into_iter()
                .map(|m| format!("may have mixed case, but should otherwise match: {m}"))
                .collect();
            invalid_all(errors, &names_path.child(field), value, messages);
        }
    }
    if !text(given, "kind").is_empty() && given["kind"] == given["listKind"] {
        let why = "kind and listKind may not be the same";
        errors.push(Error::invalid(
            &names_path.child("listKind"),
            text(given, "listKind"),
            why,
        ));
    }
    versions(errors, &path.child("versions"), items(&spec["versions"]));
}

fn versions(errors: &mut ErrorList, path: &Path, versions: &[Value]) {
    let mut seen = Vec::new();
    for (at, version) in versions.iter().enumerate() {
        let path = path.index(at);
        let name = text(version, "name");
        invalid_all(errors, &path.child("name"), name, names::dns1035_label(name));
        if seen.contains(&name) {
            errors.push(Error::invalid(&path.child("name"), name, "must be unique"));
        }
        seen.push(name);
        if !version["schema"]["openAPIV3Schema"].is_object() {
            let why = "schemas are required";
            errors.push(Error::required(
                &path.children(&["schema", "openAPIV3Schema"]),
                why,
            ));
        }
    }
    if versions.iter().filter(|version| flag(version, "storage")).count() != 1 {
        let given = Value::from(versions.to_vec());
        let why = "must have exactly one version marked as storage version";
        errors.push(Error::invalid(path, given, why));
    }
}

/// What of a definition stays.
pub(super) fn custom_resource_definition_update(
    errors: &mut ErrorList,
    path: &Path,
    new: &Value,
    old: &Value,
) {
    let (spec, before) = (&new["spec"], &old["spec"]);
    immutable(errors, &path.child("group"), &spec["group"], &before["group"]);
    let established = items(&old["status"]["conditions"])
        .iter()
        .any(|c| c["type"] == "Established" && c["status"] == "True");
    if established {
        immutable(errors, &path.child("scope"), &spec["scope"], &before["scope"]);
        let names_path = path.child("names");
        for field in ["kind", "plural"] {
            immutable(
                errors,
                &names_path.child(field),
                &spec["names"][field],
                &before["names"][field],
            );
        }
    }
}

/// `APIService`
pub(super) fn api_service(errors: &mut ErrorList, path: &Path, object: &Value) {
    let spec = &object["spec"];
    let name = text(&object["metadata"], "name");
    let expected = format!("{}.{}", text(spec, "version"), text(spec, "group"));
    if name != expected {
        let why = format!(
            "must be `spec.version+\".\"+spec.group`: {}",
            crate::field::quote(&expected)
        );
        errors.push(Error::invalid(&Path::new("metadata").child("name"), name, why));
    }
    if !spec["service"].is_object() {
        if !is_empty(&spec["caBundle"]) {
            let why = "local APIServices may not have a caBundle";
            errors.push(Error::invalid(
                &path.child("caBundle"),
                spec["caBundle"].clone(),
                why,
            ));
        }
    } else {
        for field in ["namespace", "name"] {
            required_text(errors, &path.child("service"), &spec["service"], field);
        }
    }
    if flag(spec, "insecureSkipTLSVerify") && !is_empty(&spec["caBundle"]) {
        let why = "may not be true if caBundle is present";
        errors.push(Error::invalid(&path.child("insecureSkipTLSVerify"), true, why));
    }
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
        let given = int(spec, field);
        if given <= 0 || given > most {
            let why = format!("must be positive and less than {most}");
            errors.push(Error::invalid(&path.child(field), given, why));
        }
    }
}

/// `ValidatingWebhookConfiguration` and `MutatingWebhookConfiguration`
pub(super) fn webhooks(errors: &mut ErrorList, _spec: &Path, object: &Value) {
    let mut seen = Vec::new();
    for (at, hook) in items(&object["webhooks"]).iter().enumerate() {
        let path = Path::new("webhooks").index(at);
        let name = text(hook, "name");
        webhook(errors, &path, hook);
        if seen.contains(&name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
        seen.push(name);
    }
}

fn webhook(errors: &mut ErrorList, path: &Path, hook: &Value) {
    let name = text(hook, "name");
    if name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    } else {
        let messages = names::dns1123_subdomain(name);
        if messages.is_empty() && name.split('.').count() < 3 {
            let why = "should be a domain with at least three segments separated by dots";
            errors.push(Error::invalid(&path.child("name"), name, why));
        }
        invalid_all(errors, &path.child("name"), name, messages);
    }
    if is_empty(&hook["admissionReviewVersions"]) {
        let why = "must specify one of v1, v1beta1";
        errors.push(Error::required(&path.child("admissionReviewVersions"), why));
    } else if !items(&hook["admissionReviewVersions"])
        .iter()
        .any(|v| v == "v1" || v == "v1beta1")
    {
        let why = "must include at least one of v1, v1beta1";
        errors.push(Error::invalid(
            &path.child("admissionReviewVersions"),
            hook["admissionReviewVersions"].clone(),
            why,
        ));
    }
    match text(hook, "sideEffects") {
        "" => errors.push(Error::required(
            &path.child("sideEffects"),
            "must specify one of None, NoneOnDryRun",
        )),
        "None" | "NoneOnDryRun" => {}
        other => errors.push(Error::not_supported(
            &path.child("sideEffects"),
            other,
            &["None", "NoneOnDryRun"],
        )),
    }
    if let Some(seconds) = hook["timeoutSeconds"].as_i64().filter(|s| !(1..=30).contains(s)) {
        let why = "the timeout value must be between 1 and 30 seconds";
        errors.push(Error::invalid(&path.child("timeoutSeconds"), seconds, why));
    }
    for field in ["namespaceSelector", "objectSelector"] {
        rules::label_selector(errors, &path.child(field), &hook[field]);
    }
    let config = &hook["clientConfig"];
    let config_path = path.child("clientConfig");
    match (config["url"].as_str(), config["service"].is_object()) {
        (Some(_), true) | (None, false) => {
            errors.push(Error::required(
                &config_path,
                "exactly one of url or service is required",
            ));
        }
        (Some(url), false) => {
            if !url.starts_with("https://") {
                let why = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
                errors.push(Error::invalid(&config_path.child("url"), url, why));
            }
        }
        (None, true) => {
            let path = config_path.child("service");
            required_text(errors, &path, &config["service"], "name");
            required_text(errors, &path, &config["service"], "namespace");
        }
    }
    for (at, rule) in items(&hook["rules"]).iter().enumerate() {
        let path = path.child("rules").index(at);
        for field in ["operations", "apiGroups", "apiVersions", "resources"] {
            let list = items(&rule[field]);
            if list.is_empty() {
                errors.push(Error::required(&path.child(field), ""));
            } else if list.len() > 1 && list.iter().any(|v| v == "*") && field != "resources" {
                let what = match field {
                    "operations" => "operations",
                    "apiGroups" => "API groups",
                    _ => "API versions",
                };
                let why = format!("if '*' is present, must not specify other {what}");
                errors.push(Error::invalid(&path.child(field), rule[field].clone(), why));
            }
        }
    }
}

/// `CertificateSigningRequest`
pub(super) fn certificate_request(errors: &mut ErrorList, path: &Path, object: &Value) {
    let spec = &object["spec"];
    let bytes = STANDARD.decode(text(spec, "request")).unwrap_or_default();
    let pem = String::from_utf8_lossy(&bytes);
    if !pem.contains("-----BEGIN CERTIFICATE REQUEST-----") {
        let why = "PEM block type must be CERTIFICATE REQUEST";
        errors.push(Error::invalid(
            &path.child("request"),
            spec["request"].clone(),
            why,
        ));
    }
    if is_empty(&spec["usages"]) {
        errors.push(Error::required(&path.child("usages"), ""));
    }
    let signer = required_text(errors, path, spec, "signerName");
    if !signer.is_empty() && signer.split('/').count() != 2 {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(Error::invalid(&path.child("signerName"), signer, why));
    }
    if let Some(seconds) = spec["expirationSeconds"].as_i64().filter(|s| *s < 600) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(Error::invalid(&path.child("expirationSeconds"), seconds, why));
    }
}
