//! Admission on the node: whether a pod that was bound here can really run here. Pure; the checks and texts are upstream's.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};

use super::{qos, spec};
use crate::quantity;

/// Why a pod cannot run on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// The status reason, e.g. `OutOfcpu`.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What the node offers.
pub(crate) struct AdmissionNode {
    pub(crate) node: Option<Arc<Node>>,
    /// Allocatable as computed here, for when the object is not known.
    pub(crate) allocatable: quantity::ResourceList,
    pub(crate) max_pods: u32,
    /// Sysctls beyond the safe ones.
    pub(crate) allowed_sysctls: Vec<String>,
}

/// Sysctls that any pod may set.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Checks `pod` against the node and the pods that run on it.
pub(crate) fn admit(pod: &Pod, others: &[Arc<Pod>], node: &AdmissionNode) -> Result<(), Rejection> {
    operating_system(pod)?;
    sysctls(pod, &node.allowed_sysctls)?;
    pod_count(others, node)?;
    resources(pod, others, node)?;
    if let Some(object) = &node.node {
        affinity(pod, object)?;
        taints(pod, object)?;
    }
    host_ports(pod, others)
}

fn operating_system(pod: &Pod) -> Result<(), Rejection> {
    match &spec::spec(pod).os {
        Some(os) if os.name != "linux" => Err(Rejection {
            reason: "PodOSNotSupported",
            message: "Failed to admit pod as the OS field doesn't match node OS".into(),
        }),
        _ => Ok(()),
    }
}

fn sysctls(pod: &Pod, allowed: &[String]) -> Result<(), Rejection> {
    let wanted = spec::spec(pod)
        .security_context
        .as_ref()
        .and_then(|context| context.sysctls.as_deref());
    for sysctl in wanted.unwrap_or_default() {
        let name = sysctl.name.replace('/', ".");
        let listed = allowed.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => *pattern == name,
        });
        if !listed && !SAFE_SYSCTLS.contains(&name.as_str()) {
            return Err(Rejection {
                reason: "SysctlForbidden",
                message: format!("forbidden sysctl: {name:?} not allowlisted"),
            });
        }
    }
    Ok(())
}

fn out_of(reason: &'static str, resource: &str, requested: i64, used: i64, capacity: i64) -> Rejection {
    let message = format!(
        "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
    );
    Rejection { reason, message }
}

/// What the node can give of a resource; in thousandths for cpu, else in units.
pub(crate) fn capacity(node: &AdmissionNode, resource: &str) -> i64 {
    let list = Some(&node.allocatable);
    if resource == "cpu" {
        quantity::milli_of(list, resource)
    } else {
        quantity::value_of(list, resource)
    }
}

fn pod_count(others: &[Arc<Pod>], node: &AdmissionNode) -> Result<(), Rejection> {
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if count + 1 > i64::from(node.max_pods) {
        return Err(out_of("OutOfpods", "pods", 1, count, i64::from(node.max_pods)));
    }
    Ok(())
}

/// Whether the node has room for the requests of `pod` beside `others`.
pub(crate) fn resources(pod: &Pod, others: &[Arc<Pod>], node: &AdmissionNode) -> Result<(), Rejection> {
    for (resource, reason) in [
        ("cpu", "OutOfcpu"),
        ("memory", "OutOfmemory"),
        ("ephemeral-storage", "OutOfephemeral-storage"),
    ] {
        let requested = qos::pod_request(pod, resource);
        if requested == 0 {
            continue;
        }
        let used: i64 = others.iter().map(|other| qos::pod_request(other, resource)).sum();
        let capacity = capacity(node, resource);
        if used + requested > capacity {
            return Err(out_of(reason, resource, requested, used, capacity));
        }
    }
    Ok(())
}

fn affinity(pod: &Pod, node: &Node) -> Result<(), Rejection> {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let selector = spec::spec(pod).node_selector.clone().unwrap_or_default();
    let selected = selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    let required = spec::spec(pod)
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let matches = required.is_none_or(|required| {
        required
            .node_selector_terms
            .iter()
            .any(|term| term_matches(term, &labels, name))
    });
    if selected && matches {
        return Ok(());
    }
    Err(Rejection {
        reason: "NodeAffinity",
        message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into(),
    })
}

fn term_matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // A term without requirements matches nothing.
    (!expressions.is_empty() || !fields.is_empty())
        && expressions
            .iter()
            .all(|requirement| matches(requirement, labels.get(&requirement.key).map(String::as_str)))
        && fields
            .iter()
            .all(|field| field.key == "metadata.name" && matches(field, Some(name)))
}

fn matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|other| other == value));
    let number = |text: &str| text.parse::<i64>().ok();
    let compare = |test: fn(&i64, &i64) -> bool| {
        let (own, other) = (
            value.and_then(number),
            values.first().and_then(|text| number(text)),
        );
        own.zip(other).is_some_and(|(own, other)| test(&own, &other))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

fn taints(pod: &Pod, node: &Node) -> Result<(), Rejection> {
    if spec::is_static(pod) {
        return Ok(());
    }
    let tolerations = spec::spec(pod).tolerations.as_deref().unwrap_or_default();
    let taints = node
        .spec
        .as_ref()
        .and_then(|node| node.taints.as_deref())
        .unwrap_or_default();
    let untolerated = taints
        .iter()
        .filter(|taint| taint.effect == "NoExecute")
        .find(|taint| {
            !tolerations.iter().any(|toleration| {
                let effect = toleration.effect.as_deref().unwrap_or_default();
                let key = toleration.key.as_deref().unwrap_or_default();
                let exists = toleration.operator.as_deref() == Some("Exists");
                (effect.is_empty() || effect == taint.effect)
                    && (key == taint.key || (key.is_empty() && exists))
                    && (exists
                        || toleration.value.as_deref().unwrap_or_default()
                            == taint.value.as_deref().unwrap_or_default())
            })
        });
    match untolerated {
        Some(_) => Err(Rejection {
            reason: "TaintToleration",
            message: "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"
                .into(),
        }),
        None => Ok(()),
    }
}

/// `(protocol, ip, port)` of every port that the pod takes on the node.
fn ports(pod: &Pod) -> Vec<(String, String, i32)> {
    let containers = spec::init_containers(pod)
        .iter()
        .filter(|c| spec::is_sidecar(c))
        .chain(spec::containers(pod));
    containers
        .flat_map(|container| container.ports.as_deref().unwrap_or_default())
        .filter_map(|port| {
            let host = port.host_port.filter(|host| *host > 0)?;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
            let ip = port
                .host_ip
                .clone()
                .filter(|ip| !ip.is_empty())
                .unwrap_or_else(|| "0.0.0.0".into());
            Some((protocol, ip, host))
        })
        .collect()
}

fn host_ports(pod: &Pod, others: &[Arc<Pod>]) -> Result<(), Rejection> {
    let wanted = ports(pod);
    if wanted.is_empty() {
        return Ok(());
    }
    let clashes = |a: &(String, String, i32), b: &(String, String, i32)| {
        a.0 == b.0 && a.2 == b.2 && (a.1 == b.1 || a.1 == "0.0.0.0" || b.1 == "0.0.0.0")
    };
    let taken = others
        .iter()
        .flat_map(|other| ports(other))
        .any(|used| wanted.iter().any(|own| clashes(own, &used)));
    if !taken {
        return Ok(());
    }
    Err(Rejection {
        reason: "NodePorts",
        message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
            .into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap())
    }

    fn node() -> AdmissionNode {
        let node = json!({
            "metadata": {"name": "n1", "labels": {"disk": "ssd", "cores": "4"}},
            "spec": {"taints": [{"key": "gone", "effect": "NoExecute"}]},
        });
        AdmissionNode {
            node: Some(Arc::new(serde_json::from_value(node).unwrap())),
            allocatable: serde_json::from_value(json!({"cpu": "2", "memory": "1Gi"})).unwrap(),
            max_pods: 3,
            allowed_sysctls: vec!["net.core.*".into()],
        }
    }

    /// Spec of the pod, and the reason and a part of the message of its rejection.
    #[test]
    fn rejections_have_upstreams_reasons() {
        let tolerate = json!([{"operator": "Exists"}]);
        let with = |mut spec: Value, extra: Value| {
            spec["tolerations"] = tolerate.clone();
            for (key, value) in extra.as_object().unwrap() {
                spec[key] = value.clone();
            }
            spec
        };
        let cpu =
            |text: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": text}}}]});
        let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]});
        let none = json!({"containers": [{"name": "c"}]});
        let require = |operator: &str, values: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": [{"key": "cores", "operator": operator, "values": values}]}]}}}})
        };
        let running = [
            pod(with(cpu("500m"), json!({}))),
            pod(with(port.clone(), json!({}))),
        ];
        for (spec, expected) in [
            (with(cpu("1500m"), json!({})), None),
            (
                with(cpu("1600m"), json!({})),
                Some(("OutOfcpu", "requested: 1600, used: 500, capacity: 2000")),
            ),
            (with(port, json!({})), Some(("NodePorts", "free ports"))),
            (
                with(none.clone(), json!({"nodeSelector": {"disk": "hdd"}})),
                Some(("NodeAffinity", "didn't match")),
            ),
            (with(none.clone(), require("Gt", json!(["3"]))), None),
            (
                with(none.clone(), require("Lt", json!(["3"]))),
                Some(("NodeAffinity", "didn't match")),
            ),
            (none.clone(), Some(("TaintToleration", "taints"))),
            (
                with(none.clone(), json!({"os": {"name": "windows"}})),
                Some(("PodOSNotSupported", "OS field")),
            ),
            (
                with(
                    none.clone(),
                    json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}),
                ),
                Some(("SysctlForbidden", "\"kernel.msgmax\" not allowlisted")),
            ),
            (
                with(
                    none.clone(),
                    json!({"securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}}),
                ),
                None,
            ),
        ] {
            let result = admit(&pod(spec.clone()), &running, &node());
            match (result, expected) {
                (Ok(()), None) => {}
                (Err(rejection), Some((reason, part))) => {
                    assert_eq!(rejection.reason, reason, "{spec}");
                    assert!(rejection.message.contains(part), "{}", rejection.message);
                }
                (result, expected) => panic!("{spec}: {result:?}, expected {expected:?}"),
            }
        }
        let three = [running[0].clone(), running[0].clone(), running[0].clone()];
        assert_eq!(
            admit(&pod(none), &three, &node()).unwrap_err().reason,
            "OutOfpods"
        );
    }
}
