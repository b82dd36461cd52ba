//! Arithmetic of ResourceQuota: what an object uses, and which quotas it falls under. Admission charges with it, the quota
//! controller counts with it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::access::{entries, items, text};
use crate::gvk::GroupResource;
use crate::quantity::{Format, Quantity};

/// Amounts by the names that quotas use.
pub type Amounts = BTreeMap<String, Quantity>;

/// Core resources whose number has a name of its own, beside `count/…`.
const COUNTED: [&str; 4] = [
    "configmaps",
    "secrets",
    "replicationcontrollers",
    "resourcequotas",
];

/// A plain number.
pub fn count(number: usize) -> Quantity {
    Quantity::from_value(i64::try_from(number).unwrap_or(i64::MAX), Format::DecimalSI)
}

/// The amounts of a map of quantities as the API has it, e.g. `spec.hard`; what is no quantity is left out.
pub fn amounts(map: &Value) -> Amounts {
    entries(map)
        .filter_map(|(name, value)| Some((name.clone(), Quantity::parse(value.as_str()?).ok()?)))
        .collect()
}

/// Adds `more` to `sum`.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, quantity) in more {
        let total = sum.get(name).map_or(*quantity, |have| have.add(*quantity));
        sum.insert(name.clone(), total);
    }
}

/// The resource whose objects use what a quota calls `name`; `None` where no object does.
pub fn resource_of(name: &str) -> Option<GroupResource> {
    if let Some(counted) = name.strip_prefix("count/") {
        let (resource, group) = counted.split_once('.').unwrap_or((counted, ""));
        return Some(GroupResource::new(group.to_owned(), resource.to_owned()));
    }
    let resource = match name {
        "requests.storage" | "persistentvolumeclaims" => "persistentvolumeclaims",
        _ if name.contains(".storageclass.storage.k8s.io/") => "persistentvolumeclaims",
        "pods" | "cpu" | "memory" | "ephemeral-storage" => "pods",
        _ if ["requests.", "limits.", "hugepages-"]
            .iter()
            .any(|prefix| name.starts_with(prefix)) =>
        {
            "pods"
        }
        "services" | "services.nodeports" | "services.loadbalancers" => "services",
        _ => *COUNTED.iter().find(|plain| **plain == name)?,
    };
    Some(GroupResource::new("", resource))
}

/// What one object of this resource uses.
pub fn usage(group: &str, resource: &str, object: &Value) -> Amounts {
    let mut all = counted(group, resource, 1);
    match (group, resource) {
        ("", "pods") => pod(object, &mut all),
        ("", "services") => service(object, &mut all),
        ("", "persistentvolumeclaims") => claim(object, &mut all),
        _ => {}
    }
    all
}

/// What so many objects of a resource use of which only the number counts.
pub fn counted(group: &str, resource: &str, number: usize) -> Amounts {
    let name = if group.is_empty() {
        format!("count/{resource}")
    } else {
        format!("count/{resource}.{group}")
    };
    let mut all = Amounts::from([(name, count(number))]);
    let plain = [
        "configmaps",
        "secrets",
        "replicationcontrollers",
        "resourcequotas",
    ];
    if group.is_empty() && plain.contains(&resource) {
        all.insert(resource.to_owned(), count(number));
    }
    all
}

fn pod(pod: &Value, all: &mut Amounts) {
    if matches!(text(&pod["status"], "phase"), "Succeeded" | "Failed") {
        return;
    }
    all.insert("pods".to_owned(), count(1));
    for (field, prefix) in [("requests", "requests."), ("limits", "limits.")] {
        for (resource, total) in pod_total(&pod["spec"], field) {
            let base = matches!(resource.as_str(), "cpu" | "memory" | "ephemeral-storage");
            let huge = resource.starts_with("hugepages-");
            if field == "requests" && (base || huge) {
                all.insert(resource.clone(), total);
            }
            if field == "requests" || base {
                all.insert(format!("{prefix}{resource}"), total);
            }
        }
    }
}

/// As the scheduler counts: containers and sidecars together, or the largest init container with the sidecars before it,
/// and the overhead.
fn pod_total(spec: &Value, field: &str) -> Amounts {
    let of = |holder: &Value| amounts(&holder["resources"][field]);
    let mut sum = Amounts::new();
    items(&spec["containers"])
        .iter()
        .for_each(|c| add(&mut sum, &of(c)));
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in items(&spec["initContainers"]) {
        let mut now = of(container);
        if text(container, "restartPolicy") == "Always" {
            add(&mut sidecars, &now);
            now = sidecars.clone();
        } else {
            add(&mut now, &sidecars);
        }
        largest(&mut peak, now);
    }
    add(&mut sum, &sidecars);
    largest(&mut sum, peak);
    // What is set for the pod as a whole takes the place of the sum.
    sum.extend(of(spec));
    let mut overhead = amounts(&spec["overhead"]);
    if field != "requests" {
        overhead.retain(|resource, _| sum.contains_key(resource));
    }
    add(&mut sum, &overhead);
    sum
}

fn largest(into: &mut Amounts, from: Amounts) {
    for (resource, quantity) in from {
        let more = into
            .get(&resource)
            .is_none_or(|have| quantity.nanos() > have.nanos());
        if more {
            into.insert(resource, quantity);
        }
    }
}

fn service(service: &Value, all: &mut Amounts) {
    let spec = &service["spec"];
    let ports = items(&spec["ports"]);
    all.insert("services".to_owned(), count(1));
    let node_ports = match text(spec, "type") {
        "LoadBalancer" if spec["allocateLoadBalancerNodePorts"] == Value::Bool(false) => ports
            .iter()
            .filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0)
            .count(),
        "NodePort" | "LoadBalancer" => ports.len(),
        _ => return,
    };
    all.insert("services.nodeports".to_owned(), count(node_ports));
    if text(spec, "type") == "LoadBalancer" {
        all.insert("services.loadbalancers".to_owned(), count(1));
    }
}

fn claim(claim: &Value, all: &mut Amounts) {
    let spec = &claim["spec"];
    all.insert("persistentvolumeclaims".to_owned(), count(1));
    let class = text(spec, "storageClassName");
    let of_class = |name: &str| format!("{class}.storageclass.storage.k8s.io/{name}");
    if !class.is_empty() {
        all.insert(of_class("persistentvolumeclaims"), count(1));
    }
    if let Ok(size) = Quantity::parse(text(&spec["resources"]["requests"], "storage")) {
        all.insert("requests.storage".to_owned(), size);
        if !class.is_empty() {
            all.insert(of_class("requests.storage"), size);
        }
    }
}

/// Whether the object falls under all scopes of a quota. Only pods (and claims, by class) have scopes.
pub fn matches_scopes(quota: &Value, group: &str, resource: &str, object: &Value) -> bool {
    let spec = &quota["spec"];
    let plain = items(&spec["scopes"])
        .iter()
        .filter_map(Value::as_str)
        .map(|scope| (scope, "Exists", &[][..]));
    let selected = items(&spec["scopeSelector"]["matchExpressions"])
        .iter()
        .map(|term| {
            (
                text(term, "scopeName"),
                text(term, "operator"),
                items(&term["values"]),
            )
        });
    plain.chain(selected).all(|(scope, operator, values)| {
        if group.is_empty() && resource == "pods" {
            pod_in_scope(&object["spec"], scope, operator, values)
        } else {
            scope == "VolumeAttributesClass"
                && resource == "persistentvolumeclaims"
                && selects(
                    text(&object["spec"], "volumeAttributesClassName"),
                    operator,
                    values,
                )
        }
    })
}

fn selects(value: &str, operator: &str, values: &[Value]) -> bool {
    match operator {
        "In" => values.iter().any(|v| v == value),
        "NotIn" => !values.iter().any(|v| v == value),
        "DoesNotExist" => value.is_empty(),
        _ => !value.is_empty(),
    }
}

fn pod_in_scope(spec: &Value, scope: &str, operator: &str, values: &[Value]) -> bool {
    let terminating = spec["activeDeadlineSeconds"].as_i64().is_some_and(|s| s >= 0);
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(spec),
        "NotBestEffort" => !best_effort(spec),
        "PriorityClass" => selects(text(spec, "priorityClassName"), operator, values),
        "CrossNamespacePodAffinity" => cross_namespace(spec),
        _ => false,
    }
}

fn best_effort(spec: &Value) -> bool {
    let asks = |holder: &Value| {
        ["requests", "limits"].iter().any(|kind| {
            let asked = amounts(&holder["resources"][kind]);
            ["cpu", "memory"]
                .iter()
                .any(|name| asked.get(*name).is_some_and(|amount| !amount.is_zero()))
        })
    };
    let containers = items(&spec["containers"]).iter();
    !containers.chain(items(&spec["initContainers"])).any(asks)
}

fn cross_namespace(spec: &Value) -> bool {
    let beyond =
        |term: &Value| !items(&term["namespaces"]).is_empty() || !term["namespaceSelector"].is_null();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let rules = &spec["affinity"][kind];
        let required = items(&rules["requiredDuringSchedulingIgnoredDuringExecution"]);
        let preferred = items(&rules["preferredDuringSchedulingIgnoredDuringExecution"]);
        required.iter().any(beyond)
            || preferred
                .iter()
                .any(|weighted| beyond(&weighted["podAffinityTerm"]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(group: &str, resource: &str, object: Value) -> String {
        let all = usage(group, resource, &object);
        all.iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn amounts() {
        assert_eq!(
            shown("apps", "deployments", json!({})),
            "count/deployments.apps=1"
        );
        assert_eq!(
            shown(
                "",
                "pods",
                json!({"spec": {
                "containers": [{"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}},
                    {"resources": {"requests": {"cpu": "500m"}}}],
                "initContainers": [{"resources": {"requests": {"cpu": "3"}}}]}})
            ),
            "count/pods=1 cpu=3 limits.cpu=2 pods=1 requests.cpu=3"
        );
        assert_eq!(
            shown("", "pods", json!({"status": {"phase": "Failed"}})),
            "count/pods=1"
        );
        assert_eq!(
            shown(
                "",
                "services",
                json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}})
            ),
            "count/services=1 services=1 services.loadbalancers=1 services.nodeports=2"
        );
        let claim =
            json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}});
        assert!(
            shown("", "persistentvolumeclaims", claim)
                .contains("fast.storageclass.storage.k8s.io/requests.storage=1Gi")
        );
    }

    #[test]
    fn scopes() {
        let check = |spec: Value, quota: Value, want: bool| {
            let (pod, quota) = (json!({ "spec": spec }), json!({ "spec": quota }));
            assert_eq!(matches_scopes(&quota, "", "pods", &pod), want, "{quota} {pod}");
        };
        check(json!({}), json!({}), true);
        check(json!({}), json!({"scopes": ["BestEffort"]}), true);
        check(json!({}), json!({"scopes": ["BestEffort", "Terminating"]}), false);
        let sized = json!({"containers": [{"resources": {"requests": {"cpu": "1"}}}]});
        check(sized.clone(), json!({"scopes": ["BestEffort"]}), false);
        check(
            sized,
            json!({"scopes": ["NotBestEffort", "NotTerminating"]}),
            true,
        );
        let class = json!({"scopeSelector": {"matchExpressions":
            [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}});
        check(json!({"priorityClassName": "high"}), class.clone(), true);
        check(json!({"priorityClassName": "low"}), class, false);
    }

    #[test]
    fn resources_by_name() {
        for (name, expected) in [
            ("pods", "pods"),
            ("requests.cpu", "pods"),
            ("requests.example.com/gpu", "pods"),
            ("hugepages-2Mi", "pods"),
            ("requests.storage", "persistentvolumeclaims"),
            (
                "gold.storageclass.storage.k8s.io/requests.storage",
                "persistentvolumeclaims",
            ),
            ("services.nodeports", "services"),
            ("count/deployments.apps", "deployments.apps"),
            ("count/widgets.example.com", "widgets.example.com"),
            ("count/configmaps", "configmaps"),
            ("secrets", "secrets"),
        ] {
            assert_eq!(
                resource_of(name).map(|found| found.to_string()).as_deref(),
                Some(expected)
            );
        }
        assert_eq!(resource_of("example.com/gpu"), None);
    }
}
