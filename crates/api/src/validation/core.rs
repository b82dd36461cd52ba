//! Secrets, config maps, nodes, quotas, events and other small kinds.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::rules::{self, IMMUTABLE, checked_text, invalid_all, not_negative, positive};
use crate::access::{entries, flag, int, is_empty, items, text};
use crate::field::{Error, ErrorList, Path};
use crate::names;

/// Largest sum of the values of a Secret or ConfigMap.
const DATA_MAX: usize = 1024 * 1024;

fn decoded(value: &Value) -> Vec<u8> {
    STANDARD
        .decode(value.as_str().unwrap_or_default())
        .unwrap_or_default()
}

/// `Secret`
pub(super) fn secret(errors: &mut ErrorList, _spec: &Path, object: &Value) {
    let path = Path::new("data");
    let data = &object["data"];
    let mut size = 0;
    for (key, value) in entries(data) {
        invalid_all(errors, &path.key(key.clone()), key, names::config_map_key(key));
        size += decoded(value).len();
    }
    if size > DATA_MAX {
        errors.push(Error::too_long(&path, DATA_MAX));
    }
    let need = |errors: &mut ErrorList, key: &str| {
        if data[key].is_null() {
            errors.push(Error::required(&path.key(key), ""));
        }
    };
    match text(object, "type") {
        "kubernetes.io/service-account-token" => {
            let annotation = "kubernetes.io/service-account.name";
            if text(&object["metadata"]["annotations"], annotation).is_empty() {
                errors.push(Error::required(
                    &Path::new("metadata").child("annotations").key(annotation),
                    "",
                ));
            }
        }
        "kubernetes.io/dockercfg" | "kubernetes.io/dockerconfigjson" => {
            let key = if text(object, "type").ends_with("json") {
                ".dockerconfigjson"
            } else {
                ".dockercfg"
            };
            need(errors, key);
            if let Some(error) = data[key]
                .as_str()
                .and_then(|_| serde_json::from_slice::<Value>(&decoded(&data[key])).err())
            {
                errors.push(Error::invalid(
                    &path.key(key),
                    "<secret contents redacted>",
                    error.to_string(),
                ));
            }
        }
        "kubernetes.io/basic-auth" if data["username"].is_null() && data["password"].is_null() => {
            need(errors, "username");
            need(errors, "password");
        }
        "kubernetes.io/ssh-auth" => need(errors, "ssh-privatekey"),
        "kubernetes.io/tls" => {
            need(errors, "tls.crt");
            need(errors, "tls.key");
        }
        _ => {}
    }
}

fn immutable_data(errors: &mut ErrorList, new: &Value, old: &Value, fields: &[&'static str]) {
    if !flag(old, "immutable") {
        return;
    }
    let why = "field is immutable when `immutable` is set";
    if !flag(new, "immutable") {
        errors.push(Error::forbidden(&Path::new("immutable"), why));
    }
    for field in fields {
        if new[*field] != old[*field] && !(is_empty(&new[*field]) && is_empty(&old[*field])) {
            errors.push(Error::forbidden(&Path::new(field), why));
        }
    }
}

/// What of a Secret stays.
pub(super) fn secret_update(errors: &mut ErrorList, _spec: &Path, new: &Value, old: &Value) {
    rules::immutable(errors, &Path::new("type"), &new["type"], &old["type"]);
    immutable_data(errors, new, old, &["data"]);
}

/// `ConfigMap`
pub(super) fn config_map(errors: &mut ErrorList, _spec: &Path, object: &Value) {
    let mut size = 0;
    for (key, value) in entries(&object["data"]) {
        let path = Path::new("data").key(key.clone());
        invalid_all(errors, &path, key, names::config_map_key(key));
        if !object["binaryData"][&**key].is_null() {
            errors.push(Error::invalid(
                &path,
                key.as_str(),
                "duplicate of key present in binaryData",
            ));
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in entries(&object["binaryData"]) {
        invalid_all(
            errors,
            &Path::new("binaryData").key(key.clone()),
            key,
            names::config_map_key(key),
        );
        size += decoded(value).len();
    }
    if size > DATA_MAX {
        errors.push(Error::too_long(&Path::new(""), DATA_MAX));
    }
}

/// What of a ConfigMap stays.
pub(super) fn config_map_update(errors: &mut ErrorList, _spec: &Path, new: &Value, old: &Value) {
    immutable_data(errors, new, old, &["data", "binaryData"]);
}

/// `Node`
pub(super) fn node(errors: &mut ErrorList, path: &Path, object: &Value) {
    let mut seen = Vec::new();
    for (at, taint) in items(&object["spec"]["taints"]).iter().enumerate() {
        let path = path.child("taints").index(at);
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        invalid_all(errors, &path.child("key"), key, names::qualified_name(key));
        if !value.is_empty() {
            invalid_all(errors, &path.child("value"), value, names::label_value(value));
        }
        if effect.is_empty() {
            errors.push(Error::required(&path.child("effect"), ""));
        }
        if seen.contains(&(key, effect)) {
            let mut error = Error::duplicate(&path, taint.clone());
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
        seen.push((key, effect));
    }
}

/// What of a Node stays.
pub(super) fn node_update(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    let (spec, before) = (&new["spec"], &old["spec"]);
    if !is_empty(&before["podCIDRs"]) && spec["podCIDRs"] != before["podCIDRs"] {
        let why = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(Error::forbidden(&path.child("podCIDRs"), why));
    }
    if !is_empty(&before["providerID"]) && spec["providerID"] != before["providerID"] {
        let why = "node updates may not change providerID except from \"\" to valid";
        errors.push(Error::forbidden(&path.child("providerID"), why));
    }
}

/// `Endpoints`
pub(super) fn endpoints(errors: &mut ErrorList, _spec: &Path, object: &Value) {
    for (at, subset) in items(&object["subsets"]).iter().enumerate() {
        let path = Path::new("subsets").index(at);
        if is_empty(&subset["addresses"]) && is_empty(&subset["notReadyAddresses"]) {
            errors.push(Error::required(
                &path,
                "must specify `addresses` or `notReadyAddresses`",
            ));
        }
        for list in ["addresses", "notReadyAddresses"] {
            for (at, address) in items(&subset[list]).iter().enumerate() {
                let path = path.child(list).index(at).child("ip");
                invalid_all(
                    errors,
                    &path,
                    text(address, "ip"),
                    names::ip_address(text(address, "ip")),
                );
            }
        }
        let ports = items(&subset["ports"]);
        for (at, port) in ports.iter().enumerate() {
            let path = path.child("ports").index(at);
            let name = text(port, "name");
            if name.is_empty() && ports.len() > 1 {
                errors.push(Error::required(&path.child("name"), ""));
            } else if !name.is_empty() {
                invalid_all(errors, &path.child("name"), name, names::dns1123_label(name));
            }
            for message in names::port_number(int(port, "port")) {
                errors.push(Error::invalid(&path.child("port"), int(port, "port"), message));
            }
        }
    }
}

/// `LimitRange`
pub(super) fn limit_range(errors: &mut ErrorList, path: &Path, object: &Value) {
    let mut types = Vec::new();
    for (at, item) in items(&object["spec"]["limits"]).iter().enumerate() {
        let path = path.child("limits").index(at);
        let kind = text(item, "type");
        if types.contains(&kind) {
            errors.push(Error::duplicate(&path.child("type"), kind));
        }
        types.push(kind);
        if kind == "Pod" {
            for list in ["default", "defaultRequest"] {
                if !is_empty(&item[list]) {
                    errors.push(Error::forbidden(
                        &path.child(list),
                        "may not be specified when `type` is 'Pod'",
                    ));
                }
            }
        }
        let pairs = [
            ("min", "min", "max", "max"),
            ("defaultRequest", "default request", "max", "max"),
            ("default", "default", "max", "max"),
            ("defaultRequest", "default request", "default", "default limit"),
        ];
        for (low, low_name, high, high_name) in pairs {
            for (resource, value) in entries(&item[low]) {
                let most = &item[high][&**resource];
                let (Some(less), Some(more)) = (rules::quantity(value), rules::quantity(most)) else {
                    continue;
                };
                if less.nanos() > more.nanos() {
                    let why = format!("{low_name} value {less} is greater than {high_name} value {more}");
                    errors.push(Error::invalid(
                        &path.child(low).key(resource.clone()),
                        value.clone(),
                        why,
                    ));
                }
            }
        }
        for list in ["default", "defaultRequest"] {
            for (resource, value) in entries(&item[list]) {
                let least = &item["min"][&**resource];
                let (Some(given), Some(min)) = (rules::quantity(value), rules::quantity(least)) else {
                    continue;
                };
                if given.nanos() < min.nanos() {
                    let what = if list == "default" {
                        "default value"
                    } else {
                        "default request value"
                    };
                    let why = format!("min value {min} is greater than {what} {given}");
                    errors.push(Error::invalid(
                        &path.child("min").key(resource.clone()),
                        least.clone(),
                        why,
                    ));
                }
            }
        }
    }
}

/// `ResourceQuota`
pub(super) fn resource_quota(errors: &mut ErrorList, path: &Path, object: &Value) {
    for (name, value) in entries(&object["spec"]["hard"]) {
        let path = path.child("hard").key(name.clone());
        invalid_all(errors, &path, name, names::qualified_name(name));
        rules::quantity_not_negative(errors, &path, value);
    }
}

/// The scopes of a quota stay.
pub(super) fn resource_quota_update(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    if new["spec"]["scopes"] != old["spec"]["scopes"] {
        errors.push(Error::invalid(
            &path.child("scopes"),
            new["spec"]["scopes"].clone(),
            IMMUTABLE,
        ));
    }
}

/// `Event` of the core group.
pub(super) fn event(errors: &mut ErrorList, _root: &Path, object: &Value) {
    let involved = &object["involvedObject"];
    if !involved.is_object() {
        return;
    }
    let (namespace, own) = (
        text(involved, "namespace"),
        text(&object["metadata"], "namespace"),
    );
    let path = Path::new("involvedObject").child("namespace");
    let fits = match namespace {
        "" => matches!(own, "" | "default" | "kube-system"),
        namespace => namespace == own,
    };
    if !fits {
        errors.push(Error::invalid(&path, namespace, "does not match event.namespace"));
    }
}

/// `Lease`
pub(super) fn lease(errors: &mut ErrorList, path: &Path, object: &Value) {
    positive(errors, path, &object["spec"], "leaseDurationSeconds");
    not_negative(errors, path, &object["spec"], "leaseTransitions");
}

/// `PriorityClass`
pub(super) fn priority_class(errors: &mut ErrorList, _spec: &Path, object: &Value) {
    const HIGHEST: i64 = 1_000_000_000;
    let name = text(&object["metadata"], "name");
    if name.starts_with("system-") {
        if !matches!(name, "system-cluster-critical" | "system-node-critical") {
            let why = "priority class names with 'system-' prefix are reserved for system use only";
            errors.push(Error::forbidden(&Path::new("metadata").child("name"), why));
        }
    } else if int(object, "value") > HIGHEST {
        let why = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        errors.push(Error::forbidden(&Path::new("value"), why));
    }
}

/// What of a PriorityClass stays.
pub(super) fn priority_class_update(errors: &mut ErrorList, _spec: &Path, new: &Value, old: &Value) {
    if int(new, "value") != int(old, "value") {
        errors.push(Error::forbidden(
            &Path::new("value"),
            "may not be changed in an update.",
        ));
    }
    rules::immutable(
        errors,
        &Path::new("preemptionPolicy"),
        &new["preemptionPolicy"],
        &old["preemptionPolicy"],
    );
}

/// `RuntimeClass`
pub(super) fn runtime_class(errors: &mut ErrorList, _spec: &Path, object: &Value) {
    checked_text(errors, &Path::root(), object, "handler", names::dns1123_label);
    for (name, value) in entries(&object["overhead"]["podFixed"]) {
        let path = Path::new("overhead").child("podFixed").key(name.clone());
        rules::quantity_not_negative(errors, &path, value);
    }
}

/// What of a RuntimeClass stays.
pub(super) fn runtime_class_update(errors: &mut ErrorList, _spec: &Path, new: &Value, old: &Value) {
    rules::immutable(errors, &Path::new("handler"), &new["handler"], &old["handler"]);
}
