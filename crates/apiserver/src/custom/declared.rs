//! What a definition declares beside its schemas: conversion, subresources, columns, selectable fields, deprecation.

use keelson_api::field::{Error, ErrorList, Path};
use keelson_api::names;
use serde_json::Value;

use super::jsonpath::JsonPath;

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 14] = [
    "byte",
    "date",
    "date-time",
    "double",
    "email",
    "float",
    "hostname",
    "int32",
    "int64",
    "ipv4",
    "ipv6",
    "name",
    "password",
    "uri",
];

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    value[field].as_array().into_iter().flatten().enumerate()
}

/// Judges everything but schemas and names.
pub(super) fn validate(crd: &Value, errors: &mut ErrorList) {
    let spec = Path::new("spec");
    conversion(&crd["spec"]["conversion"], &spec.child("conversion"), errors);
    for (at, version) in items(&crd["spec"], "versions") {
        let path = spec.child("versions").index(at);
        deprecation(version, &path.child("deprecationWarning"), errors);
        scale(
            &version["subresources"]["scale"],
            &path.children(&["subresources", "scale"]),
            errors,
        );
        for (at, column) in items(version, "additionalPrinterColumns") {
            self::column(column, &path.child("additionalPrinterColumns").index(at), errors);
        }
        selectable(version, &path.child("selectableFields"), errors);
    }
}

fn conversion(conversion: &Value, path: &Path, errors: &mut ErrorList) {
    let webhook = &conversion["webhook"];
    let versions = webhook["conversionReviewVersions"].as_array();
    let versions = versions.map(Vec::as_slice).unwrap_or_default();
    let config_path = path.child("webhookClientConfig");
    let versions_path = path.child("conversionReviewVersions");
    match text(conversion, "strategy") {
        "Webhook" => {
            let config = &webhook["clientConfig"];
            if !config.is_object() {
                let why = "required when strategy is set to Webhook";
                errors.push(Error::required(&config_path, why));
            } else if config["url"].is_string() == config["service"].is_object() {
                let why = "exactly one of url or service is required";
                errors.push(Error::required(&config_path, why));
            } else if let Some(url) = config["url"].as_str() {
                let path = config_path.child("url");
                match url::Url::parse(url) {
                    Ok(parsed) if parsed.scheme() == "https" && parsed.has_host() => {}
                    Ok(parsed) if parsed.scheme() != "https" => {
                        let why =
                            "'https' is the only allowed URL scheme; desired format: https://host[/path]";
                        errors.push(Error::invalid(&path, parsed.scheme(), why));
                    }
                    _ => {
                        let why = "host must be specified; desired format: https://host[/path]";
                        errors.push(Error::invalid(&path, "", why));
                    }
                }
            } else {
                for field in ["name", "namespace"] {
                    if text(&config["service"], field).is_empty() {
                        let path = config_path.child("service").child(field);
                        errors.push(Error::required(&path, format!("service {field} is required")));
                    }
                }
            }
            review_versions(versions, &versions_path, errors);
        }
        "None" => {
            let why = "should not be set when strategy is not set to Webhook";
            if webhook["clientConfig"].is_object() {
                errors.push(Error::forbidden(&config_path, why));
            }
            if !versions.is_empty() {
                errors.push(Error::forbidden(&versions_path, why));
            }
        }
        "" => errors.push(Error::required(&path.child("strategy"), "")),
        other => errors.push(Error::not_supported(
            &path.child("strategy"),
            other,
            &["None", "Webhook"],
        )),
    }
}

fn review_versions(versions: &[Value], path: &Path, errors: &mut ErrorList) {
    if versions.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    for (at, version) in versions.iter().enumerate() {
        let name = version.as_str().unwrap_or_default();
        if versions[..at].contains(version) {
            errors.push(Error::invalid(&path.index(at), name, "duplicate version"));
            continue;
        }
        for message in names::dns1035_label(name) {
            errors.push(Error::invalid(&path.index(at), name, message));
        }
    }
    if !versions.iter().any(|v| *v == "v1" || *v == "v1beta1") {
        let why = "must include at least one of v1, v1beta1";
        errors.push(Error::invalid(path, Value::from(versions.to_vec()), why));
    }
}

fn deprecation(version: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(warning) = version["deprecationWarning"].as_str() else {
        return;
    };
    let mut refuse = |why: &str| errors.push(Error::invalid(path, warning, why));
    if version["deprecated"] != true {
        refuse("can only be set for deprecated versions");
        return;
    }
    if warning.is_empty() {
        refuse("must not be an empty string");
    }
    if warning.len() > 256 {
        refuse("must be <= 256 characters long");
    }
    if let Some(at) = warning.find(char::is_control) {
        refuse(&format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {at}"
        ));
    }
}

/// Whether it is a path of plain fields below one of `roots`.
fn below(path: &str, roots: &[&str]) -> bool {
    let simple = path
        .split('.')
        .skip(1)
        .all(|part| !part.is_empty() && !part.contains('['));
    simple && roots.iter().any(|root| path.starts_with(root))
}

fn scale(scale: &Value, path: &Path, errors: &mut ErrorList) {
    if !scale.is_object() {
        return;
    }
    for (field, roots, required, why) in [
        (
            "specReplicasPath",
            &[".spec."][..],
            true,
            "should be a json path under .spec",
        ),
        (
            "statusReplicasPath",
            &[".status."][..],
            true,
            "should be a json path under .status",
        ),
        (
            "labelSelectorPath",
            &[".status.", ".spec."][..],
            false,
            "should be a json path under either .status or .spec",
        ),
    ] {
        let given = text(scale, field);
        if given.is_empty() {
            if required {
                errors.push(Error::required(&path.child(field), ""));
            }
        } else if !below(given, roots) {
            errors.push(Error::invalid(&path.child(field), given, why));
        }
    }
}

fn column(column: &Value, path: &Path, errors: &mut ErrorList) {
    if text(column, "name").is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    let kind = text(column, "type");
    if kind.is_empty() {
        let why = format!("must be one of {}", COLUMN_TYPES.join(","));
        errors.push(Error::required(&path.child("type"), why));
    } else if !COLUMN_TYPES.contains(&kind) {
        let why = format!("must be one of {}", COLUMN_TYPES.join(","));
        errors.push(Error::invalid(&path.child("type"), kind, why));
    }
    let format = text(column, "format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        let why = format!("must be one of {}", COLUMN_FORMATS.join(","));
        errors.push(Error::invalid(&path.child("format"), format, why));
    }
    let given = text(column, "jsonPath");
    if given.is_empty() {
        errors.push(Error::required(&path.child("jsonPath"), ""));
    } else if JsonPath::parse(given).is_none() {
        let why = "must be a simple json path starting with .";
        errors.push(Error::invalid(&path.child("jsonPath"), given, why));
    }
}

fn selectable(version: &Value, path: &Path, errors: &mut ErrorList) {
    const MOST: usize = 8;
    let given = version["selectableFields"].as_array();
    let given = given.map(Vec::as_slice).unwrap_or_default();
    if given.len() > MOST {
        errors.push(Error::too_many(path, given.len(), MOST));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (at, field) in given.iter().enumerate() {
        let path = path.index(at).child("jsonPath");
        let json_path = text(field, "jsonPath");
        if json_path.is_empty() {
            errors.push(Error::required(&path, ""));
            continue;
        }
        if seen.contains(&json_path) {
            errors.push(Error::duplicate(&path, json_path));
        }
        seen.push(json_path);
        let simple = JsonPath::parse(json_path).is_some()
            && json_path.starts_with('.')
            && !json_path.contains(['[', '*']);
        if !simple {
            let why = "is an invalid path: must be a simple path of fields";
            errors.push(Error::invalid(&path, json_path, why));
            continue;
        }
        if json_path.starts_with(".metadata.") || json_path == ".metadata" {
            let why = "must not point to fields in metadata";
            errors.push(Error::invalid(&path, json_path, why));
            continue;
        }
        let root = &version["schema"]["openAPIV3Schema"];
        let parts = json_path.split('.').skip(1);
        let props = parts.fold(root, |props, part| &props["properties"][part]);
        match props["type"].as_str() {
            Some("string" | "integer" | "boolean") => {}
            Some(_) => {
                let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
                errors.push(Error::invalid(&path, json_path, why));
            }
            None => {
                let why = "does not refer to a valid field";
                errors.push(Error::invalid(&path, json_path, why));
            }
        }
    }
}
