//! Quality-of-service classes and what follows from them: cgroup numbers and OOM score adjustments.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::spec;
use crate::quantity::{ResourceList, milli_of, value_of};

/// How well a pod is protected from its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    /// The API's name of the class.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The class of `pod`, from the cpu and memory of its containers and init containers, or of the pod itself.
pub(crate) fn class(pod: &Pod) -> Qos {
    let pod_level = spec::spec(pod)
        .resources
        .as_ref()
        .filter(|r| r.requests.is_some() || r.limits.is_some());
    let all: Vec<(Option<&ResourceList>, Option<&ResourceList>)> = match pod_level {
        Some(resources) => vec![(resources.requests.as_ref(), resources.limits.as_ref())],
        None => spec::containers(pod)
            .iter()
            .chain(spec::init_containers(pod))
            .map(lists)
            .collect(),
    };
    let mut any = false;
    let mut guaranteed = true;
    for (requests, limits) in all {
        for resource in ["cpu", "memory"] {
            let (request, limit) = (milli_of(requests, resource), milli_of(limits, resource));
            any |= request > 0 || limit > 0;
            // An absent request defaults to the limit.
            guaranteed &= limit > 0 && (request == 0 || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

fn lists(container: &Container) -> (Option<&ResourceList>, Option<&ResourceList>) {
    let resources = container.resources.as_ref();
    (
        resources.and_then(|r| r.requests.as_ref()),
        resources.and_then(|r| r.limits.as_ref()),
    )
}

/// The request of one container; the limit where there is no request. In thousandths for cpu, else in units.
pub(crate) fn request(container: &Container, resource: &str) -> i64 {
    let (requests, limits) = lists(container);
    let get = if resource == "cpu" { milli_of } else { value_of };
    match requests.is_some_and(|list| list.contains_key(resource)) {
        true => get(requests, resource),
        false => get(limits, resource),
    }
}

/// The limit of one container, 0 for none; units as in [`request`].
pub(crate) fn limit(container: &Container, resource: &str) -> i64 {
    let (_, limits) = lists(container);
    if resource == "cpu" {
        milli_of(limits, resource)
    } else {
        value_of(limits, resource)
    }
}

/// What a pod asks of the node: the larger of its main containers with all sidecars, and of each init container with the
/// sidecars before it; plus overhead. Units as in [`request`].
pub(crate) fn pod_request(pod: &Pod, resource: &str) -> i64 {
    let pod_level = spec::spec(pod)
        .resources
        .as_ref()
        .and_then(|r| r.requests.as_ref());
    let overhead = overhead(pod, resource);
    if pod_level.is_some_and(|list| list.contains_key(resource)) {
        let get = if resource == "cpu" { milli_of } else { value_of };
        return get(pod_level, resource) + overhead;
    }
    combined(pod, |container| request(container, resource)) + overhead
}

/// The sum of limits as in [`pod_request`]; 0 when any container has none.
pub(crate) fn pod_limit(pod: &Pod, resource: &str) -> i64 {
    let pod_level = spec::spec(pod).resources.as_ref().and_then(|r| r.limits.as_ref());
    if pod_level.is_some_and(|list| list.contains_key(resource)) {
        let get = if resource == "cpu" { milli_of } else { value_of };
        return get(pod_level, resource) + overhead(pod, resource);
    }
    let unlimited = spec::containers(pod)
        .iter()
        .chain(
            spec::init_containers(pod)
                .iter()
                .filter(|container| spec::is_sidecar(container)),
        )
        .any(|container| limit(container, resource) == 0);
    if unlimited {
        return 0;
    }
    combined(pod, |container| limit(container, resource)) + overhead(pod, resource)
}

fn overhead(pod: &Pod, resource: &str) -> i64 {
    let list = spec::spec(pod).overhead.as_ref();
    if resource == "cpu" {
        milli_of(list, resource)
    } else {
        value_of(list, resource)
    }
}

fn combined(pod: &Pod, of: impl Fn(&Container) -> i64) -> i64 {
    let mut total: i64 = spec::containers(pod).iter().map(&of).sum();
    let (mut sidecars, mut highest) = (0, 0);
    for container in spec::init_containers(pod) {
        let own = of(container);
        if spec::is_sidecar(container) {
            total += own;
            sidecars += own;
            highest = highest.max(sidecars);
        } else {
            highest = highest.max(sidecars + own);
        }
    }
    total.max(highest)
}

/// cpu.shares of a cpu amount in thousandths: 1024 a core, at least 2, at most 262144.
pub(crate) fn cpu_shares(milli: i64) -> i64 {
    (milli * 1024 / 1000).clamp(2, 262_144)
}

/// CFS quota in microseconds per period of 100 ms; 0 is no limit, otherwise at least 1 ms.
pub(crate) fn cpu_quota(milli: i64) -> i64 {
    if milli <= 0 {
        0
    } else {
        (milli * 100_000 / 1000).max(1000)
    }
}

/// How readily the kernel kills a container's processes, between -997 and 1000.
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    if spec::is_critical(pod) {
        return -997;
    }
    match class(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let adjusted = 1000 - (1000 * request(container, "memory")) / memory_capacity.max(1);
            // Below guaranteed ones, above best-effort ones.
            if adjusted < 3 { 3 } else { adjusted.min(999) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(containers: serde_json::Value, init: serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p"}, "spec": {"containers": containers, "initContainers": init}}),
        )
        .unwrap()
    }

    fn container(requests: serde_json::Value, limits: serde_json::Value) -> serde_json::Value {
        json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
    }

    #[test]
    fn classes() {
        for (requests, limits, expected) in [
            (json!({}), json!({}), Qos::BestEffort),
            (json!({"cpu": "1"}), json!({}), Qos::Burstable),
            (json!({}), json!({"cpu": "1", "memory": "1Gi"}), Qos::Guaranteed),
            (
                json!({"cpu": "1", "memory": "1Gi"}),
                json!({"cpu": "1000m", "memory": "1024Mi"}),
                Qos::Guaranteed,
            ),
            (
                json!({"cpu": "500m", "memory": "1Gi"}),
                json!({"cpu": "1", "memory": "1Gi"}),
                Qos::Burstable,
            ),
            (
                json!({"nvidia.com/gpu": "1"}),
                json!({"nvidia.com/gpu": "1"}),
                Qos::BestEffort,
            ),
        ] {
            assert_eq!(
                class(&pod(json!([container(requests.clone(), limits)]), json!([]))),
                expected,
                "{requests}"
            );
        }
    }

    #[test]
    fn requests_count_init_containers_and_sidecars_as_the_scheduler_does() {
        let cpu = |text: &str| json!({"cpu": text});
        let sidecar = |text: &str| json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": text}}});
        let main = json!([container(cpu("300m"), json!({}))]);
        for (init, expected) in [
            (json!([]), 300),
            (json!([container(cpu("1"), json!({}))]), 1000),
            (json!([sidecar("200m")]), 500),
            (json!([sidecar("200m"), container(cpu("1"), json!({}))]), 1200),
            (json!([container(cpu("400m"), json!({})), sidecar("200m")]), 500),
        ] {
            assert_eq!(
                pod_request(&pod(main.clone(), init.clone()), "cpu"),
                expected,
                "{init}"
            );
        }
        assert_eq!(
            (
                cpu_shares(0),
                cpu_shares(1000),
                cpu_quota(0),
                cpu_quota(5),
                cpu_quota(1500)
            ),
            (2, 1024, 0, 1000, 150_000)
        );
    }
}
