//! LimitRanger: default requests and limits of containers, and the bounds of a namespace.

use async_trait::async_trait;
use keelson_api::quantity::Quantity;
use keelson_api::status::Status;
use serde_json::{Map, Value};

use super::object::{forbidden, list, map, text};
use super::{Attributes, MutatingPlugin, Operation, ValidatingPlugin};
use crate::resources::{Reader, Resources};

/// See the module.
pub(super) struct LimitRanger {
    ranges: Reader,
}

impl LimitRanger {
    pub(super) fn new(resources: &Resources) -> Self {
        Self {
            ranges: resources.resource("", "limitranges"),
        }
    }

    fn items(&self, namespace: &str) -> Vec<Value> {
        let ranges = self.ranges.list(Some(namespace));
        ranges
            .iter()
            .flat_map(|range| list(range.value(), "/spec/limits").to_vec())
            .collect()
    }
}

fn wanted(attributes: &Attributes<'_>) -> bool {
    let pod = attributes.is("", "pods");
    let claim = attributes.is("", "persistentvolumeclaims");
    match attributes.operation {
        Operation::Create => pod || claim,
        // A pod's resources do not change but by resize.
        Operation::Update => claim,
        _ => false,
    }
}

/// Fills what a container leaves out: limits by `default`, requests by `defaultRequest`, else by the limit.
fn add_defaults(pod: &mut Value, items: &[Value]) {
    for item in items.iter().filter(|item| text(item, "/type") == "Container") {
        let mut set = Vec::new();
        for kind in ["initContainers", "containers"] {
            let Some(containers) = pod
                .pointer_mut(&format!("/spec/{kind}"))
                .and_then(Value::as_array_mut)
            else {
                continue;
            };
            for container in containers {
                let mut added = Vec::new();
                for (from, to) in [("defaultRequest", "requests"), ("default", "limits")] {
                    for (resource, value) in map(item, &format!("/{from}")).into_iter().flatten() {
                        let target = &mut container["resources"][to];
                        if !target.is_object() {
                            *target = Value::Object(Map::new());
                        }
                        if target.get(resource).is_none() {
                            target[resource] = value.clone();
                            added.push(format!(
                                "{resource} {}",
                                if to == "limits" { "limit" } else { "request" }
                            ));
                        }
                    }
                }
                if !added.is_empty() {
                    added.sort();
                    let what = if kind == "containers" {
                        "container"
                    } else {
                        "init container"
                    };
                    set.push(format!(
                        "{} for {what} {}",
                        added.join(", "),
                        text(container, "/name")
                    ));
                }
            }
        }
        if !set.is_empty() {
            let note = format!("LimitRanger plugin set: {}", set.join("; "));
            pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"] = note.into();
        }
    }
}

fn quantity(amounts: Option<&Map<String, Value>>, resource: &str) -> Option<Quantity> {
    Quantity::parse(amounts?.get(resource)?.as_str()?).ok()
}

/// The bounds that requests and limits break, in upstream's words.
fn violations(
    item: &Value,
    kind: &str,
    requests: Option<&Map<String, Value>>,
    limits: Option<&Map<String, Value>>,
) -> Vec<String> {
    let mut problems = Vec::new();
    let of = |a: Option<&Map<String, Value>>, r: &str| {
        a.and_then(|a| a.get(r))
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    for (resource, value) in map(item, "/min").into_iter().flatten() {
        let (Some(min), least) = (
            quantity(map(item, "/min"), resource),
            value.as_str().unwrap_or_default(),
        ) else {
            continue;
        };
        match quantity(requests, resource) {
            None => problems.push(format!(
                "minimum {resource} usage per {kind} is {least}.  No request is specified"
            )),
            Some(request) if request.nanos() < min.nanos() => problems.push(format!(
                "minimum {resource} usage per {kind} is {least}, but request is {}",
                of(requests, resource)
            )),
            _ => {}
        }
        if let Some(limit) = quantity(limits, resource)
            && limit.nanos() < min.nanos()
        {
            problems.push(format!(
                "minimum {resource} usage per {kind} is {least}, but limit is {}",
                of(limits, resource)
            ));
        }
    }
    for (resource, value) in map(item, "/max").into_iter().flatten() {
        let (Some(max), most) = (
            quantity(map(item, "/max"), resource),
            value.as_str().unwrap_or_default(),
        ) else {
            continue;
        };
        // A claim has no limits: its request is what is bounded.
        let (bounded, word) = if kind == "PersistentVolumeClaim" {
            (requests, "request")
        } else {
            (limits, "limit")
        };
        match quantity(bounded, resource) {
            None => problems.push(format!(
                "maximum {resource} usage per {kind} is {most}.  No {word} is specified"
            )),
            Some(amount) if amount.nanos() > max.nanos() => problems.push(format!(
                "maximum {resource} usage per {kind} is {most}, but {word} is {}",
                of(bounded, resource)
            )),
            _ => {}
        }
        if let Some(request) = quantity(requests, resource)
            && kind != "PersistentVolumeClaim"
            && request.nanos() > max.nanos()
        {
            problems.push(format!(
                "maximum {resource} usage per {kind} is {most}, but request is {}",
                of(requests, resource)
            ));
        }
    }
    for (resource, value) in map(item, "/maxLimitRequestRatio").into_iter().flatten() {
        let Some(most) = quantity(map(item, "/maxLimitRequestRatio"), resource) else {
            continue;
        };
        let shown = value.as_str().unwrap_or_default();
        match (quantity(requests, resource), quantity(limits, resource)) {
            (Some(request), Some(limit)) if !request.is_zero() => {
                let ratio = limit.as_f64() / request.as_f64();
                if ratio > most.as_f64() {
                    problems.push(format!(
                        "{resource} max limit to request ratio per {kind} is {shown}, but provided ratio is {ratio:.6}"
                    ));
                }
            }
            _ => problems.push(format!(
                "{resource} max limit to request ratio per {kind} is {shown}, but no request is specified or request is 0"
            )),
        }
    }
    problems
}

/// Requests or limits of all containers together: the sum of the regular ones and restartable init containers, or the
/// largest init container if that is more.
fn pod_total(pod: &Value, field: &str) -> Map<String, Value> {
    let mut sum: Map<String, Value> = Map::new();
    let mut add = |amounts: Option<&Map<String, Value>>, largest: bool| {
        for (resource, value) in amounts.into_iter().flatten() {
            let Some(amount) = value.as_str().and_then(|v| Quantity::parse(v).ok()) else {
                continue;
            };
            let total = match sum
                .get(resource)
                .and_then(Value::as_str)
                .and_then(|v| Quantity::parse(v).ok())
            {
                None => amount,
                Some(have) if largest => {
                    if amount.nanos() > have.nanos() {
                        amount
                    } else {
                        have
                    }
                }
                Some(have) => have.add(amount),
            };
            sum.insert(resource.clone(), total.to_string().into());
        }
    };
    for container in list(pod, "/spec/containers") {
        add(map(container, &format!("/resources/{field}")), false);
    }
    let (sidecars, init): (Vec<&Value>, Vec<&Value>) = list(pod, "/spec/initContainers")
        .iter()
        .partition(|c| text(c, "/restartPolicy") == "Always");
    sidecars
        .iter()
        .for_each(|c| add(map(c, &format!("/resources/{field}")), false));
    init.iter()
        .for_each(|c| add(map(c, &format!("/resources/{field}")), true));
    sum
}

fn check(resource: &str, object: &Value, items: &[Value]) -> Vec<String> {
    let mut problems = Vec::new();
    for item in items {
        match (text(item, "/type"), resource) {
            ("Container", "pods") => {
                for container in list(object, "/spec/containers")
                    .iter()
                    .chain(list(object, "/spec/initContainers"))
                {
                    let (requests, limits) = (
                        map(container, "/resources/requests"),
                        map(container, "/resources/limits"),
                    );
                    problems.extend(violations(item, "Container", requests, limits));
                }
            }
            ("Pod", "pods") => {
                let (requests, limits) = (pod_total(object, "requests"), pod_total(object, "limits"));
                problems.extend(violations(item, "Pod", Some(&requests), Some(&limits)));
            }
            ("PersistentVolumeClaim", "persistentvolumeclaims") => {
                let requests = map(object, "/spec/resources/requests");
                problems.extend(violations(item, "PersistentVolumeClaim", requests, None));
            }
            _ => {}
        }
    }
    problems
}

#[async_trait]
impl MutatingPlugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create && attributes.is("", "pods")
    }

    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), Status> {
        if let Some(pod) = object {
            add_defaults(pod, &self.items(attributes.namespace));
        }
        Ok(())
    }
}

#[async_trait]
impl ValidatingPlugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        wanted(attributes)
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(value) = object else { return Ok(()) };
        let problems = check(
            &attributes.resource.resource,
            value,
            &self.items(attributes.namespace),
        );
        match problems.as_slice() {
            [] => Ok(()),
            [one] => Err(forbidden(attributes, object, one)),
            many => Err(forbidden(attributes, object, format!("[{}]", many.join(", ")))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults() {
        let item = json!({"type": "Container", "default": {"cpu": "2"}, "defaultRequest": {"cpu": "1", "memory": "1Gi"}});
        let mut pod = json!({"metadata": {}, "spec": {"containers": [
            {"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "500m"}}}]}});
        add_defaults(&mut pod, &[item]);
        let containers = &pod["spec"]["containers"];
        assert_eq!(
            containers[0]["resources"],
            json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1", "memory": "1Gi"}})
        );
        assert_eq!(containers[1]["resources"]["requests"]["cpu"], "500m");
        assert_eq!(
            pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
            "LimitRanger plugin set: cpu limit, cpu request, memory request for container a; cpu limit, memory request for \
             container b"
        );
    }

    #[test]
    fn bounds() {
        let pod = |requests: Value, limits: Value| json!({"spec": {"containers": [{"name": "a", "resources": {"requests": requests, "limits": limits}}]}});
        let container = json!({"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "1"}});
        let ask = |item: &Value, pod: &Value| check("pods", pod, std::slice::from_ref(item)).join("; ");
        assert_eq!(
            ask(&container, &pod(json!({"cpu": "200m"}), json!({"cpu": "1"}))),
            ""
        );
        assert_eq!(
            ask(&container, &pod(json!({"cpu": "50m"}), json!({"cpu": "2"}))),
            "minimum cpu usage per Container is 100m, but request is 50m; maximum cpu usage per Container is 1, but limit is 2"
        );
        assert_eq!(
            ask(&container, &pod(json!({}), json!({}))),
            "minimum cpu usage per Container is 100m.  No request is specified; maximum cpu usage per Container is 1.  No \
             limit is specified"
        );
        let ratio = json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "2"}});
        assert_eq!(
            ask(&ratio, &pod(json!({"cpu": "1"}), json!({"cpu": "3"}))),
            "cpu max limit to request ratio per Pod is 2, but provided ratio is 3.000000"
        );
        let claim = json!({"spec": {"resources": {"requests": {"storage": "5Gi"}}}});
        let range = json!({"type": "PersistentVolumeClaim", "max": {"storage": "2Gi"}});
        assert_eq!(
            check("persistentvolumeclaims", &claim, &[range]),
            ["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 5Gi"]
        );
    }
}
