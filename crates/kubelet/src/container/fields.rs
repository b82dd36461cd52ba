//! Fields of a pod and resources of its containers, as environment variables and downward API volumes show them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::pod::{qos, spec};
use crate::quantity::{self, ResourceList};

/// The value of a field such as `metadata.name` or `metadata.labels['app']`; `None` when the path is not supported.
/// Addresses come from `status`, which the caller may have completed.
pub(crate) fn pod_field(pod: &Pod, path: &str, pod_ips: &[String], host_ips: &[String]) -> Option<String> {
    let meta = &pod.metadata;
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return None,
        };
        return Some(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Some(match path {
        "metadata.name" => spec::name(pod).to_owned(),
        "metadata.namespace" => spec::namespace(pod).to_owned(),
        "metadata.uid" => spec::uid(pod).to_owned(),
        "metadata.labels" => format_map(meta.labels.as_ref()),
        "metadata.annotations" => format_map(meta.annotations.as_ref()),
        "spec.nodeName" => spec::spec(pod).node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec::spec(pod).service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => host_ips.join(","),
        "status.podIP" => pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => pod_ips.join(","),
        _ => return None,
    })
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// One `key="value"` per line, sorted, with Go's quoting.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", quote(value)));
    lines.collect::<Vec<_>>().join("\n")
}

fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The value of a resource such as `limits.cpu` of `container`, divided and rounded up; a missing limit is what the node has.
/// `None` when the resource is not supported.
pub(crate) fn resource_field(
    container: &Container,
    selector: &ResourceFieldSelector,
    allocatable: &ResourceList,
) -> Option<String> {
    let (kind, resource) = selector.resource.split_once('.')?;
    let known =
        matches!(resource, "cpu" | "memory" | "ephemeral-storage") || resource.starts_with("hugepages-");
    let amount = match kind {
        "requests" => qos::request(container, resource),
        "limits" => match qos::limit(container, resource) {
            0 if resource == "cpu" => quantity::milli_of(Some(allocatable), resource),
            0 => quantity::value_of(Some(allocatable), resource),
            limit => limit,
        },
        _ => return None,
    };
    if !known {
        return None;
    }
    let milli = if resource == "cpu" {
        i128::from(amount)
    } else {
        i128::from(amount) * 1000
    };
    let divisor = selector
        .divisor
        .as_ref()
        .and_then(|divisor| quantity::milli(&divisor.0))
        .filter(|d| *d > 0)
        .unwrap_or(1000);
    Some(((milli + divisor - 1) / divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_and_resources() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "1", "b": "x\"y\n"}},
            "spec": {"nodeName": "node", "containers": []},
        }))
        .unwrap();
        let (pod_ips, host_ips) = (
            ["10.0.0.1".to_owned(), "fd00::1".to_owned()],
            ["192.168.0.1".to_owned()],
        );
        for (path, expected) in [
            ("metadata.name", Some("p")),
            ("metadata.labels['b']", Some("x\"y\n")),
            ("metadata.labels['none']", Some("")),
            ("metadata.labels", Some("a=\"1\"\nb=\"x\\\"y\\n\"")),
            ("status.podIPs", Some("10.0.0.1,fd00::1")),
            ("status.hostIP", Some("192.168.0.1")),
            ("spec.nodeName", Some("node")),
            ("spec.containers", None),
        ] {
            assert_eq!(
                pod_field(&pod, path, &pod_ips, &host_ips).as_deref(),
                expected,
                "{path}"
            );
        }
        let container: Container = serde_json::from_value(
            json!({"name": "c", "resources": {"requests": {"cpu": "250m"}, "limits": {"memory": "100Mi"}}}),
        )
        .unwrap();
        let allocatable = serde_json::from_value(json!({"cpu": "2", "memory": "1Gi"})).unwrap();
        for (resource, divisor, expected) in [
            ("requests.cpu", "0", Some("1")),
            ("requests.cpu", "1m", Some("250")),
            ("limits.cpu", "1", Some("2")),
            ("limits.memory", "1Mi", Some("100")),
            ("limits.memory", "1", Some("104857600")),
            ("requests.memory", "1", Some("104857600")),
            ("limits.gpu", "1", None),
        ] {
            let selector = serde_json::from_value(json!({"resource": resource, "divisor": divisor})).unwrap();
            assert_eq!(
                resource_field(&container, &selector, &allocatable).as_deref(),
                expected,
                "{resource} {divisor}"
            );
        }
    }
}
