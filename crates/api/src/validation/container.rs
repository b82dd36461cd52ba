//! Containers: images, ports, environment, mounts, probes, resources.

use std::collections::HashSet;

use serde_json::Value;

use super::rules::{
    self, checked_text, invalid_all, no_backsteps, not_negative, port_or_name, required_text,
};
use crate::access::{entries, int, items, text};
use crate::field::{Error, ErrorList, Path};
use crate::names;

/// Where a container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContainerKind {
    /// `containers`
    Regular,
    /// `initContainers`
    Init,
    /// `ephemeralContainers`
    Ephemeral,
}

/// What a pod's containers refer to.
pub(super) struct Scope<'a> {
    /// Names of volumes.
    pub(super) volumes: &'a [&'a str],
    /// The pod uses the host's network.
    pub(super) host_network: bool,
}

/// A list of containers; `known` are the names taken so far.
pub(super) fn list<'a>(
    errors: &mut ErrorList,
    path: &Path,
    list: &'a Value,
    kind: ContainerKind,
    scope: &Scope<'_>,
    known: &mut Vec<&'a str>,
) {
    let mut host_ports = HashSet::new();
    for (at, container) in items(list).iter().enumerate() {
        let path = path.index(at);
        let name = text(container, "name");
        checked_text(errors, &path, container, "name", names::dns1123_label);
        if !name.is_empty() && known.contains(&name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
        known.push(name);
        one(errors, &path, container, kind, scope);
        for (at, port) in items(&container["ports"]).iter().enumerate() {
            let number = int(port, "hostPort");
            let key = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
            if number != 0 && kind == ContainerKind::Regular && !host_ports.insert(key.clone()) {
                errors.push(Error::duplicate(
                    &path.child("ports").index(at).child("hostPort"),
                    key,
                ));
            }
        }
    }
}

fn one(errors: &mut ErrorList, path: &Path, container: &Value, kind: ContainerKind, scope: &Scope<'_>) {
    let image = required_text(errors, path, container, "image");
    if image.trim() != image {
        errors.push(Error::invalid(
            &path.child("image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
    ports(errors, &path.child("ports"), items(&container["ports"]), scope);
    environment(errors, path, container);
    mounts(errors, path, container, scope);
    resources(errors, &path.child("resources"), &container["resources"]);
    security(
        errors,
        &path.child("securityContext"),
        &container["securityContext"],
    );
    if !matches!(
        text(container, "terminationMessagePolicy"),
        "" | "File" | "FallbackToLogsOnError"
    ) {
        errors.push(Error::invalid(
            &path.child("terminationMessagePolicy"),
            text(container, "terminationMessagePolicy"),
            "must be 'File' or 'FallbackToLogsOnError'",
        ));
    }
    lifecycle_and_probes(errors, path, container, kind);
}

fn lifecycle_and_probes(errors: &mut ErrorList, path: &Path, container: &Value, kind: ContainerKind) {
    let sidecar = text(container, "restartPolicy") == "Always";
    let restarts = kind == ContainerKind::Regular || sidecar;
    for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        let value = &container[name];
        if value.is_null() {
            continue;
        }
        let path = path.child(name);
        if !restarts {
            let why = match kind {
                ContainerKind::Ephemeral => "cannot be set for an Ephemeral Container",
                _ => "may not be set for init containers without restartPolicy=Always",
            };
            errors.push(Error::forbidden(&path, why));
        } else if name == "lifecycle" {
            for hook in ["postStart", "preStop"] {
                if value[hook].is_object() {
                    handler(
                        errors,
                        &path.child(hook),
                        &value[hook],
                        &["exec", "httpGet", "tcpSocket", "sleep"],
                    );
                }
            }
        } else {
            probe(errors, &path, value, name);
        }
    }
}

fn probe(errors: &mut ErrorList, path: &Path, probe: &Value, name: &str) {
    handler(errors, path, probe, &["exec", "httpGet", "tcpSocket", "grpc"]);
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        not_negative(errors, path, probe, field);
    }
    if name != "readinessProbe" && int(probe, "successThreshold") > 1 {
        errors.push(Error::invalid(
            &path.child("successThreshold"),
            int(probe, "successThreshold"),
            "must be 1",
        ));
    }
    if let Some(seconds) = probe["terminationGracePeriodSeconds"].as_i64() {
        let path = path.child("terminationGracePeriodSeconds");
        if name == "readinessProbe" {
            errors.push(Error::invalid(
                &path,
                seconds,
                "must not be set for readinessProbes",
            ));
        } else if seconds <= 0 {
            errors.push(Error::invalid(&path, seconds, "must be greater than 0"));
        }
    }
}

fn handler(errors: &mut ErrorList, path: &Path, handler: &Value, kinds: &[&'static str]) {
    let mut given = 0;
    for kind in kinds {
        let action = &handler[*kind];
        if !action.is_object() {
            continue;
        }
        given += 1;
        let path = path.child(kind);
        if given > 1 {
            errors.push(Error::forbidden(
                &path,
                "may not specify more than 1 handler type",
            ));
            continue;
        }
        match *kind {
            "exec" if items(&action["command"]).is_empty() => {
                errors.push(Error::required(&path.child("command"), ""));
            }
            "httpGet" => {
                required_text(errors, &path, action, "path");
                port_or_name(errors, &path.child("port"), &action["port"]);
                for (at, header) in items(&action["httpHeaders"]).iter().enumerate() {
                    let name = text(header, "name");
                    let path = path.child("httpHeaders").index(at).child("name");
                    invalid_all(errors, &path, name, names::http_header_name(name));
                }
            }
            "tcpSocket" => port_or_name(errors, &path.child("port"), &action["port"]),
            "grpc" => {
                let port = int(action, "port");
                for message in names::port_number(port) {
                    errors.push(Error::invalid(&path.child("port"), port, message));
                }
            }
            _ => {}
        }
    }
    if given == 0 {
        errors.push(Error::required(path, "must specify a handler type"));
    }
}

fn ports(errors: &mut ErrorList, path: &Path, ports: &[Value], scope: &Scope<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for (at, port) in ports.iter().enumerate() {
        let path = path.index(at);
        let name = text(port, "name");
        if !name.is_empty() {
            let messages = names::port_name(name);
            if messages.is_empty() && seen.contains(&name) {
                errors.push(Error::duplicate(&path.child("name"), name));
            }
            invalid_all(errors, &path.child("name"), name, messages);
            seen.push(name);
        }
        let (number, host) = (int(port, "containerPort"), int(port, "hostPort"));
        if number == 0 {
            errors.push(Error::required(&path.child("containerPort"), ""));
        } else {
            for message in names::port_number(number) {
                errors.push(Error::invalid(&path.child("containerPort"), number, message));
            }
        }
        if host != 0 {
            for message in names::port_number(host) {
                errors.push(Error::invalid(&path.child("hostPort"), host, message));
            }
        }
        if scope.host_network && host != number && host != 0 {
            let why = "must match `hostPort` when `hostNetwork` is true";
            errors.push(Error::invalid(&path.child("containerPort"), number, why));
        }
        if text(port, "protocol").is_empty() {
            errors.push(Error::required(&path.child("protocol"), ""));
        }
    }
}

fn environment(errors: &mut ErrorList, path: &Path, container: &Value) {
    for (at, env) in items(&container["env"]).iter().enumerate() {
        let path = path.child("env").index(at);
        checked_text(errors, &path, env, "name", names::env_var_name);
        let source = &env["valueFrom"];
        if source.is_object() {
            env_source(
                errors,
                &path.child("valueFrom"),
                source,
                !text(env, "value").is_empty(),
            );
        }
    }
    for (at, from) in items(&container["envFrom"]).iter().enumerate() {
        let path = path.child("envFrom").index(at);
        let prefix = text(from, "prefix");
        if !prefix.is_empty() {
            invalid_all(errors, &path.child("prefix"), prefix, names::env_var_name(prefix));
        }
        let given: Vec<&'static str> = ["configMapRef", "secretRef"]
            .into_iter()
            .filter(|field| from[*field].is_object())
            .collect();
        for field in &given {
            required_text(errors, &path.child(field), &from[*field], "name");
        }
        match given.len() {
            0 => errors.push(Error::invalid(
                &path,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            1 => {}
            _ => errors.push(Error::invalid(
                &path,
                "",
                "may not have more than one field specified at a time",
            )),
        }
    }
}

fn env_source(errors: &mut ErrorList, path: &Path, source: &Value, has_value: bool) {
    const FIELDS: [&str; 6] = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
    ];
    let mut given = 0;
    if source["fieldRef"].is_object() {
        given += 1;
        let path = path.child("fieldRef");
        let field = required_text(errors, &path, &source["fieldRef"], "fieldPath");
        let known = FIELDS.contains(&field)
            || matches!(field, "status.hostIPs" | "status.podIP" | "status.podIPs")
            || field.starts_with("metadata.labels['")
            || field.starts_with("metadata.annotations['");
        if !known && !field.is_empty() {
            let mut supported: Vec<&str> = FIELDS.to_vec();
            supported.extend(["status.hostIPs", "status.podIP", "status.podIPs"]);
            errors.push(Error::not_supported(&path.child("fieldPath"), field, &supported));
        }
    }
    if source["resourceFieldRef"].is_object() {
        given += 1;
        required_text(
            errors,
            &path.child("resourceFieldRef"),
            &source["resourceFieldRef"],
            "resource",
        );
    }
    for name in ["configMapKeyRef", "secretKeyRef"] {
        if source[name].is_object() {
            given += 1;
            let path = path.child(name);
            required_text(errors, &path, &source[name], "name");
            checked_text(errors, &path, &source[name], "key", names::config_map_key);
        }
    }
    given += usize::from(source["fileKeyRef"].is_object());
    match given {
        0 => {
            let why =
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
            errors.push(Error::invalid(path, "", why));
        }
        _ if has_value => {
            errors.push(Error::invalid(
                path,
                "",
                "may not be specified when `value` is not empty",
            ));
        }
        1 => {}
        _ => errors.push(Error::invalid(
            path,
            "",
            "may not have more than one field specified at a time",
        )),
    }
}

fn mounts(errors: &mut ErrorList, path: &Path, container: &Value, scope: &Scope<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for (at, mount) in items(&container["volumeMounts"]).iter().enumerate() {
        let path = path.child("volumeMounts").index(at);
        let name = required_text(errors, &path, mount, "name");
        if !name.is_empty() && !scope.volumes.contains(&name) {
            errors.push(Error::not_found(&path.child("name"), name));
        }
        let target = required_text(errors, &path, mount, "mountPath");
        if !target.is_empty() && seen.contains(&target) {
            errors.push(Error::invalid(&path.child("mountPath"), target, "must be unique"));
        }
        seen.push(target);
        let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        if !sub.is_empty() {
            rules::local_path(errors, &path.child("subPath"), sub);
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                let why = "subPathExpr and subPath are mutually exclusive";
                errors.push(Error::invalid(&path.child("subPathExpr"), expression, why));
            }
            no_backsteps(errors, &path.child("subPathExpr"), expression);
        }
    }
    for (at, device) in items(&container["volumeDevices"]).iter().enumerate() {
        let path = path.child("volumeDevices").index(at);
        let name = required_text(errors, &path, device, "name");
        if !name.is_empty() && !scope.volumes.contains(&name) {
            errors.push(Error::not_found(&path.child("name"), name));
        }
        let target = required_text(errors, &path, device, "devicePath");
        if seen.contains(&target) {
            errors.push(Error::invalid(
                &path.child("devicePath"),
                target,
                "must be unique",
            ));
        }
    }
}

fn resource_name(errors: &mut ErrorList, path: &Path, name: &str) {
    invalid_all(errors, path, name, names::qualified_name(name));
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !standard {
        errors.push(Error::invalid(
            path,
            name,
            "must be a standard resource for containers",
        ));
    }
}

/// `ResourceRequirements` of containers: names, signs, requests within limits.
pub(super) fn resources(errors: &mut ErrorList, path: &Path, resources: &Value) {
    for list in ["limits", "requests"] {
        for (name, value) in entries(&resources[list]) {
            let path = path.child(list).key(name.clone());
            resource_name(errors, &path, name);
            rules::quantity_not_negative(errors, &path, value);
            let whole = rules::quantity(value).is_none_or(|q| q.nanos() % 1_000_000_000 == 0);
            if name.contains('/') && !name.contains("kubernetes.io/") && !whole {
                errors.push(Error::invalid(&path, value.clone(), "must be an integer"));
            }
        }
    }
    let requests = path.child("requests");
    for (name, request) in entries(&resources["requests"]) {
        let limit = &resources["limits"][&**name];
        let (Some(asked), Some(most)) = (rules::quantity(request), rules::quantity(limit)) else {
            continue;
        };
        let overcommit = !name.contains('/') && !name.starts_with("hugepages-");
        if !overcommit && asked.nanos() != most.nanos() {
            errors.push(Error::invalid(
                &requests,
                request.clone(),
                format!("must be equal to {name} limit of {most}"),
            ));
        } else if asked.nanos() > most.nanos() {
            let why = format!("must be less than or equal to {name} limit of {most}");
            errors.push(Error::invalid(&requests, request.clone(), why));
        }
    }
}

fn security(errors: &mut ErrorList, path: &Path, context: &Value) {
    super::pod::common_security(errors, path, context);
    if context["allowPrivilegeEscalation"] == false {
        if context["privileged"] == true {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(Error::invalid(path, context.clone(), why));
        }
        if items(&context["capabilities"]["add"])
            .iter()
            .any(|c| matches!(c.as_str(), Some("CAP_SYS_ADMIN" | "SYS_ADMIN")))
        {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(Error::invalid(path, context.clone(), why));
        }
    }
}
