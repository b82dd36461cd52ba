//! Pod conditions that the kubelet owns.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::spec;

/// Condition types that the kubelet writes; all others belong to others and are never touched.
pub(crate) const OWNED: [&str; 7] = [
    "PodScheduled",
    "Ready",
    "Initialized",
    "ContainersReady",
    "PodReadyToStartContainers",
    "PodResizePending",
    "PodResizeInProgress",
];

/// A condition without times.
pub(crate) fn condition(kind: &str, status: bool, reason: &str, message: &str) -> PodCondition {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    PodCondition {
        type_: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: text(reason),
        message: text(message),
        ..PodCondition::default()
    }
}

fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

/// `PodReadyToStartContainers`: the sandbox is up and has its network.
pub(crate) fn ready_to_start(sandbox_ready: bool) -> PodCondition {
    condition("PodReadyToStartContainers", sandbox_ready, "", "")
}

/// `Initialized`: every init container has done its work.
pub(crate) fn initialized(
    pod: &Pod,
    statuses: &[ContainerStatus],
    main: &[ContainerStatus],
    phase: &str,
) -> PodCondition {
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in spec::init_containers(pod) {
        let name = container.name.as_str();
        match statuses.iter().find(|status| status.name == name) {
            None => unknown.push(name),
            Some(status) if spec::is_sidecar(container) => {
                if status.started != Some(true) {
                    incomplete.push(name);
                }
            }
            Some(status) if !status.ready => incomplete.push(name),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return condition("Initialized", true, "PodCompleted", "");
    }
    if main.iter().any(|status| status.started == Some(true)) {
        return condition("Initialized", true, "", "");
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!("containers with unknown status: {}", list(&unknown)));
    }
    if !incomplete.is_empty() {
        messages.push(format!(
            "containers with incomplete status: {}",
            list(&incomplete)
        ));
    }
    if messages.is_empty() {
        return condition("Initialized", true, "", "");
    }
    condition(
        "Initialized",
        false,
        "ContainersNotInitialized",
        &messages.join(", "),
    )
}

/// `ContainersReady`: every main container and sidecar is ready.
pub(crate) fn containers_ready(pod: &Pod, all: &[ContainerStatus], phase: &str) -> PodCondition {
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    let sidecars = spec::init_containers(pod)
        .iter()
        .filter(|container| spec::is_sidecar(container));
    for container in sidecars.chain(spec::containers(pod)) {
        let name = container.name.as_str();
        match all.iter().find(|status| status.name == name) {
            None => unknown.push(name),
            Some(status) if !status.ready => unready.push(name),
            Some(_) => {}
        }
    }
    match phase {
        "Succeeded" if unknown.is_empty() => return condition("ContainersReady", false, "PodCompleted", ""),
        "Failed" => return condition("ContainersReady", false, "PodFailed", ""),
        _ => {}
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!("containers with unknown status: {}", list(&unknown)));
    }
    if !unready.is_empty() {
        messages.push(format!("containers with unready status: {}", list(&unready)));
    }
    if messages.is_empty() {
        return condition("ContainersReady", true, "", "");
    }
    condition(
        "ContainersReady",
        false,
        "ContainersNotReady",
        &messages.join(", "),
    )
}

/// `Ready`: the containers are, and every readiness gate is `True`.
pub(crate) fn ready(pod: &Pod, containers_ready: &PodCondition, conditions: &[PodCondition]) -> PodCondition {
    if containers_ready.status != "True" {
        return PodCondition {
            type_: "Ready".into(),
            ..containers_ready.clone()
        };
    }
    let gates = spec::spec(pod).readiness_gates.as_deref().unwrap_or_default();
    let messages: Vec<String> = gates
        .iter()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match conditions.iter().find(|condition| &condition.type_ == kind) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate {kind:?} does not exist."
                )),
                Some(found) if found.status != "True" => Some(format!(
                    "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                    found.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if messages.is_empty() {
        return condition("Ready", true, "", "");
    }
    condition("Ready", false, "ReadinessGatesNotReady", &messages.join(", "))
}

/// Puts `condition` into `status`; its transition time is the old one's while the condition keeps its status.
pub(crate) fn update(
    status: &mut PodStatus,
    old: Option<&PodStatus>,
    mut condition: PodCondition,
    generation: Option<i64>,
    now: Timestamp,
) {
    let before = old
        .and_then(|old| old.conditions.as_ref())
        .and_then(|conditions| conditions.iter().find(|other| other.type_ == condition.type_));
    let since = before
        .filter(|before| before.status == condition.status)
        .and_then(|before| before.last_transition_time.clone());
    condition.last_transition_time = Some(since.unwrap_or(Time(now)));
    condition.observed_generation = generation;
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|other| other.type_ == condition.type_) {
        Some(other) => *other = condition,
        None => conditions.push(condition),
    }
}
