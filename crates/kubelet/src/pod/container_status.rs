//! Container statuses of the API, made from the runtime's records, the last start errors and the probes' results.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, LinuxContainerUser, Pod, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::actions::{ProbeResults, Verdict, restarts_init};
use super::allocation::PodResources;
use super::runtime_status::{ContainerRecord, PodRuntimeStatus, State, timestamp};
use super::{resize, spec};

/// Why a container does not start, as the last attempt left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StartError {
    /// E.g. `ErrImagePull`.
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Start errors by container name.
pub(crate) type StartErrors = HashMap<String, StartError>;

/// Readiness as the probes see it, beside what the actions need.
pub(crate) trait ReadinessResults: ProbeResults {
    fn readiness(&self, container_id: &str) -> Verdict;
}

/// What container statuses are made of.
pub(crate) struct ContainerInput<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) runtime: &'a PodRuntimeStatus,
    /// E.g. `containerd`; container IDs start with it.
    pub(crate) runtime_name: &'a str,
    pub(crate) errors: &'a StartErrors,
    pub(crate) probes: &'a dyn ReadinessResults,
    pub(crate) resources: &'a PodResources,
    /// The statuses that were reported before.
    pub(crate) old: &'a [ContainerStatus],
    /// Nothing is started any more.
    pub(crate) ending: bool,
}

/// Which of the pod's lists a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Init,
    Main,
    Ephemeral,
}

/// The statuses of `containers`, in the order of the spec.
pub(crate) fn statuses(
    input: &ContainerInput<'_>,
    containers: &[Container],
    role: Role,
) -> Vec<ContainerStatus> {
    containers
        .iter()
        .map(|container| status(input, container, role))
        .collect()
}

fn status(input: &ContainerInput<'_>, container: &Container, role: Role) -> ContainerStatus {
    let mut records = input
        .runtime
        .containers
        .iter()
        .filter(|record| record.name == container.name);
    let old = input.old.iter().find(|status| status.name == container.name);
    let newest = records.next();
    let previous = records.next();
    let mut status = match newest {
        Some(record) => from_record(input, container, record),
        None => without_record(input, container, role, old),
    };
    if let Some(previous) = previous.filter(|previous| previous.state == State::Exited) {
        status.last_state = Some(terminated_state(input.runtime_name, previous));
    } else if status.last_state.is_none() && newest.is_some() {
        // The record of the previous instance may have been garbage-collected.
        let same = old.filter(|old| old.restart_count == status.restart_count);
        status.last_state = same
            .and_then(|old| old.last_state.clone())
            .filter(|state| state.terminated.is_some());
    }
    if let Some(record) = newest {
        wait_for_restart(input, container, record, role, &mut status);
    }
    set_readiness(input, container, newest, role, &mut status);
    status.volume_mounts = volume_mounts(container);
    if role != Role::Ephemeral {
        let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
        status.resources = resize::shown(input.resources, &container.name, running);
    }
    status
}

fn from_record(
    input: &ContainerInput<'_>,
    container: &Container,
    record: &ContainerRecord,
) -> ContainerStatus {
    let state = match record.state {
        State::Running => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: timestamp(record.started_at).map(Time),
            }),
            ..ContainerState::default()
        },
        State::Exited | State::Unknown => terminated_state(input.runtime_name, record),
        State::Created => waiting("ContainerCreating", ""),
    };
    let image = if record.image.is_empty() {
        container.image.clone().unwrap_or_default()
    } else {
        record.image.clone()
    };
    ContainerStatus {
        name: container.name.clone(),
        container_id: Some(format!("{}://{}", input.runtime_name, record.id)),
        image,
        image_id: record.image_id.clone(),
        restart_count: record.restart_count,
        state: Some(state),
        user: record
            .user
            .as_ref()
            .filter(|_| record.state == State::Running)
            .map(|user| ContainerUser {
                linux: Some(LinuxContainerUser {
                    uid: user.uid,
                    gid: user.gid,
                    supplemental_groups: (!user.supplemental_groups.is_empty())
                        .then(|| user.supplemental_groups.clone()),
                }),
            }),
        ..ContainerStatus::default()
    }
}

/// A container that the runtime does not know: not made yet, or lost.
fn without_record(
    input: &ContainerInput<'_>,
    container: &Container,
    role: Role,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    // Of init containers too, while their turn has not come.
    let reason = if spec::init_containers(input.pod).is_empty() {
        "ContainerCreating"
    } else {
        "PodInitializing"
    };
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting(reason, "")),
        ..ContainerStatus::default()
    };
    if let Some(error) = input.errors.get(&container.name) {
        status.state = Some(waiting(&error.reason, &error.message));
    }
    let Some(old) = old else { return status };
    status.restart_count = old.restart_count;
    status.last_state = old.last_state.clone();
    let old_state = old.state.clone().unwrap_or_default();
    if old_state.terminated.is_some() && (role == Role::Init || input.ending) {
        // Ended before and removed since; what was reported stays true.
        let mut kept = old.clone();
        kept.ready = false;
        return kept;
    }
    if old_state.running.is_some() {
        let message = if input.ending {
            "The container could not be located when the pod was terminated"
        } else {
            "The container could not be located when the pod was deleted.  The container used to be Running"
        };
        let lost = ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".into()),
                message: Some(message.into()),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        };
        if input.ending {
            status.state = Some(lost);
        } else {
            status.last_state = Some(lost);
            status.restart_count += 1;
        }
    }
    status
}

/// An ended container that is going to run again is Waiting with the reason why it does not run yet.
fn wait_for_restart(
    input: &ContainerInput<'_>,
    container: &Container,
    record: &ContainerRecord,
    role: Role,
    status: &mut ContainerStatus,
) {
    if input.ending || record.state == State::Running {
        return;
    }
    let Some(error) = input.errors.get(&container.name) else {
        return;
    };
    let exit_code = (record.state == State::Exited).then_some(record.exit_code);
    let restarts = match role {
        Role::Ephemeral => false,
        Role::Init if spec::is_sidecar(container) => true,
        Role::Init => restarts_init(input.pod, container, exit_code),
        Role::Main => spec::restarts_after(input.pod, container, exit_code),
    };
    if record.state == State::Created || restarts {
        if record.state != State::Created {
            status.last_state = status.state.take();
        }
        status.state = Some(waiting(&error.reason, &error.message));
    }
}

fn set_readiness(
    input: &ContainerInput<'_>,
    container: &Container,
    record: Option<&ContainerRecord>,
    role: Role,
    status: &mut ContainerStatus,
) {
    let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
    if role == Role::Ephemeral {
        status.ready = false;
        return;
    }
    if role == Role::Init && !spec::is_sidecar(container) {
        let done = status.state.as_ref().and_then(|state| state.terminated.as_ref());
        status.ready = done.is_some_and(|terminated| terminated.exit_code == 0);
        status.started = Some(running);
        return;
    }
    let id = record.map(|record| record.id.as_str()).unwrap_or_default();
    let started =
        running && (container.startup_probe.is_none() || input.probes.startup(id) == Verdict::Success);
    status.started = Some(started);
    status.ready = started
        && !input.ending
        && (container.readiness_probe.is_none() || input.probes.readiness(id) == Verdict::Success);
}

fn volume_mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref()?;
    let status = |mount: &k8s_openapi::api::core::v1::VolumeMount| {
        let read_only = mount.read_only.filter(|read_only| *read_only);
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only,
            recursive_read_only: read_only.map(|_| {
                mount
                    .recursive_read_only
                    .clone()
                    .unwrap_or_else(|| "Disabled".into())
            }),
            ..VolumeMountStatus::default()
        }
    };
    Some(mounts.iter().map(status).collect())
}

/// A Waiting state.
pub(crate) fn waiting(reason: &str, message: &str) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()).filter(|message| !message.is_empty()),
        }),
        ..ContainerState::default()
    }
}

fn terminated_state(runtime_name: &str, record: &ContainerRecord) -> ContainerState {
    let reason = match (record.reason.as_str(), record.state, record.exit_code) {
        ("", State::Unknown, _) => "ContainerStatusUnknown",
        ("", _, 0) => "Completed",
        ("", _, _) => "Error",
        (reason, _, _) => reason,
    };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: record.exit_code,
            reason: Some(reason.to_owned()),
            message: Some(record.message.clone()).filter(|message| !message.is_empty()),
            started_at: timestamp(record.started_at).map(Time),
            finished_at: timestamp(record.finished_at).map(Time),
            container_id: Some(format!("{runtime_name}://{}", record.id)),
            signal: None,
        }),
        ..ContainerState::default()
    }
}
