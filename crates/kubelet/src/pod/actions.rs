//! What to do next for a pod: a pure function of its spec, the runtime's view and the probes' results, following
//! upstream's kuberuntime (sandbox first, init containers in order with sidecars among them, then main containers).

use k8s_openapi::api::core::v1::{Container, Pod};

use super::allocation::{self, OfContainers};
use super::resize;
use super::runtime_status::{ContainerRecord, PodRuntimeStatus, State};
use super::spec::{self, RestartPolicy};

/// A probe's last verdict on the running instance of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Verdict {
    /// No result yet, or no such probe.
    #[default]
    Unknown,
    Success,
    Failure,
}

/// What the probes say; by container ID.
pub(crate) trait ProbeResults {
    fn liveness(&self, container_id: &str) -> Verdict;
    fn startup(&self, container_id: &str) -> Verdict;
}

/// Why a container is killed while its pod lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KillReason {
    Unknown,
    DefinitionChanged,
    LivenessProbe,
    StartupProbe,
    Resize,
}

/// A running container that has to end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ContainerToKill {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) reason: KillReason,
    /// Text of the Killing event.
    pub(crate) message: String,
}

/// The next steps for a pod. Indexes point into the spec's lists.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodActions {
    /// Stop all containers and the sandbox.
    pub(crate) kill_pod: bool,
    /// Make a new sandbox, after killing what is there.
    pub(crate) create_sandbox: bool,
    /// The sandbox to start containers in, unless a new one is made.
    pub(crate) sandbox_id: Option<String>,
    /// Number of the new sandbox.
    pub(crate) attempt: u32,
    pub(crate) init_to_start: Vec<usize>,
    pub(crate) containers_to_start: Vec<usize>,
    pub(crate) ephemeral_to_start: Vec<usize>,
    pub(crate) to_kill: Vec<ContainerToKill>,
    /// Running containers that get other resources: name and ID.
    pub(crate) to_resize: Vec<(String, String)>,
}

impl PodActions {
    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        !self.kill_pod
            && !self.create_sandbox
            && self.init_to_start.is_empty()
            && self.containers_to_start.is_empty()
            && self.ephemeral_to_start.is_empty()
            && self.to_kill.is_empty()
            && self.to_resize.is_empty()
    }
}

/// Whether the pod needs a new sandbox, with its number, and the present one's ID.
pub(crate) fn sandbox_changed(pod: &Pod, runtime: &PodRuntimeStatus) -> (bool, u32, Option<String>) {
    let Some(newest) = runtime.sandboxes.first() else {
        return (true, 0, None);
    };
    let id = Some(newest.id.clone());
    let ready = runtime.sandboxes.iter().filter(|sandbox| sandbox.ready).count();
    let changed = ready > 1
        || !newest.ready
        || newest.host_network != spec::host_network(pod)
        || (!newest.host_network && newest.ips.is_empty());
    if changed {
        (true, newest.attempt + 1, id)
    } else {
        (false, newest.attempt, id)
    }
}

/// The next steps for `pod`, whose running containers have the resources `actuated`.
pub(crate) fn compute_pod_actions(
    pod: &Pod,
    runtime: &PodRuntimeStatus,
    probes: &dyn ProbeResults,
    actuated: &OfContainers,
) -> PodActions {
    let mut actions = next_actions(pod, runtime, probes);
    if !actions.kill_pod && !actions.create_sandbox {
        resize_actions(pod, runtime, actuated, &mut actions);
    }
    actions
}

/// Adds the containers that have to be resized, or started anew to be.
fn resize_actions(pod: &Pod, runtime: &PodRuntimeStatus, actuated: &OfContainers, actions: &mut PodActions) {
    for container in allocation::resizable(pod) {
        let running = runtime
            .container(&container.name)
            .filter(|record| record.state == State::Running);
        let (Some(record), Some(has)) = (running, actuated.get(&container.name)) else {
            continue;
        };
        let changes = allocation::changes(&allocation::of(container), has);
        let ends = actions.to_kill.iter().any(|kill| kill.id == record.id);
        if changes == allocation::Changes::default() || ends {
            continue;
        }
        if !resize::needs_restart(container, changes) {
            actions
                .to_resize
                .push((container.name.clone(), record.id.clone()));
            continue;
        }
        actions.to_kill.push(ContainerToKill {
            id: record.id.clone(),
            name: container.name.clone(),
            reason: KillReason::Resize,
            message: format!("Container {} resize requires restart", container.name),
        });
        let position = |list: &[Container]| list.iter().position(|other| other.name == container.name);
        if let Some(index) = position(spec::init_containers(pod)) {
            actions.init_to_start.push(index);
        } else if let Some(index) = position(spec::containers(pod)) {
            actions.containers_to_start.push(index);
        }
    }
}

fn next_actions(pod: &Pod, runtime: &PodRuntimeStatus, probes: &dyn ProbeResults) -> PodActions {
    let (create_sandbox, attempt, sandbox_id) = sandbox_changed(pod, runtime);
    let mut actions = PodActions {
        kill_pod: create_sandbox,
        create_sandbox,
        sandbox_id,
        attempt,
        ..PodActions::default()
    };
    if create_sandbox {
        start_in_new_sandbox(pod, runtime, &mut actions);
        return actions;
    }
    for (index, container) in spec::ephemeral_containers(pod).iter().enumerate() {
        if runtime.container(&container.name).is_none() {
            actions.ephemeral_to_start.push(index);
        }
    }
    let initialized = init_actions(pod, runtime, probes, &mut actions);
    if actions.kill_pod || !initialized {
        return actions;
    }
    main_actions(pod, runtime, probes, &mut actions);
    actions
}

fn start_in_new_sandbox(pod: &Pod, runtime: &PodRuntimeStatus, actions: &mut PodActions) {
    let never_again = spec::restart_policy(pod) == RestartPolicy::Never
        && spec::containers(pod)
            .iter()
            .all(|c| c.restart_policy.is_none() && c.restart_policy_rules.is_none());
    if never_again && actions.attempt != 0 && !runtime.containers.is_empty() {
        actions.create_sandbox = false;
        return;
    }
    let wanted = |container: &Container| match runtime.container(&container.name) {
        Some(record) if record.state == State::Exited => {
            spec::restarts_after(pod, container, Some(record.exit_code))
        }
        _ => true,
    };
    let containers = spec::containers(pod);
    let start: Vec<usize> = (0..containers.len())
        .filter(|&index| wanted(&containers[index]))
        .collect();
    if start.is_empty() {
        actions.create_sandbox = false;
    } else if spec::init_containers(pod).is_empty() {
        actions.containers_to_start = start;
    } else {
        actions.init_to_start = vec![0];
    }
}

/// The reason to kill a running container, and whether it is started again afterwards.
fn verdict(
    pod: &Pod,
    container: &Container,
    record: &ContainerRecord,
    probes: &dyn ProbeResults,
) -> Option<(ContainerToKill, bool)> {
    let name = &container.name;
    let after_failure = spec::restarts_after(pod, container, None);
    let (reason, mut message, restart) = if record.hash != spec::container_hash(container) {
        (
            KillReason::DefinitionChanged,
            format!("Container {name} definition changed"),
            true,
        )
    } else if probes.liveness(&record.id) == Verdict::Failure {
        (
            KillReason::LivenessProbe,
            format!("Container {name} failed liveness probe"),
            after_failure,
        )
    } else if probes.startup(&record.id) == Verdict::Failure {
        (
            KillReason::StartupProbe,
            format!("Container {name} failed startup probe"),
            after_failure,
        )
    } else {
        return None;
    };
    if restart {
        message.push_str(", will be restarted");
    }
    Some((
        ContainerToKill {
            id: record.id.clone(),
            name: name.clone(),
            reason,
            message,
        },
        restart,
    ))
}

fn unknown_state(container: &Container, record: &ContainerRecord) -> ContainerToKill {
    ContainerToKill {
        id: record.id.clone(),
        name: container.name.clone(),
        reason: KillReason::Unknown,
        message: format!(
            "Container {} is in unknown state, try killing it before restart",
            container.name
        ),
    }
}

/// Adds the init containers to start or kill; returns whether main containers may run.
fn init_actions(
    pod: &Pod,
    runtime: &PodRuntimeStatus,
    probes: &dyn ProbeResults,
    actions: &mut PodActions,
) -> bool {
    let init = spec::init_containers(pod);
    if init.is_empty() {
        return true;
    }
    let sandbox = actions.sandbox_id.clone().unwrap_or_default();
    let record = |container: &Container| {
        runtime
            .container(&container.name)
            .filter(|record| record.sandbox_id == sandbox)
    };
    // Once a main container was made, initialization is over, whatever was garbage-collected since.
    let initialized = spec::containers(pod)
        .iter()
        .any(|container| record(container).is_some());
    let current = if initialized {
        init.len()
    } else {
        match (0..init.len())
            .rev()
            .find(|&index| record(&init[index]).is_some())
        {
            Some(current) => current,
            None => {
                actions.init_to_start.push(0);
                return false;
            }
        }
    };
    for (index, container) in init.iter().enumerate().take(current) {
        if spec::is_sidecar(container) {
            keep_sidecar(pod, index, container, record(container), probes, actions);
        }
    }
    let Some(container) = init.get(current) else {
        return true;
    };
    let Some(found) = record(container) else {
        return false;
    };
    let last = current + 1 == init.len();
    let done = if spec::is_sidecar(container) {
        keep_sidecar(pod, current, container, Some(found), probes, actions);
        found.state == State::Running
            && (container.startup_probe.is_none() || probes.startup(&found.id) == Verdict::Success)
            && !actions.to_kill.iter().any(|kill| kill.id == found.id)
    } else {
        match found.state {
            State::Created | State::Running => false,
            State::Exited if found.exit_code == 0 => true,
            State::Exited | State::Unknown => {
                let code = (found.state == State::Exited).then_some(found.exit_code);
                if restarts_init(pod, container, code) {
                    if found.state == State::Unknown {
                        actions.to_kill.push(unknown_state(container, found));
                    }
                    actions.init_to_start.push(current);
                } else {
                    actions.kill_pod = true;
                    actions.init_to_start.clear();
                }
                false
            }
        }
    };
    if done && !last {
        actions.init_to_start.push(current + 1);
    }
    done && last
}

/// A regular init container runs again after a failure unless the policy is Never; after success it never does.
pub(crate) fn restarts_init(pod: &Pod, container: &Container, exit_code: Option<i32>) -> bool {
    exit_code != Some(0) && spec::restarts_after(pod, container, exit_code)
}

fn keep_sidecar(
    pod: &Pod,
    index: usize,
    container: &Container,
    record: Option<&ContainerRecord>,
    probes: &dyn ProbeResults,
    actions: &mut PodActions,
) {
    match record {
        None => actions.init_to_start.push(index),
        Some(record) => match record.state {
            State::Created => {}
            State::Running => {
                if let Some((kill, restart)) = verdict(pod, container, record, probes) {
                    actions.to_kill.push(kill);
                    if restart {
                        actions.init_to_start.push(index);
                    }
                }
            }
            State::Exited => actions.init_to_start.push(index),
            State::Unknown => {
                actions.to_kill.push(unknown_state(container, record));
                actions.init_to_start.push(index);
            }
        },
    }
}

fn main_actions(pod: &Pod, runtime: &PodRuntimeStatus, probes: &dyn ProbeResults, actions: &mut PodActions) {
    let mut kept = 0;
    for (index, container) in spec::containers(pod).iter().enumerate() {
        match runtime.container(&container.name) {
            Some(record) if record.state == State::Running => match verdict(pod, container, record, probes) {
                None => kept += 1,
                Some((kill, restart)) => {
                    actions.to_kill.push(kill);
                    if restart {
                        actions.containers_to_start.push(index);
                    }
                }
            },
            Some(record) if record.state == State::Exited => {
                if spec::restarts_after(pod, container, Some(record.exit_code)) {
                    actions.containers_to_start.push(index);
                }
            }
            Some(record) if record.state == State::Unknown => {
                if spec::restarts_after(pod, container, None) {
                    actions.to_kill.push(unknown_state(container, record));
                    actions.containers_to_start.push(index);
                }
            }
            // Made but never started, e.g. because the kubelet was restarted in between: replace it.
            Some(_) | None => actions.containers_to_start.push(index),
        }
    }
    if kept == 0 && actions.containers_to_start.is_empty() {
        actions.kill_pod = true;
        actions.init_to_start.clear();
    }
}

#[cfg(test)]
#[path = "actions_tests.rs"]
mod tests;
