//! Volumes of pods.

use serde_json::Value;

use super::rules::{checked_text, local_path, no_backsteps, required_text};
use crate::access::{items, text};
use crate::field::{Error, ErrorList, Path};
use crate::names;

/// Judges volumes and returns the names of the good ones.
pub(super) fn volumes<'a>(errors: &mut ErrorList, path: &Path, volumes: &'a [Value]) -> Vec<&'a str> {
    let mut known = Vec::new();
    for (at, volume) in volumes.iter().enumerate() {
        let path = path.index(at);
        let before = errors.len();
        let name = text(volume, "name");
        source(errors, &path, volume);
        checked_text(errors, &path, volume, "name", names::dns1123_label);
        if !name.is_empty() && known.contains(&name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
        if errors.len() == before {
            known.push(name);
        }
    }
    known
}

fn source(errors: &mut ErrorList, path: &Path, volume: &Value) {
    let sources: Vec<(&String, &Value)> = crate::access::entries(volume)
        .filter(|(name, value)| *name != "name" && value.is_object())
        .collect();
    match &sources[..] {
        [] => errors.push(Error::required(path, "must specify a volume type")),
        [(kind, value)] => one(errors, &path.child_owned(kind.as_str()), kind, value),
        [_, others @ ..] => {
            for (kind, _) in others {
                let why = "may not specify more than 1 volume type";
                errors.push(Error::forbidden(&path.child_owned(kind.as_str()), why));
            }
        }
    }
}

fn one(errors: &mut ErrorList, path: &Path, kind: &str, source: &Value) {
    let need: &[&'static str] = match kind {
        "configMap" => &["name"],
        "secret" => &["secretName"],
        "hostPath" => &["path"],
        "nfs" => &["server", "path"],
        "persistentVolumeClaim" => &["claimName"],
        "csi" => &["driver"],
        "iscsi" => &["targetPortal", "iqn"],
        _ => &[],
    };
    for field in need {
        required_text(errors, path, source, field);
    }
    match kind {
        "configMap" | "secret" => {
            mode(errors, path, source, "defaultMode");
            key_items(errors, path, source);
        }
        "hostPath" => no_backsteps(errors, &path.child("path"), text(source, "path")),
        "nfs" => {
            let exported = text(source, "path");
            if !exported.is_empty() && !exported.starts_with('/') {
                errors.push(Error::invalid(
                    &path.child("path"),
                    exported,
                    "must be an absolute path",
                ));
            }
        }
        "emptyDir" if super::rules::quantity(&source["sizeLimit"]).is_some_and(|q| q.sign() < 0) => {
            let why = "SizeLimit field must be a valid resource quantity";
            errors.push(Error::forbidden(&path.child("sizeLimit"), why));
        }
        "downwardAPI" => {
            mode(errors, path, source, "defaultMode");
            downward_items(errors, path, source);
        }
        "projected" => projected(errors, path, source),
        "ephemeral" => {
            if !source["volumeClaimTemplate"].is_object() {
                errors.push(Error::required(&path.child("volumeClaimTemplate"), ""));
            } else {
                let spec = &source["volumeClaimTemplate"]["spec"];
                super::storage::claim_spec(errors, &path.children(&["volumeClaimTemplate", "spec"]), spec);
            }
        }
        _ => {}
    }
}

fn mode(errors: &mut ErrorList, path: &Path, value: &Value, field: &'static str) {
    if let Some(mode) = value[field].as_i64().filter(|mode| !(0..=0o777).contains(mode)) {
        let why = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(Error::invalid(&path.child(field), mode, why));
    }
}

fn target(errors: &mut ErrorList, path: &Path, item: &Value) {
    let given = required_text(errors, path, item, "path");
    local_path(errors, &path.child("path"), given);
    mode(errors, path, item, "mode");
}

fn key_items(errors: &mut ErrorList, path: &Path, source: &Value) {
    for (at, item) in items(&source["items"]).iter().enumerate() {
        let path = path.child("items").index(at);
        required_text(errors, &path, item, "key");
        target(errors, &path, item);
    }
}

fn downward_items(errors: &mut ErrorList, path: &Path, source: &Value) {
    for (at, item) in items(&source["items"]).iter().enumerate() {
        let path = path.child("items").index(at);
        target(errors, &path, item);
        match (item["fieldRef"].is_object(), item["resourceFieldRef"].is_object()) {
            (true, true) => {
                let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(Error::invalid(&path, "resource", why));
            }
            (false, false) => {
                errors.push(Error::required(
                    &path,
                    "one of fieldRef and resourceFieldRef is required",
                ));
            }
            _ => {}
        }
    }
}

fn projected(errors: &mut ErrorList, path: &Path, source: &Value) {
    mode(errors, path, source, "defaultMode");
    for (at, part) in items(&source["sources"]).iter().enumerate() {
        let path = path.child("sources").index(at);
        let mut given = 0;
        for kind in [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ] {
            let value = &part[kind];
            if !value.is_object() {
                continue;
            }
            given += 1;
            let path = path.child(kind);
            if given > 1 {
                errors.push(Error::forbidden(&path, "may not specify more than 1 volume type"));
                continue;
            }
            match kind {
                "secret" | "configMap" => {
                    required_text(errors, &path, value, "name");
                    key_items(errors, &path, value);
                }
                "downwardAPI" => downward_items(errors, &path, value),
                "serviceAccountToken" => {
                    token(errors, &path, value);
                }
                _ => {}
            }
        }
        if given == 0 {
            errors.push(Error::required(&path, "must specify a volume type"));
        }
    }
}

fn token(errors: &mut ErrorList, path: &Path, token: &Value) {
    let seconds = token["expirationSeconds"].as_i64().unwrap_or_default();
    if seconds < 600 {
        let why = "may not specify a duration less than 10 minutes";
        errors.push(Error::invalid(&path.child("expirationSeconds"), seconds, why));
    }
    if seconds > 1 << 32 {
        let why = "may not specify a duration larger than 2^32 seconds";
        errors.push(Error::invalid(&path.child("expirationSeconds"), seconds, why));
    }
    required_text(errors, path, token, "path");
}
