//! What an object uses of a quota, and which quotas it falls under.

use std::collections::BTreeMap;

use keelson_api::quantity::{Format, Quantity};
use serde_json::{Map, Value};

use super::object::{list, map, present, text};

/// A plain number.
pub(super) fn amount(count: i64) -> Quantity {
    Quantity::from_value(count, Format::DecimalSI)
}

/// Amounts by the names that quotas use.
pub(super) fn usage(group: &str, resource: &str, object: &Value) -> BTreeMap<String, Quantity> {
    let mut all = BTreeMap::new();
    let counted = if group.is_empty() {
        format!("count/{resource}")
    } else {
        format!("count/{resource}.{group}")
    };
    all.insert(counted, amount(1));
    match (group, resource) {
        ("", "pods") => pod(object, &mut all),
        ("", "services") => service(object, &mut all),
        ("", "persistentvolumeclaims") => claim(object, &mut all),
        ("", "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => {
            all.insert(resource.to_owned(), amount(1));
        }
        _ => {}
    }
    all
}

fn terminal(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

fn pod(pod: &Value, all: &mut BTreeMap<String, Quantity>) {
    if terminal(pod) {
        return;
    }
    all.insert("pods".to_owned(), amount(1));
    for (field, prefix) in [("requests", "requests."), ("limits", "limits.")] {
        for (resource, total) in pod_total(pod, field) {
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
fn pod_total(pod: &Value, field: &str) -> BTreeMap<String, Quantity> {
    let of =
        |holder: &Value| -> BTreeMap<String, Quantity> { read(map(holder, &format!("/resources/{field}"))) };
    let add = |sum: &mut BTreeMap<String, Quantity>, more: &BTreeMap<String, Quantity>| {
        for (resource, quantity) in more {
            let total = sum
                .get(resource)
                .copied()
                .map_or(*quantity, |have| have.add(*quantity));
            sum.insert(resource.clone(), total);
        }
    };
    let mut sum = BTreeMap::new();
    list(pod, "/spec/containers")
        .iter()
        .for_each(|c| add(&mut sum, &of(c)));
    let (mut sidecars, mut peak) = (BTreeMap::new(), BTreeMap::new());
    for container in list(pod, "/spec/initContainers") {
        let mut now = of(container);
        if text(container, "/restartPolicy") == "Always" {
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
    sum.extend(of(&pod["spec"]));
    let overhead = read(map(pod, "/spec/overhead"));
    if field == "requests" {
        add(&mut sum, &overhead);
    } else {
        let limited = overhead
            .into_iter()
            .filter(|(resource, _)| sum.contains_key(resource))
            .collect();
        add(&mut sum, &limited);
    }
    sum
}

fn largest(into: &mut BTreeMap<String, Quantity>, from: BTreeMap<String, Quantity>) {
    for (resource, quantity) in from {
        let more = into
            .get(&resource)
            .is_none_or(|have| quantity.nanos() > have.nanos());
        if more {
            into.insert(resource, quantity);
        }
    }
}

fn read(amounts: Option<&Map<String, Value>>) -> BTreeMap<String, Quantity> {
    amounts
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| Some((k.clone(), Quantity::parse(v.as_str()?).ok()?)))
        .collect()
}

fn service(service: &Value, all: &mut BTreeMap<String, Quantity>) {
    all.insert("services".to_owned(), amount(1));
    let ports = list(service, "/spec/ports");
    match text(service, "/spec/type") {
        "NodePort" => {
            all.insert(
                "services.nodeports".to_owned(),
                amount(i64::try_from(ports.len()).unwrap_or(i64::MAX)),
            );
        }
        "LoadBalancer" => {
            let allocated = if service.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&false.into()) {
                ports
                    .iter()
                    .filter(|p| p["nodePort"].as_i64().unwrap_or(0) != 0)
                    .count()
            } else {
                ports.len()
            };
            all.insert(
                "services.nodeports".to_owned(),
                amount(i64::try_from(allocated).unwrap_or(i64::MAX)),
            );
            all.insert("services.loadbalancers".to_owned(), amount(1));
        }
        _ => {}
    }
}

fn claim(claim: &Value, all: &mut BTreeMap<String, Quantity>) {
    all.insert("persistentvolumeclaims".to_owned(), amount(1));
    let class = text(claim, "/spec/storageClassName");
    let of_class = |name: &str| format!("{class}.storageclass.storage.k8s.io/{name}");
    if !class.is_empty() {
        all.insert(of_class("persistentvolumeclaims"), amount(1));
    }
    if let Ok(size) = Quantity::parse(text(claim, "/spec/resources/requests/storage")) {
        all.insert("requests.storage".to_owned(), size);
        if !class.is_empty() {
            all.insert(of_class("requests.storage"), size);
        }
    }
}

/// Whether the object falls under all scopes of a quota. Only pods (and claims, by class) have scopes.
pub(super) fn matches_scopes(quota: &Value, group: &str, resource: &str, object: &Value) -> bool {
    let plain = list(quota, "/spec/scopes")
        .iter()
        .filter_map(Value::as_str)
        .map(|s| (s, "Exists", &[][..]));
    let selected = list(quota, "/spec/scopeSelector/matchExpressions").iter();
    let selected = selected.map(|e| (text(e, "/scopeName"), text(e, "/operator"), list(e, "/values")));
    plain.chain(selected).all(|(scope, operator, values)| {
        if group.is_empty() && resource == "pods" {
            pod_in_scope(object, scope, operator, values)
        } else {
            scope == "VolumeAttributesClass"
                && resource == "persistentvolumeclaims"
                && selects(text(object, "/spec/volumeAttributesClassName"), operator, values)
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

fn pod_in_scope(pod: &Value, scope: &str, operator: &str, values: &[Value]) -> bool {
    let terminating = pod
        .pointer("/spec/activeDeadlineSeconds")
        .and_then(Value::as_i64)
        .is_some_and(|s| s >= 0);
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(pod),
        "NotBestEffort" => !best_effort(pod),
        "PriorityClass" => selects(text(pod, "/spec/priorityClassName"), operator, values),
        "CrossNamespacePodAffinity" => cross_namespace(pod),
        _ => false,
    }
}

fn best_effort(pod: &Value) -> bool {
    let asks = |c: &Value| {
        ["requests", "limits"].iter().any(|kind| {
            let amounts = map(c, &format!("/resources/{kind}")).into_iter().flatten();
            amounts.into_iter().any(|(resource, value)| {
                matches!(resource.as_str(), "cpu" | "memory")
                    && value
                        .as_str()
                        .and_then(|v| Quantity::parse(v).ok())
                        .is_some_and(|q| !q.is_zero())
            })
        })
    };
    !list(pod, "/spec/containers")
        .iter()
        .chain(list(pod, "/spec/initContainers"))
        .any(asks)
}

fn cross_namespace(pod: &Value) -> bool {
    let beyond = |term: &Value| !list(term, "/namespaces").is_empty() || present(term, "/namespaceSelector");
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let at = |list_name: &str| format!("/spec/affinity/{kind}/{list_name}");
        let required = at("requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = at("preferredDuringSchedulingIgnoredDuringExecution");
        list(pod, &required).iter().any(beyond)
            || list(pod, &preferred)
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
}
