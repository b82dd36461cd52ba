//! Pods and the specs of pod templates.

use serde_json::Value;

use super::container::{self, ContainerKind, Scope};
use super::rules::{self, invalid_all, optional_text};
use super::{scheduling, volume};
use crate::access::{entries, flag, is_empty, items, text};
use crate::field::{Error, ErrorList, Path};
use crate::names;

/// Largest user and group id.
pub(super) const ID_MAX: i64 = 2_147_483_647;

/// `Pod`.
pub(super) fn pod(errors: &mut ErrorList, path: &Path, object: &Value) {
    spec(errors, path, &object["spec"]);
    if !is_empty(&object["spec"]["ephemeralContainers"]) {
        errors.push(Error::forbidden(
            &path.child("ephemeralContainers"),
            "cannot be set on create",
        ));
    }
}

/// The template of a workload; `path` is that of the template.
pub(super) fn template(errors: &mut ErrorList, path: &Path, template: &Value) {
    let metadata = &template["metadata"];
    rules::labels(errors, &path.child("labels"), &metadata["labels"]);
    super::metadata::annotations(errors, &path.child("annotations"), &metadata["annotations"]);
    let spec_path = path.child("spec");
    spec(errors, &spec_path, &template["spec"]);
    if !is_empty(&template["spec"]["ephemeralContainers"]) {
        let why = "ephemeral containers not allowed in pod template";
        errors.push(Error::forbidden(&spec_path.child("ephemeralContainers"), why));
    }
}

/// `PodSpec`.
pub(super) fn spec(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let volumes = volume::volumes(errors, &path.child("volumes"), items(&spec["volumes"]));
    let scope = Scope {
        volumes: &volumes,
        host_network: flag(spec, "hostNetwork"),
    };
    if items(&spec["containers"]).is_empty() {
        errors.push(Error::required(&path.child("containers"), ""));
    }
    let mut names = Vec::new();
    container::list(
        errors,
        &path.child("containers"),
        &spec["containers"],
        ContainerKind::Regular,
        &scope,
        &mut names,
    );
    container::list(
        errors,
        &path.child("initContainers"),
        &spec["initContainers"],
        ContainerKind::Init,
        &scope,
        &mut names,
    );
    if text(spec, "restartPolicy").is_empty() {
        errors.push(Error::required(&path.child("restartPolicy"), ""));
    }
    if let Some(deadline) = spec["activeDeadlineSeconds"].as_i64() {
        for message in names::in_range(deadline, 1, ID_MAX) {
            errors.push(Error::invalid(
                &path.child("activeDeadlineSeconds"),
                deadline,
                message,
            ));
        }
    }
    rules::labels(errors, &path.child("nodeSelector"), &spec["nodeSelector"]);
    identity(errors, path, spec);
    security_context(errors, &path.child("securityContext"), &spec["securityContext"]);
    dns(errors, path, spec);
    scheduling::tolerations(errors, &path.child("tolerations"), items(&spec["tolerations"]));
    scheduling::affinity(errors, &path.child("affinity"), &spec["affinity"]);
    scheduling::topology_spread(
        errors,
        &path.child("topologySpreadConstraints"),
        items(&spec["topologySpreadConstraints"]),
    );
    for (at, gate) in items(&spec["schedulingGates"]).iter().enumerate() {
        let path = path.child("schedulingGates").index(at).child("name");
        invalid_all(
            errors,
            &path,
            text(gate, "name"),
            names::qualified_name(text(gate, "name")),
        );
    }
    for (at, gate) in items(&spec["readinessGates"]).iter().enumerate() {
        let path = path.child("readinessGates").index(at).child("conditionType");
        let kind = text(gate, "conditionType");
        invalid_all(errors, &path, kind, names::qualified_name(kind));
    }
    for (name, value) in entries(&spec["overhead"]) {
        rules::quantity_not_negative(errors, &path.child("overhead").key(name.clone()), value);
    }
}

fn identity(errors: &mut ErrorList, path: &Path, spec: &Value) {
    optional_text(errors, path, spec, "serviceAccountName", names::dns1123_subdomain);
    optional_text(errors, path, spec, "nodeName", names::dns1123_subdomain);
    optional_text(errors, path, spec, "hostname", names::dns1123_label);
    optional_text(errors, path, spec, "subdomain", names::dns1123_label);
    optional_text(errors, path, spec, "priorityClassName", names::dns1123_subdomain);
    optional_text(errors, path, spec, "runtimeClassName", names::dns1123_subdomain);
    for (at, secret) in items(&spec["imagePullSecrets"]).iter().enumerate() {
        if text(secret, "name").is_empty() {
            errors.push(Error::required(
                &path.child("imagePullSecrets").index(at).child("name"),
                "",
            ));
        }
    }
    for (at, alias) in items(&spec["hostAliases"]).iter().enumerate() {
        let path = path.child("hostAliases").index(at);
        invalid_all(
            errors,
            &path.child("ip"),
            text(alias, "ip"),
            names::ip_address(text(alias, "ip")),
        );
        for (at, host) in items(&alias["hostnames"]).iter().enumerate() {
            let host = host.as_str().unwrap_or_default();
            invalid_all(
                errors,
                &path.child("hostnames").index(at),
                host,
                names::dns1123_subdomain(host),
            );
        }
    }
}

fn user_id(errors: &mut ErrorList, path: &Path, value: &Value, field: &'static str) {
    if let Some(id) = value[field].as_i64() {
        for message in names::in_range(id, 0, ID_MAX) {
            errors.push(Error::invalid(&path.child(field), id, message));
        }
    }
}

/// Fields that pod and container security contexts share.
pub(super) fn common_security(errors: &mut ErrorList, path: &Path, context: &Value) {
    user_id(errors, path, context, "runAsUser");
    user_id(errors, path, context, "runAsGroup");
    for (field, local) in [("seccompProfile", "Localhost"), ("appArmorProfile", "Localhost")] {
        let profile = &context[field];
        if !profile.is_object() {
            continue;
        }
        let path = path.child(field);
        let given = text(profile, "localhostProfile");
        match text(profile, "type") {
            "" => errors.push(Error::required(
                &path.child("type"),
                "type is required when this is set",
            )),
            kind if kind == local && given.is_empty() => {
                let why = "must be set when seccomp type is Localhost";
                errors.push(Error::required(&path.child("localhostProfile"), why));
            }
            kind if kind != local && !given.is_empty() => {
                let why = "can only be set when seccomp type is Localhost";
                errors.push(Error::invalid(&path.child("localhostProfile"), given, why));
            }
            _ => {}
        }
    }
}

fn security_context(errors: &mut ErrorList, path: &Path, context: &Value) {
    common_security(errors, path, context);
    user_id(errors, path, context, "fsGroup");
    for (at, group) in items(&context["supplementalGroups"]).iter().enumerate() {
        let id = group.as_i64().unwrap_or_default();
        for message in names::in_range(id, 0, ID_MAX) {
            errors.push(Error::invalid(
                &path.child("supplementalGroups").index(at),
                id,
                message,
            ));
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    for (at, sysctl) in items(&context["sysctls"]).iter().enumerate() {
        let path = path.child("sysctls").index(at).child("name");
        let name = text(sysctl, "name");
        let segment = |part: &str| {
            let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            let bytes = part.as_bytes();
            bytes.first().is_some_and(|b| edge(*b))
                && bytes.last().is_some_and(|b| edge(*b))
                && bytes.iter().all(|b| edge(*b) || matches!(b, b'-' | b'_'))
        };
        if name.is_empty() {
            errors.push(Error::required(&path, ""));
        } else if name.len() > 253 || !name.split(['.', '/']).all(segment) {
            let why = "must have at most 253 characters and match regex \
                       ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(Error::invalid(&path, name, why));
        } else if seen.contains(&name) {
            errors.push(Error::duplicate(&path, name));
        }
        seen.push(name);
    }
}

fn dns(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let config = &spec["dnsConfig"];
    let path = path.child("dnsConfig");
    let servers = items(&config["nameservers"]);
    if text(spec, "dnsPolicy") == "None" {
        if !config.is_object() {
            errors.push(Error::required(
                &path,
                "must provide `dnsConfig` when `dnsPolicy` is None",
            ));
            return;
        }
        if servers.is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(Error::required(&path.child("nameservers"), why));
        }
    }
    if servers.len() > 3 {
        let why = "must not have more than 3 nameservers";
        errors.push(Error::invalid(
            &path.child("nameservers"),
            config["nameservers"].clone(),
            why,
        ));
    }
    for (at, server) in servers.iter().enumerate() {
        let server = server.as_str().unwrap_or_default();
        invalid_all(
            errors,
            &path.child("nameservers").index(at),
            server,
            names::ip_address(server),
        );
    }
    for (at, search) in items(&config["searches"]).iter().enumerate() {
        let search = search.as_str().unwrap_or_default();
        let name = search.strip_suffix('.').unwrap_or(search).replace('_', "-");
        invalid_all(
            errors,
            &path.child("searches").index(at),
            search,
            names::dns1123_subdomain(&name),
        );
    }
    for (at, option) in items(&config["options"]).iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.push(Error::required(
                &path.child("options").index(at),
                "must not be empty",
            ));
        }
    }
}
