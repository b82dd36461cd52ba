//! The resources that this node has given to a pod (KEP-1287): they may lag behind the spec while a resize waits, and what
//! the containers really have may lag behind them. Both are kept in the pod's directory, so that a restart picks them up.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde::{Deserialize, Serialize};

use super::{qos, spec};

/// File in the pod's directory.
const FILE: &str = "resources.json";

/// Resources by container, of those that can be resized: main containers and sidecars.
pub(crate) type OfContainers = BTreeMap<String, ResourceRequirements>;

/// What a pod was given, and what its containers have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PodResources {
    /// The pod's own resources.
    pod: Option<ResourceRequirements>,
    /// Given to the containers.
    pub(crate) allocated: OfContainers,
    /// What the containers that run have, as they were started or last resized.
    pub(crate) actuated: OfContainers,
}

/// The containers of a pod whose resources can change.
pub(crate) fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    let sidecars = spec::init_containers(pod)
        .iter()
        .filter(|container| spec::is_sidecar(container));
    sidecars.chain(spec::containers(pod))
}

/// The resources of a container.
pub(crate) fn of(container: &Container) -> ResourceRequirements {
    container.resources.clone().unwrap_or_default()
}

/// Whether two sets of requirements ask for the same amounts, however they are written.
pub(crate) fn same(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    let numbers = |resources: &ResourceRequirements| {
        let mut all = BTreeMap::new();
        for (list, kind) in [(&resources.requests, 'r'), (&resources.limits, 'l')] {
            for name in list.iter().flat_map(BTreeMap::keys) {
                all.insert(
                    (kind, name.clone()),
                    crate::quantity::milli_of(list.as_ref(), name),
                );
            }
        }
        all
    };
    a.claims == b.claims && numbers(a) == numbers(b)
}

impl PodResources {
    /// Everything that the spec asks for; nothing runs yet.
    pub(crate) fn of_spec(pod: &Pod) -> Self {
        Self {
            pod: spec::spec(pod).resources.clone(),
            allocated: resizable(pod)
                .map(|container| (container.name.clone(), of(container)))
                .collect(),
            actuated: OfContainers::new(),
        }
    }

    /// What an earlier kubelet has kept in the pod's directory.
    pub(crate) fn load(dir: &Path) -> Option<Self> {
        let bytes = std::fs::read(dir.join(FILE)).ok()?;
        serde_json::from_slice(&bytes)
            .inspect_err(|error| tracing::error!(path = %dir.display(), %error, "the pod's resources are not readable"))
            .ok()
    }

    /// Keeps this for the next kubelet.
    pub(crate) fn save(&self, dir: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(dir)?;
        let temporary = dir.join(format!(".{FILE}"));
        let text = serde_json::to_vec(self).expect("invariant: resources are JSON");
        std::fs::write(&temporary, text)?;
        std::fs::rename(temporary, dir.join(FILE))
    }

    /// The pod with these resources in place of what its spec asks for; the same pod where that is no difference.
    pub(crate) fn apply(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        self.with(pod, &self.allocated)
    }

    /// The pod with the resources that its containers have, or are given where they do not run.
    pub(crate) fn in_effect(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        let mut containers = self.allocated.clone();
        containers.extend(self.actuated.clone());
        self.with(pod, &containers)
    }

    fn with(&self, pod: &Arc<Pod>, containers: &OfContainers) -> Arc<Pod> {
        let differs = |container: &Container| {
            containers
                .get(&container.name)
                .is_some_and(|own| !same(own, &of(container)))
        };
        let none = ResourceRequirements::default();
        let own = spec::spec(pod).resources.as_ref();
        let pod_level = !same(own.unwrap_or(&none), self.pod.as_ref().unwrap_or(&none));
        if !pod_level && !resizable(pod).any(differs) {
            return pod.clone();
        }
        let mut changed = (**pod).clone();
        let Some(spec) = changed.spec.as_mut() else {
            return pod.clone();
        };
        if pod_level {
            spec.resources.clone_from(&self.pod);
        }
        let init = spec.init_containers.iter_mut().flatten();
        for container in init.filter(|c| spec::is_sidecar(c)).chain(&mut spec.containers) {
            if let Some(own) = containers.get(&container.name) {
                container.resources = Some(own.clone());
            }
        }
        Arc::new(changed)
    }

    /// Whether every container that is `running` has what it was given.
    pub(crate) fn is_actuated(&self, running: impl Fn(&str) -> bool) -> bool {
        let mut all = self.actuated.iter().filter(|(name, _)| running(name));
        all.all(|(name, has)| {
            self.allocated
                .get(name)
                .is_none_or(|given| same_in_effect(given, has))
        })
    }
}

/// Whether a container with these resources needs no change to have those.
fn same_in_effect(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    changes(a, b) == Changes::default()
}

/// Which resources of a running container differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) cpu: bool,
    pub(crate) memory: bool,
}

/// What differs between the resources a container is given and those it has.
pub(crate) fn changes(given: &ResourceRequirements, has: &ResourceRequirements) -> Changes {
    let container = |resources: &ResourceRequirements| Container {
        resources: Some(resources.clone()),
        ..Container::default()
    };
    let (given, has) = (container(given), container(has));
    let differs = |resource: &str| {
        qos::request(&given, resource) != qos::request(&has, resource)
            || qos::limit(&given, resource) != qos::limit(&has, resource)
    };
    Changes {
        cpu: differs("cpu"),
        memory: differs("memory"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(resources: Value) -> Arc<Pod> {
        let container = json!({"name": "c", "resources": resources});
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}}))
                .unwrap(),
        )
    }

    #[test]
    fn a_pod_keeps_what_it_was_given_until_it_is_given_more() {
        let old = pod(json!({"requests": {"cpu": "100m"}}));
        let new = pod(json!({"requests": {"cpu": "200m"}}));
        let mut resources = PodResources::of_spec(&old);
        assert!(Arc::ptr_eq(&resources.apply(&old), &old));
        let given = resources.apply(&new);
        assert_eq!(qos::pod_request(&given, "cpu"), 100);
        resources
            .actuated
            .insert("c".into(), of(&spec::containers(&old)[0]));
        resources.allocated = PodResources::of_spec(&new).allocated;
        assert!(!resources.is_actuated(|_| true));
        assert!(resources.is_actuated(|_| false));
        assert_eq!(qos::pod_request(&resources.apply(&new), "cpu"), 200);
        assert_eq!(qos::pod_request(&resources.in_effect(&new), "cpu"), 100);
        let dir = tempfile::tempdir().unwrap();
        resources.save(dir.path()).unwrap();
        assert_eq!(PodResources::load(dir.path()), Some(resources));
    }

    /// Resources given and had, whether CPU and whether memory differ.
    #[test]
    fn equal_amounts_are_no_change() {
        for (given, has, cpu, memory) in [
            (json!({}), json!({}), false, false),
            (
                json!({"requests": {"cpu": "1", "memory": "1Gi"}}),
                json!({"requests": {"cpu": "1000m", "memory": "1024Mi"}}),
                false,
                false,
            ),
            (
                json!({"limits": {"cpu": "2"}}),
                json!({"limits": {"cpu": "1"}}),
                true,
                false,
            ),
            (
                json!({"requests": {"memory": "2Mi"}, "limits": {"memory": "4Mi"}}),
                json!({"requests": {"memory": "1Mi"}, "limits": {"memory": "4Mi"}}),
                false,
                true,
            ),
        ] {
            let parse = |value: &Value| serde_json::from_value(value.clone()).unwrap();
            assert_eq!(
                changes(&parse(&given), &parse(&has)),
                Changes { cpu, memory },
                "{given} {has}"
            );
        }
    }
}
