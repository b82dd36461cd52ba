//! The networking and discovery groups.

use std::net::IpAddr;

use serde_json::Value;

use super::rules::{self, invalid_all, label_selector, port_or_name, required_text};
use crate::access::{int, is_empty, items, text};
use crate::field::{Error, ErrorList, Path};
use crate::names;

/// An address range such as `10.0.0.0/8`.
pub(super) fn cidr(errors: &mut ErrorList, path: &Path, given: &str) {
    if !is_cidr(given) {
        let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        errors.push(Error::invalid(path, given, why));
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else {
        return false;
    };
    let most = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= most) && (bits.len() == 1 || !bits.starts_with('0'))
}

/// `Ingress`
pub(super) fn ingress(errors: &mut ErrorList, path: &Path, object: &Value) {
    let spec = &object["spec"];
    if is_empty(&spec["rules"]) && !spec["defaultBackend"].is_object() {
        let why = "either `defaultBackend` or `rules` must be specified";
        errors.push(Error::invalid(path, spec.clone(), why));
    }
    if spec["defaultBackend"].is_object() {
        backend(errors, &path.child("defaultBackend"), &spec["defaultBackend"]);
    }
    for (at, rule) in items(&spec["rules"]).iter().enumerate() {
        let path = path.child("rules").index(at);
        host(errors, &path.child("host"), text(rule, "host"));
        if !rule["http"].is_object() {
            continue;
        }
        let path = path.child("http").child("paths");
        if is_empty(&rule["http"]["paths"]) {
            errors.push(Error::required(&path, ""));
        }
        for (at, entry) in items(&rule["http"]["paths"]).iter().enumerate() {
            http_path(errors, &path.index(at), entry);
        }
    }
    for (at, tls) in items(&spec["tls"]).iter().enumerate() {
        let path = path.child("tls").index(at);
        for (at, name) in items(&tls["hosts"]).iter().enumerate() {
            host(
                errors,
                &path.child("hosts").index(at),
                name.as_str().unwrap_or_default(),
            );
        }
    }
    if let Some(class) = spec["ingressClassName"].as_str() {
        invalid_all(
            errors,
            &path.child("ingressClassName"),
            class,
            names::dns1123_subdomain(class),
        );
    }
}

fn host(errors: &mut ErrorList, path: &Path, host: &str) {
    if host.is_empty() {
        return;
    }
    if host.parse::<IpAddr>().is_ok() {
        errors.push(Error::invalid(
            path,
            host,
            "must be a DNS name, not an IP address",
        ));
    } else if host.contains('*') {
        invalid_all(errors, path, host, names::wildcard_dns1123_subdomain(host));
    } else {
        invalid_all(errors, path, host, names::dns1123_subdomain(host));
    }
}

fn http_path(errors: &mut ErrorList, path: &Path, entry: &Value) {
    let given = text(entry, "path");
    let kind = text(entry, "pathType");
    if kind.is_empty() {
        errors.push(Error::required(
            &path.child("pathType"),
            "pathType must be specified",
        ));
    }
    if matches!(kind, "Exact" | "Prefix") || !given.is_empty() {
        if !given.starts_with('/') {
            errors.push(Error::invalid(
                &path.child("path"),
                given,
                "must be an absolute path",
            ));
        } else if matches!(kind, "Exact" | "Prefix") {
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if given.contains(bad) {
                    errors.push(Error::invalid(
                        &path.child("path"),
                        given,
                        format!("must not contain '{bad}'"),
                    ));
                }
            }
            for bad in ["/..", "/."] {
                if given.ends_with(bad) {
                    errors.push(Error::invalid(
                        &path.child("path"),
                        given,
                        format!("cannot end with '{bad}'"),
                    ));
                }
            }
        }
    }
    backend(errors, &path.child("backend"), &entry["backend"]);
}

fn backend(errors: &mut ErrorList, path: &Path, backend: &Value) {
    let service = &backend["service"];
    match (service.is_object(), backend["resource"].is_object()) {
        (true, true) => {
            let why = "cannot set both resource and service backends";
            errors.push(Error::invalid(path, "", why));
        }
        (false, false) => errors.push(Error::required(path, "port name or number is required")),
        (false, true) => {}
        (true, false) => {
            let path = path.child("service");
            rules::checked_text(errors, &path, service, "name", names::dns1035_label);
            let (name, number) = (text(&service["port"], "name"), int(&service["port"], "number"));
            let port = path.child("port");
            match (name, number) {
                ("", 0) => errors.push(Error::required(&port, "port name or number is required")),
                ("", number) => {
                    for message in names::port_number(number) {
                        errors.push(Error::invalid(&port.child("number"), number, message));
                    }
                }
                (name, 0) => invalid_all(errors, &port.child("name"), name, names::port_name(name)),
                _ => errors.push(Error::invalid(
                    &port,
                    service["port"].clone(),
                    "cannot set both port name & port number",
                )),
            }
        }
    }
}

/// `IngressClass`
pub(super) fn ingress_class(errors: &mut ErrorList, path: &Path, object: &Value) {
    let controller = required_text(errors, path, &object["spec"], "controller");
    if controller.len() > 250 {
        errors.push(Error::too_long(&path.child("controller"), 250));
    }
    if !controller.is_empty() && !controller.contains('/') {
        let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(Error::invalid(&path.child("controller"), controller, why));
    }
    let parameters = &object["spec"]["parameters"];
    if parameters.is_object() {
        let path = path.child("parameters");
        required_text(errors, &path, parameters, "kind");
        required_text(errors, &path, parameters, "name");
        match (text(parameters, "scope"), text(parameters, "namespace")) {
            ("Namespace", "") => {
                let why = "`parameters.scope` is set to 'Namespace'";
                errors.push(Error::required(&path.child("namespace"), why));
            }
            ("Cluster", namespace) if !namespace.is_empty() => {
                let why = "`parameters.scope` is set to 'Cluster'";
                errors.push(Error::forbidden(&path.child("namespace"), why));
            }
            _ => {}
        }
    }
}

/// The controller of a class stays.
pub(super) fn ingress_class_update(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    rules::immutable(
        errors,
        &path.child("controller"),
        &new["spec"]["controller"],
        &old["spec"]["controller"],
    );
}

/// `NetworkPolicy`
pub(super) fn network_policy(errors: &mut ErrorList, path: &Path, object: &Value) {
    let spec = &object["spec"];
    label_selector(errors, &path.child("podSelector"), &spec["podSelector"]);
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        for (at, rule) in items(&spec[list]).iter().enumerate() {
            let path = path.child(list).index(at);
            for (at, port) in items(&rule["ports"]).iter().enumerate() {
                policy_port(errors, &path.child("ports").index(at), port);
            }
            for (at, peer) in items(&rule[peers]).iter().enumerate() {
                policy_peer(errors, &path.child(peers).index(at), peer);
            }
        }
    }
    if items(&spec["policyTypes"]).len() > 2 {
        let why = "may not specify more than two policyTypes";
        errors.push(Error::invalid(
            &path.child("policyTypes"),
            spec["policyTypes"].clone(),
            why,
        ));
    }
}

fn policy_port(errors: &mut ErrorList, path: &Path, port: &Value) {
    let end = &port["endPort"];
    if !port["port"].is_null() {
        port_or_name(errors, &path.child("port"), &port["port"]);
        if let (Some(first), Some(last)) = (port["port"].as_i64(), end.as_i64()) {
            if last < first {
                let why = format!("must be greater than or equal to {first}");
                errors.push(Error::invalid(&path.child("endPort"), last, why));
            }
            for message in names::port_number(last) {
                errors.push(Error::invalid(&path.child("endPort"), last, message));
            }
        } else if !end.is_null() {
            let why = "may not be specified when `port` is non-numeric";
            errors.push(Error::invalid(&path.child("endPort"), end.clone(), why));
        }
    } else if !end.is_null() {
        let why = "may not be specified when `port` is not specified";
        errors.push(Error::invalid(&path.child("endPort"), end.clone(), why));
    }
}

fn policy_peer(errors: &mut ErrorList, path: &Path, peer: &Value) {
    let mut given = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if peer[field].is_object() {
            given += 1;
            label_selector(errors, &path.child(field), &peer[field]);
        }
    }
    let block = &peer["ipBlock"];
    if block.is_object() {
        if given > 0 {
            errors.push(Error::forbidden(
                path,
                "may not specify both ipBlock and another peer",
            ));
        }
        given += 1;
        let path = path.child("ipBlock");
        let range = required_text(errors, &path, block, "cidr");
        if !range.is_empty() {
            cidr(errors, &path.child("cidr"), range);
        }
        for (at, except) in items(&block["except"]).iter().enumerate() {
            cidr(
                errors,
                &path.child("except").index(at),
                except.as_str().unwrap_or_default(),
            );
        }
    }
    if given == 0 {
        errors.push(Error::required(path, "must specify a peer"));
    }
}

/// `IPAddress`
pub(super) fn ip_address(errors: &mut ErrorList, path: &Path, object: &Value) {
    let parent = &object["spec"]["parentRef"];
    let path = path.child("parentRef");
    if !parent.is_object() {
        errors.push(Error::required(&path, ""));
        return;
    }
    required_text(errors, &path, parent, "resource");
    required_text(errors, &path, parent, "name");
}

/// `ServiceCIDR`
pub(super) fn service_cidr(errors: &mut ErrorList, path: &Path, object: &Value) {
    let ranges = items(&object["spec"]["cidrs"]);
    let path = path.child("cidrs");
    if ranges.is_empty() {
        errors.push(Error::required(&path, "at least one CIDR required"));
    }
    if ranges.len() > 2 {
        let why = "may only hold up to 2 values";
        errors.push(Error::invalid(&path, object["spec"].clone(), why));
    }
    for (at, range) in ranges.iter().enumerate() {
        cidr(errors, &path.index(at), range.as_str().unwrap_or_default());
    }
}

/// `EndpointSlice`
pub(super) fn endpoint_slice(errors: &mut ErrorList, _spec: &Path, object: &Value) {
    let kind = required_text(errors, &Path::root(), object, "addressType");
    let endpoints = items(&object["endpoints"]);
    if endpoints.len() > 1000 {
        errors.push(Error::too_many(&Path::new("endpoints"), endpoints.len(), 1000));
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        let path = Path::new("endpoints").index(at).child("addresses");
        let addresses = items(&endpoint["addresses"]);
        if addresses.is_empty() {
            errors.push(Error::required(&path, "must contain at least 1 address"));
        }
        if addresses.len() > 100 {
            errors.push(Error::too_many(&path, addresses.len(), 100));
        }
        for (at, address) in addresses.iter().enumerate() {
            let address = address.as_str().unwrap_or_default();
            let path = path.index(at);
            let ip = address.parse::<IpAddr>();
            match kind {
                "IPv4" if !ip.as_ref().is_ok_and(IpAddr::is_ipv4) => {
                    errors.push(Error::invalid(&path, address, "must be an IPv4 address"));
                }
                "IPv6" if !ip.as_ref().is_ok_and(IpAddr::is_ipv6) => {
                    errors.push(Error::invalid(&path, address, "must be an IPv6 address"));
                }
                "FQDN" => invalid_all(errors, &path, address, names::dns1123_subdomain(address)),
                _ => {}
            }
        }
    }
    let ports = items(&object["ports"]);
    let mut seen = Vec::new();
    for (at, port) in ports.iter().enumerate() {
        let path = Path::new("ports").index(at);
        let name = text(port, "name");
        if !name.is_empty() {
            invalid_all(errors, &path.child("name"), name, names::dns1123_label(name));
        }
        if seen.contains(&name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
        seen.push(name);
        if text(port, "protocol").is_empty() {
            errors.push(Error::required(&path.child("protocol"), ""));
        }
    }
}

/// The address type of a slice stays.
pub(super) fn endpoint_slice_update(errors: &mut ErrorList, _spec: &Path, new: &Value, old: &Value) {
    rules::immutable(
        errors,
        &Path::new("addressType"),
        &new["addressType"],
        &old["addressType"],
    );
}
