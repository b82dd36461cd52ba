//! Amounts of resources as whole numbers, and what pods request.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use keelson_api::quantity::Quantity;

/// What a container that requests no CPU counts as when nodes are scored.
const DEFAULT_MILLI_CPU_REQUEST: i64 = 100;
/// What a container that requests no memory counts as when nodes are scored.
const DEFAULT_MEMORY_REQUEST: i64 = 200 * 1024 * 1024;

/// CPU in thousandths, memory and storage in bytes, all else in units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) milli_cpu: i64,
    pub(crate) memory: i64,
    pub(crate) ephemeral_storage: i64,
    /// How many pods a node takes; not used in requests.
    pub(crate) pods: i64,
    pub(crate) scalar: BTreeMap<String, i64>,
}

type List = BTreeMap<String, ApiQuantity>;

/// The quantity; one that cannot be parsed (the API server lets none in) counts as zero.
pub(crate) fn quantity(text: &ApiQuantity) -> Quantity {
    Quantity::parse(&text.0).unwrap_or_default()
}

impl Resource {
    pub(crate) fn of(list: &List) -> Self {
        let mut resource = Self::default();
        for (name, amount) in list {
            let amount = quantity(amount);
            match name.as_str() {
                "cpu" => resource.milli_cpu = amount.milli_value(),
                "memory" => resource.memory = amount.value(),
                "ephemeral-storage" => resource.ephemeral_storage = amount.value(),
                "pods" => resource.pods = amount.value(),
                _ => {
                    resource.scalar.insert(name.clone(), amount.value());
                }
            }
        }
        resource
    }

    fn combine(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            match self.scalar.get_mut(name) {
                Some(known) => *known = with(*known, *amount),
                None => {
                    self.scalar.insert(name.clone(), with(0, *amount));
                }
            }
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    pub(crate) fn sub(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    fn set_max(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    /// The amount of one resource.
    pub(crate) fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.milli_cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            "pods" => self.pods,
            _ => self.scalar.get(name).copied().unwrap_or_default(),
        }
    }
}

fn requests(requirements: Option<&ResourceRequirements>) -> Option<&List> {
    requirements.and_then(|resources| resources.requests.as_ref())
}

fn container_request(container: &Container, status: Option<&ContainerStatus>, non_zero: bool) -> Resource {
    let listed = requests(container.resources.as_ref());
    let mut resource = listed.map(Resource::of).unwrap_or_default();
    // A resize in progress counts with the more of what is asked, given and in effect.
    if let Some(status) = status {
        for list in [
            requests(status.resources.as_ref()),
            status.allocated_resources.as_ref(),
        ]
        .into_iter()
        .flatten()
        {
            resource.set_max(&Resource::of(list));
        }
    }
    if non_zero {
        let missing = |name: &str| listed.is_none_or(|list| !list.contains_key(name));
        if missing("cpu") {
            resource.milli_cpu = resource.milli_cpu.max(DEFAULT_MILLI_CPU_REQUEST);
        }
        if missing("memory") {
            resource.memory = resource.memory.max(DEFAULT_MEMORY_REQUEST);
        }
    }
    resource
}

/// What a pod requests: its containers and sidecars together, or what an init container needs beside the sidecars before it,
/// whichever is more; what the pod itself requests in place of that; plus its overhead. With `non_zero` every container counts
/// with defaults for CPU and memory.
pub(crate) fn pod_requests(pod: &Pod, non_zero: bool) -> Resource {
    let Some(spec) = &pod.spec else {
        return Resource::default();
    };
    let status = pod.status.as_ref();
    let pod_level = requests(spec.resources.as_ref());
    let covers = |name: &str| pod_level.is_some_and(|list| list.contains_key(name));
    let defaults = non_zero && !(covers("cpu") && covers("memory"));
    let statuses = status
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default();
    let init_statuses = status
        .and_then(|status| status.init_container_statuses.as_deref())
        .unwrap_or_default();
    let of = |container: &Container, statuses: &[ContainerStatus]| {
        let status = statuses.iter().find(|status| status.name == container.name);
        container_request(container, status, defaults)
    };
    let mut sum = Resource::default();
    for container in &spec.containers {
        sum.add(&of(container, statuses));
    }
    let (mut sidecars, mut most) = (Resource::default(), Resource::default());
    for container in spec.init_containers.as_deref().unwrap_or_default() {
        let mut needed = of(container, init_statuses);
        if container.restart_policy.as_deref() == Some("Always") {
            sum.add(&needed);
            sidecars.add(&needed);
            most.set_max(&sidecars);
        } else {
            needed.add(&sidecars);
            most.set_max(&needed);
        }
    }
    sum.set_max(&most);
    if let Some(list) = pod_level {
        let own = Resource::of(list);
        for name in list.keys() {
            match name.as_str() {
                "cpu" => sum.milli_cpu = own.milli_cpu,
                "memory" => sum.memory = own.memory,
                other if other.starts_with("hugepages-") => {
                    sum.scalar.insert(name.clone(), own.get(name));
                }
                _ => {}
            }
        }
    }
    if let Some(overhead) = &spec.overhead {
        sum.add(&Resource::of(overhead));
    }
    sum
}
