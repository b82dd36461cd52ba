//! A pod's status as the API shows it, from the runtime's view: phase, conditions, container statuses, addresses.

use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, Pod, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::allocation::PodResources;
use super::container_status::{self, ContainerInput, ReadinessResults, Role, StartErrors};
use super::resize::ResizeState;
use super::runtime_status::PodRuntimeStatus;
use super::spec::{self, RestartPolicy};
use super::{conditions, qos};

/// What a status is made of.
pub(crate) struct StatusInput<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) runtime: &'a PodRuntimeStatus,
    pub(crate) runtime_name: &'a str,
    /// The last status that was reported, or the API's.
    pub(crate) old: Option<&'a PodStatus>,
    pub(crate) errors: &'a StartErrors,
    pub(crate) probes: &'a dyn ReadinessResults,
    pub(crate) host_ips: &'a [String],
    pub(crate) resources: &'a PodResources,
    pub(crate) resize: &'a ResizeState,
    /// The pod is ending: nothing is started any more.
    pub(crate) ending: bool,
    /// The pod failed as a whole: reason and message.
    pub(crate) failure: Option<&'a (String, String)>,
    pub(crate) now: Timestamp,
}

/// The status of the pod.
pub(crate) fn generate(input: &StatusInput<'_>) -> PodStatus {
    let pod = input.pod;
    let old_list = |list: fn(&PodStatus) -> Option<&Vec<ContainerStatus>>| {
        input.old.and_then(list).map(Vec::as_slice).unwrap_or_default()
    };
    let containers = |old| ContainerInput {
        pod,
        runtime: input.runtime,
        runtime_name: input.runtime_name,
        errors: input.errors,
        probes: input.probes,
        resources: input.resources,
        old,
        ending: input.ending,
    };
    let old_init = containers(old_list(|status| status.init_container_statuses.as_ref()));
    let old_main = containers(old_list(|status| status.container_statuses.as_ref()));
    let old_ephemeral = containers(old_list(|status| status.ephemeral_container_statuses.as_ref()));
    let init = container_status::statuses(&old_init, spec::init_containers(pod), Role::Init);
    let main = container_status::statuses(&old_main, spec::containers(pod), Role::Main);
    let ephemeral =
        container_status::statuses(&old_ephemeral, &spec::ephemeral_containers(pod), Role::Ephemeral);
    let mut phase = phase(pod, &init, &main, input.ending);
    // A pod that has ended stays ended, whatever the runtime has forgotten since.
    if let Some(ended @ ("Failed" | "Succeeded")) = input.old.and_then(|old| old.phase.as_deref()) {
        phase = ended;
    }
    if input.failure.is_some() {
        phase = "Failed";
    }
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        observed_generation: pod.metadata.generation,
        qos_class: Some(qos::class(pod).as_str().to_owned()),
        container_statuses: Some(main),
        init_container_statuses: Some(init).filter(|list| !list.is_empty()),
        ephemeral_container_statuses: Some(ephemeral).filter(|list| !list.is_empty()),
        start_time: input
            .old
            .and_then(|old| old.start_time.clone())
            .or(Some(Time(input.now))),
        // What others write stays theirs.
        nominated_node_name: None,
        resource_claim_statuses: input.old.and_then(|old| old.resource_claim_statuses.clone()),
        ..PodStatus::default()
    };
    match input.failure {
        Some((reason, message)) => {
            status.reason = Some(reason.clone());
            status.message = Some(message.clone());
        }
        None if phase == "Failed" => {
            status.reason = input.old.and_then(|old| old.reason.clone());
            status.message = input.old.and_then(|old| old.message.clone());
        }
        None => {}
    }
    set_addresses(input, &mut status);
    set_conditions(input, phase, &mut status);
    status
}

fn set_addresses(input: &StatusInput<'_>, status: &mut PodStatus) {
    if let Some(host) = input.host_ips.first() {
        status.host_ip = Some(host.clone());
        status.host_ips = Some(
            input
                .host_ips
                .iter()
                .map(|ip| HostIP { ip: ip.clone() })
                .collect(),
        );
    }
    let sandbox_ips = input.runtime.ips();
    let ips: Vec<String> = if spec::host_network(input.pod) {
        if input.runtime.sandboxes.is_empty() {
            Vec::new()
        } else {
            input.host_ips.to_vec()
        }
    } else {
        sandbox_ips.to_vec()
    };
    let ips: Vec<PodIP> = if ips.is_empty() {
        // The address of a pod that is ending is still of use to those who look for it.
        input.old.and_then(|old| old.pod_ips.clone()).unwrap_or_default()
    } else {
        ips.into_iter().map(|ip| PodIP { ip }).collect()
    };
    status.pod_ip = ips.first().map(|ip| ip.ip.clone());
    status.pod_ips = Some(ips).filter(|ips| !ips.is_empty());
}

fn set_conditions(input: &StatusInput<'_>, phase: &str, status: &mut PodStatus) {
    let pod = input.pod;
    let foreign = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let kept: Vec<_> = foreign
        .into_iter()
        .filter(|c| !conditions::OWNED.contains(&c.type_.as_str()))
        .collect();
    status.conditions = Some(kept.clone());
    let init = status.init_container_statuses.clone().unwrap_or_default();
    let main = status.container_statuses.clone().unwrap_or_default();
    let all: Vec<ContainerStatus> = init.iter().chain(&main).cloned().collect();
    let sandbox_ready = input
        .runtime
        .sandboxes
        .first()
        .is_some_and(|sandbox| sandbox.ready && (sandbox.host_network || !sandbox.ips.is_empty()));
    let containers_ready = conditions::containers_ready(pod, &all, phase);
    let ready = conditions::ready(pod, &containers_ready, &kept);
    for condition in [
        conditions::ready_to_start(sandbox_ready),
        conditions::initialized(pod, &init, &main, phase),
        ready,
        containers_ready,
        conditions::condition("PodScheduled", true, "", ""),
    ] {
        conditions::update(status, input.old, condition, pod.metadata.generation, input.now);
    }
    for (kind, note) in [
        ("PodResizePending", &input.resize.pending),
        ("PodResizeInProgress", &input.resize.in_progress),
    ] {
        if let Some(note) = note {
            let condition = conditions::condition(kind, true, &note.reason, &note.message);
            conditions::update(status, input.old, condition, note.generation, input.now);
        }
    }
    if let Some((reason, message)) = input
        .failure
        .filter(|(reason, _)| reason == "Evicted" || reason == "Preempting")
    {
        tracing::debug!(reason, "the pod is disrupted by this kubelet");
        let disrupted = conditions::condition("DisruptionTarget", true, "TerminationByKubelet", message);
        conditions::update(status, input.old, disrupted, pod.metadata.generation, input.now);
    }
}

/// The pod's phase, from its init and main container statuses.
pub(crate) fn phase(
    pod: &Pod,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    ending: bool,
) -> &'static str {
    let policy = spec::restart_policy(pod);
    let state = |status: &ContainerStatus| status.state.clone().unwrap_or_default();
    let last_code = |status: &ContainerStatus| {
        status
            .last_state
            .as_ref()
            .and_then(|last| last.terminated.as_ref())
            .map(|terminated| terminated.exit_code)
    };
    let initialized = main.iter().any(|status| {
        state(status).running.is_some() || state(status).terminated.is_some() || last_code(status).is_some()
    });
    let (mut pending, mut failed) = (0, 0);
    for container in spec::init_containers(pod) {
        let Some(status) = init.iter().find(|status| status.name == container.name) else {
            pending += 1;
            continue;
        };
        let now = state(status);
        if spec::is_sidecar(container) {
            if now.terminated.is_none() && !(now.running.is_some() && status.started == Some(true)) {
                pending += 1;
            }
        } else if let Some(terminated) = now.terminated {
            if terminated.exit_code != 0 {
                failed += 1;
            }
        } else if now.waiting.is_some() && last_code(status).is_some_and(|code| code != 0) {
            failed += 1;
        } else {
            pending += 1;
        }
    }
    let (mut unknown, mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0, 0);
    for container in spec::containers(pod) {
        let Some(status) = main.iter().find(|status| status.name == container.name) else {
            unknown += 1;
            continue;
        };
        let now = state(status);
        if now.running.is_some() {
            running += 1;
        } else if let Some(terminated) = now.terminated {
            stopped += 1;
            if terminated.exit_code == 0 {
                succeeded += 1;
            }
        } else if last_code(status).is_some() {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    if failed > 0 && policy == RestartPolicy::Never {
        return "Failed";
    }
    if pending + failed > 0 && !initialized {
        return if ending && main.iter().all(|status| state(status).running.is_none()) && running + stopped > 0
        {
            "Failed"
        } else {
            "Pending"
        };
    }
    if waiting > 0 {
        return "Pending";
    }
    if running > 0 && unknown == 0 {
        return "Running";
    }
    if running == 0 && stopped > 0 && unknown == 0 {
        let restarts = spec::containers(pod).iter().any(|container| {
            let code = main
                .iter()
                .find(|status| status.name == container.name)
                .and_then(|status| state(status).terminated)
                .map(|terminated| terminated.exit_code);
            spec::restarts_after(pod, container, code)
        });
        return match (ending, stopped == succeeded) {
            (true, true) => "Succeeded",
            (true, false) => "Failed",
            (false, _) if restarts => "Running",
            (false, true) => "Succeeded",
            (false, false) => "Failed",
        };
    }
    "Pending"
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
