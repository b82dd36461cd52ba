//! In-place resize (KEP-1287): whether the node can give a pod what its spec asks for now, and bringing the running
//! containers to what they were given. Conditions, reasons, events and texts are upstream's.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use keelson_client::EventType;
use keelson_cri::v1 as cri;
use serde_json::json;

use super::admission::{self, AdmissionNode, Rejection};
use super::allocation::{self, Changes, PodResources};
use super::handle::PodHandle;
use super::sync::SyncError;
use super::{qos, spec};
use crate::container;
use crate::kubelet::Kubelet;

/// A condition of a resize: reason, message and the generation of the spec that it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) generation: Option<i64>,
}

/// Where the resize of a pod stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResizeState {
    /// `PodResizePending`: the node cannot give what is asked for, now or ever.
    pub(crate) pending: Option<Note>,
    /// `PodResizeInProgress`: it was given, but not every container has it.
    pub(crate) in_progress: Option<Note>,
}

impl ResizeState {
    /// Whether the resize waits for other pods to leave room.
    pub(crate) fn is_deferred(&self) -> bool {
        self.pending
            .as_ref()
            .is_some_and(|note| note.reason == "Deferred")
    }
}

/// Why a resize cannot be given: `Deferred` when others hold the resources, `Infeasible` when the node is too small.
fn refusal(pod: &Pod, others: &[Arc<Pod>], node: &AdmissionNode) -> Option<(&'static str, String)> {
    if spec::is_static(pod) {
        return Some((
            "Infeasible",
            "In-place resize of static-pods is not supported".into(),
        ));
    }
    for resource in ["cpu", "memory"] {
        let requested = qos::pod_request(pod, resource);
        let capacity = admission::capacity(node, resource);
        if requested > capacity {
            let message = format!(
                "Node didn't have enough capacity: {resource}, requested: {requested}, capacity: {capacity}"
            );
            return Some(("Infeasible", message));
        }
    }
    let room = admission::resources(pod, others, node);
    room.err().map(|Rejection { message, .. }| ("Deferred", message))
}

/// `Pod resize <what>: {containers and generation as JSON}`
fn message(pod: &Pod, what: &str, error: Option<&str>) -> String {
    let containers: Vec<_> = allocation::resizable(pod)
        .map(|container| json!({"name": container.name, "resources": allocation::of(container)}))
        .collect();
    let mut summary = json!({"containers": containers, "generation": pod.metadata.generation});
    if let Some(error) = error {
        summary["error"] = json!(error);
    }
    format!("Pod resize {what}: {summary}")
}

/// Compares what the spec asks for with what the pod was given, and gives it if the node can.
pub(crate) fn evaluate(kubelet: &Kubelet, handle: &PodHandle) -> Result<(), SyncError> {
    let desired = handle.desired();
    let resources = handle.resources();
    let wanted = PodResources::of_spec(&desired);
    if Arc::ptr_eq(&resources.apply(&desired), &desired) {
        handle.set_pending(None);
        return Ok(());
    }
    let _one_at_a_time = kubelet.pods.allocating();
    let others: Vec<Arc<Pod>> = kubelet
        .pods
        .active()
        .into_iter()
        .filter(|pod| spec::uid(pod) != handle.uid)
        .collect();
    if let Some((reason, text)) = refusal(&desired, &others, &kubelet.admission_node()) {
        let event = if reason == "Infeasible" {
            "ResizeInfeasible"
        } else {
            "ResizeDeferred"
        };
        let note = Note {
            reason: reason.into(),
            message: text.clone(),
            generation: desired.metadata.generation,
        };
        if handle.set_pending(Some(note)) {
            let what = if reason == "Infeasible" {
                "infeasible"
            } else {
                "deferred"
            };
            let text = message(&desired, what, Some(&text));
            kubelet.pod_event(&desired, EventType::Warning, event, text);
        }
        return Ok(());
    }
    let mut actuated = resources.actuated;
    // Containers of a kubelet that kept no records have what they were given.
    for record in handle.runtime().running() {
        if let Some(given) = resources.allocated.get(&record.name) {
            actuated
                .entry(record.name.clone())
                .or_insert_with(|| given.clone());
        }
    }
    let mut resources = wanted;
    resources.actuated = actuated;
    save(kubelet, handle, &resources)?;
    handle.set_resources(resources);
    handle.set_pending(None);
    handle.set_in_progress(Some(Note {
        generation: desired.metadata.generation,
        ..Note::default()
    }));
    kubelet.pod_event(
        &desired,
        EventType::Normal,
        "ResizeStarted",
        message(&desired, "started", None),
    );
    Ok(())
}

fn save(kubelet: &Kubelet, handle: &PodHandle, resources: &PodResources) -> Result<(), SyncError> {
    let dir = kubelet.config.pod_dir(&handle.uid);
    resources.save(&dir).map_err(|source| SyncError::Io {
        what: "the record of the resources",
        source,
    })
}

/// Keeps what a container was started with.
pub(crate) fn started(kubelet: &Kubelet, handle: &PodHandle, container: &Container) {
    let pod = handle.pod();
    if !allocation::resizable(&pod).any(|other| other.name == container.name) {
        return;
    }
    let mut resources = handle.resources();
    resources
        .actuated
        .insert(container.name.clone(), allocation::of(container));
    if let Err(error) = save(kubelet, handle, &resources) {
        tracing::warn!(pod = %spec::format(&pod), %error, "the resources of a container are not recorded");
    }
    handle.set_resources(resources);
}

/// Ends the progress when every container has what it was given; returns whether it did.
pub(crate) fn finish(kubelet: &Kubelet, handle: &PodHandle) -> bool {
    let runtime = handle.runtime();
    let running = |name: &str| runtime.running().any(|record| record.name == name);
    if handle.resize_state().in_progress.is_none() || !handle.resources().is_actuated(running) {
        return false;
    }
    handle.set_in_progress(None);
    let pod = handle.pod();
    let text = message(&pod, "completed", None);
    kubelet.pod_event(&pod, EventType::Normal, "ResizeCompleted", text);
    kubelet.pods.retry_deferred();
    true
}

/// Whether a container has to be started anew to have these changes.
pub(crate) fn needs_restart(container: &Container, changes: Changes) -> bool {
    let policies = container.resize_policy.as_deref().unwrap_or_default();
    [("cpu", changes.cpu), ("memory", changes.memory)]
        .into_iter()
        .filter(|(_, changed)| *changed)
        .any(|(name, _)| {
            policies
                .iter()
                .any(|policy| policy.resource_name == name && policy.restart_policy == "RestartContainer")
        })
}

/// Brings running containers to what they were given; `indexes` are those of [`allocation::resizable`]. Returns whether all
/// went well; what went wrong is in the condition.
pub(crate) async fn actuate(
    kubelet: &Kubelet,
    handle: &PodHandle,
    pod: &Arc<Pod>,
    containers: &[(Container, String)],
) -> Result<bool, SyncError> {
    for (container, id) in containers {
        let result = match memory_fits(kubelet, container, id).await {
            Ok(()) => update(kubelet, pod, container, id).await,
            Err(message) => Err(message),
        };
        match result {
            Ok(()) => started(kubelet, handle, container),
            Err(error) => {
                let note = Note {
                    reason: "Error".into(),
                    message: error.clone(),
                    generation: pod.metadata.generation,
                };
                if handle.set_in_progress(Some(note)) {
                    let text = message(pod, "error", Some(&error));
                    kubelet.pod_event(pod, EventType::Warning, "ResizeError", text);
                }
                return Ok(false);
            }
        }
    }
    // What the pod's group had to keep until now can go.
    kubelet
        .cgroups
        .create_pod(pod, &handle.resources().in_effect(pod))?;
    Ok(true)
}

/// A limit below what is in use would end the container instead of resizing it.
async fn memory_fits(kubelet: &Kubelet, container: &Container, id: &str) -> Result<(), String> {
    let limit = qos::limit(container, "memory");
    if limit == 0 {
        return Ok(());
    }
    let request = cri::ContainerStatsRequest {
        container_id: id.to_owned(),
    };
    let stats = kubelet
        .config
        .cri
        .runtime()
        .container_stats(request)
        .await
        .map_err(|status| container::rpc_error(&status))?;
    let usage = stats
        .into_inner()
        .stats
        .and_then(|stats| stats.memory?.usage_bytes)
        .map_or(0, |value| value.value);
    if usage > limit.unsigned_abs() {
        return Err(format!(
            "attempting to set container {:?} memory limit ({limit}) below current usage ({usage})",
            container.name
        ));
    }
    Ok(())
}

async fn update(kubelet: &Kubelet, pod: &Pod, container: &Container, id: &str) -> Result<(), String> {
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(container::resources(kubelet, pod, container)),
        ..cri::UpdateContainerResourcesRequest::default()
    };
    kubelet
        .config
        .cri
        .runtime()
        .update_container_resources(request)
        .await
        .map(drop)
        .map_err(|status| container::rpc_error(&status))
}

/// What the API shows as a container's resources: what it has; what it was given where it does not run.
pub(crate) fn shown(resources: &PodResources, name: &str, running: bool) -> Option<ResourceRequirements> {
    let given = resources.allocated.get(name)?;
    let has = resources.actuated.get(name).filter(|_| running);
    Some(has.unwrap_or(given).clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn pod(cpu: &str, memory: &str) -> Arc<Pod> {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}});
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}}))
                .unwrap(),
        )
    }

    /// What is asked for, what another pod has, and the reason and message of the refusal.
    #[test]
    fn resizes_wait_for_room_or_are_refused_for_good() {
        let node = AdmissionNode {
            node: None,
            allocatable: serde_json::from_value(json!({"cpu": "2", "memory": "1Gi"})).unwrap(),
            max_pods: 1,
            allowed_sysctls: Vec::new(),
        };
        for (asked, other, expected) in [
            (pod("1", "1Mi"), pod("1", "1Mi"), None),
            (
                pod("3", "1Mi"),
                pod("1", "1Mi"),
                Some((
                    "Infeasible",
                    "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000",
                )),
            ),
            (
                pod("1500m", "1Mi"),
                pod("1", "1Mi"),
                Some((
                    "Deferred",
                    "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000",
                )),
            ),
            (
                pod("1", "900Mi"),
                pod("1", "200Mi"),
                Some((
                    "Deferred",
                    "Node didn't have enough resource: memory, requested: 943718400, used: 209715200, capacity: 1073741824",
                )),
            ),
        ] {
            let expected = expected.map(|(reason, text)| (reason, text.to_owned()));
            assert_eq!(refusal(&asked, &[other], &node), expected);
        }
    }

    #[test]
    fn the_policy_decides_about_a_restart() {
        let container = |policy: Value| -> Container {
            serde_json::from_value(json!({"name": "c", "resizePolicy": policy})).unwrap()
        };
        let restart = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        let (cpu, memory) = (
            Changes {
                cpu: true,
                memory: false,
            },
            Changes {
                cpu: false,
                memory: true,
            },
        );
        assert!(!needs_restart(&container(json!([])), memory));
        assert!(!needs_restart(&container(restart.clone()), cpu));
        assert!(needs_restart(&container(restart), memory));
    }
}
