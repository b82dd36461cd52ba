//! Bringing a pod to what its spec says: read the runtime, report, decide, act, until there is nothing to do.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use keelson_client::EventType;

use super::actions::{self, PodActions};
use super::container_status::StartError;
use super::handle::{PodHandle, Stage};
use super::runtime_status::{self, PodRuntimeStatus, State};
use super::status::{self, StatusInput};
use super::{allocation, resize, spec, static_pods};
use crate::container::{kill, sandbox, start};
use crate::kubelet::Kubelet;
use crate::volume::{self, PodVolumes};

/// Wait before a container whose configuration is wrong is tried again, unless something changes before.
const CONFIG_RETRY: Duration = Duration::from_secs(10);
/// Steps after which a worker takes a breath; reached only when a runtime contradicts itself.
const MAX_ROUNDS: usize = 64;

/// A pod could not be brought to what its spec says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    #[error("the container runtime failed: {}", crate::container::rpc_error(.0))]
    Runtime(#[from] tonic::Status),
    #[error("network is not ready: {0}")]
    NetworkNotReady(String),
    #[error("cannot prepare {what} of the pod")]
    Io {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Cgroup(#[from] super::cgroup::Error),
    #[error(transparent)]
    Volume(#[from] volume::Error),
    #[error("the mirror pod was not deleted")]
    Mirror(#[source] Box<kube::Error>),
    #[error("failed to create pod sandbox: {0}")]
    Sandbox(String),
}

/// How an attempt ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The pod has ended by itself.
    Terminal,
    /// Nothing to do until a change or this time.
    Settled(Option<Duration>),
}

/// What a round of actions came to.
#[derive(Default)]
struct Round {
    progressed: bool,
    retry: Option<Duration>,
}

impl Round {
    fn retry_in(&mut self, after: Duration) {
        self.retry = earliest(self.retry, Some(after));
    }
}

fn earliest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Reads the pod from the runtime and keeps it in the handle.
pub(crate) async fn refresh(
    kubelet: &Kubelet,
    handle: &PodHandle,
) -> Result<Arc<PodRuntimeStatus>, tonic::Status> {
    let runtime = Arc::new(runtime_status::read(&kubelet.config.cri, &handle.uid).await?);
    handle.set_runtime(runtime.clone());
    Ok(runtime)
}

/// Makes the pod's status of what is known and hands it to the status manager; returns the phase.
pub(crate) fn publish(kubelet: &Kubelet, handle: &PodHandle, ending: bool) -> String {
    let pod = handle.pod();
    let old = handle.status();
    let errors = handle.errors();
    let failure = handle.failure();
    let runtime = handle.runtime();
    let status = status::generate(&StatusInput {
        pod: &pod,
        runtime: &runtime,
        runtime_name: &kubelet.runtime_name,
        old: old.as_deref(),
        errors: &errors,
        probes: handle,
        host_ips: &kubelet.host_ips(),
        resources: &handle.resources(),
        resize: &handle.resize_state(),
        ending,
        failure: failure.as_ref(),
        now: Timestamp::now(),
    });
    let phase = status.phase.clone().unwrap_or_default();
    let status = Arc::new(status);
    handle.set_status(status.clone());
    kubelet.status.set(&pod, status);
    phase
}

/// One attempt.
pub(crate) async fn sync_pod(kubelet: &Arc<Kubelet>, handle: &Arc<PodHandle>) -> Result<Outcome, SyncError> {
    let mut prepared: Option<PodVolumes> = None;
    for _ in 0..MAX_ROUNDS {
        if handle.stage() != Stage::Syncing {
            return Ok(Outcome::Settled(Some(Duration::ZERO)));
        }
        resize::evaluate(kubelet, handle)?;
        let pod = handle.pod();
        let runtime = refresh(kubelet, handle).await?;
        kubelet.probes.sync(kubelet, handle, &pod, &runtime);
        if matches!(publish(kubelet, handle, false).as_str(), "Succeeded" | "Failed") {
            return Ok(Outcome::Terminal);
        }
        let deadline = match remaining_deadline(&pod, handle) {
            Some(Duration::ZERO) => {
                deadline_exceeded(kubelet, &pod, handle);
                return Ok(Outcome::Terminal);
            }
            other => other,
        };
        let volumes = match &prepared {
            Some(volumes) => volumes.clone(),
            None => {
                let volumes = prepare(kubelet, handle, &pod).await?;
                prepared = Some(volumes.clone());
                volumes
            }
        };
        let actuated = handle.resources().actuated;
        let actions = actions::compute_pod_actions(&pod, &runtime, handle.as_ref(), &actuated);
        if actions.is_empty() {
            if resize::finish(kubelet, handle) {
                publish(kubelet, handle, false);
            }
            crate::container::gc::prune_pod(kubelet, handle, &runtime).await;
            return Ok(Outcome::Settled(earliest(deadline, volumes.refresh_after)));
        }
        let round = execute(kubelet, handle, &pod, &runtime, &actions, &volumes).await?;
        if !round.progressed {
            publish(kubelet, handle, false);
            return Ok(Outcome::Settled(earliest(
                earliest(deadline, volumes.refresh_after),
                round.retry,
            )));
        }
    }
    Ok(Outcome::Settled(Some(CONFIG_RETRY)))
}

/// What remains of `activeDeadlineSeconds`; zero when it is over.
fn remaining_deadline(pod: &Pod, handle: &PodHandle) -> Option<Duration> {
    let limit = spec::spec(pod).active_deadline_seconds?;
    let start = handle.status()?.start_time.clone()?.0;
    let elapsed = Timestamp::now().duration_since(start);
    let limit = k8s_openapi::jiff::SignedDuration::from_secs(limit);
    Some(Duration::try_from(limit - elapsed).unwrap_or(Duration::ZERO))
}

fn deadline_exceeded(kubelet: &Kubelet, pod: &Pod, handle: &PodHandle) {
    let message = "Pod was active on the node longer than the specified deadline";
    kubelet.pod_event(pod, EventType::Normal, "DeadlineExceeded", message);
    handle.end(Some(("DeadlineExceeded".into(), message.into())), None);
}

/// Everything that must be there before a container can start: network, directories, cgroup, volumes, mirror pod.
async fn prepare(
    kubelet: &Arc<Kubelet>,
    handle: &PodHandle,
    pod: &Arc<Pod>,
) -> Result<PodVolumes, SyncError> {
    if !spec::host_network(pod)
        && let Some(message) = kubelet.network_not_ready()
    {
        let text = format!("network is not ready: {message}");
        kubelet.pod_event(pod, EventType::Warning, "NetworkNotReady", text);
        return Err(SyncError::NetworkNotReady(message));
    }
    if spec::is_static(pod) {
        static_pods::ensure_mirror(kubelet, pod).await;
    }
    let io = |what| move |source| SyncError::Io { what, source };
    let dir = kubelet.config.pod_dir(&handle.uid);
    tokio::fs::create_dir_all(dir.join("volumes"))
        .await
        .map_err(io("the directory"))?;
    tokio::fs::create_dir_all(dir.join("containers"))
        .await
        .map_err(io("the directory"))?;
    let logs = kubelet
        .config
        .pod_log_dir(spec::namespace(pod), spec::name(pod), &handle.uid);
    tokio::fs::create_dir_all(logs)
        .await
        .map_err(io("the log directory"))?;
    // While a resize is under way, the group has room for what the containers have as well as for what they get.
    kubelet
        .cgroups
        .create_pod(pod, &handle.resources().in_effect(pod))?;
    match kubelet.volumes.mount(kubelet, pod).await {
        Ok(volumes) => Ok(volumes),
        Err(error) => {
            kubelet.pod_event(pod, EventType::Warning, "FailedMount", error.to_string());
            Err(error.into())
        }
    }
}

async fn execute(
    kubelet: &Arc<Kubelet>,
    handle: &Arc<PodHandle>,
    pod: &Arc<Pod>,
    runtime: &PodRuntimeStatus,
    actions: &PodActions,
    volumes: &PodVolumes,
) -> Result<Round, SyncError> {
    let mut round = Round::default();
    if actions.kill_pod {
        if actions.create_sandbox && actions.sandbox_id.is_some() {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            kubelet.pod_event(pod, EventType::Normal, "SandboxChanged", message);
        }
        if runtime.is_running() {
            kill::kill_pod(kubelet, handle, runtime, spec::grace_period(pod)).await?;
            round.progressed = true;
        }
        if !actions.create_sandbox {
            return Ok(round);
        }
    }
    for kill in &actions.to_kill {
        let record = runtime.containers.iter().find(|record| record.id == kill.id);
        if let Some(record) = record {
            let grace = kill::grace_after_probe(pod, record, kill.reason);
            kill::kill_container(kubelet, handle, record, grace, &kill.message).await?;
            round.progressed = true;
        }
    }
    if !actions.to_resize.is_empty() {
        let containers: Vec<(Container, String)> = allocation::resizable(pod)
            .filter_map(|container| {
                let (_, id) = actions
                    .to_resize
                    .iter()
                    .find(|(name, _)| *name == container.name)?;
                Some((container.clone(), id.clone()))
            })
            .collect();
        kubelet
            .cgroups
            .create_pod(pod, &handle.resources().in_effect(pod))?;
        if resize::actuate(kubelet, handle, pod, &containers).await? {
            round.progressed = true;
        } else {
            round.retry_in(CONFIG_RETRY);
        }
    }
    let sandbox_id = match (&actions.sandbox_id, actions.create_sandbox) {
        (Some(id), false) => id.clone(),
        _ => {
            round.progressed = true;
            sandbox::create(kubelet, pod, actions.attempt).await?
        }
    };
    let ephemeral = spec::ephemeral_containers(pod);
    let starts = actions
        .ephemeral_to_start
        .iter()
        .map(|&index| &ephemeral[index])
        .chain(
            actions
                .init_to_start
                .iter()
                .map(|&index| &spec::init_containers(pod)[index]),
        )
        .chain(
            actions
                .containers_to_start
                .iter()
                .map(|&index| &spec::containers(pod)[index]),
        );
    for container in starts {
        if handle.stage() != Stage::Syncing {
            return Ok(round);
        }
        start_one(
            kubelet,
            handle,
            pod,
            runtime,
            container,
            &sandbox_id,
            volumes,
            &mut round,
        )
        .await;
    }
    Ok(round)
}

#[expect(
    clippy::too_many_arguments,
    reason = "the environment of one start, gathered by the only caller"
)]
async fn start_one(
    kubelet: &Arc<Kubelet>,
    handle: &Arc<PodHandle>,
    pod: &Arc<Pod>,
    runtime: &PodRuntimeStatus,
    container: &Container,
    sandbox_id: &str,
    volumes: &PodVolumes,
    round: &mut Round,
) {
    if let Some(left) = crash_loop(kubelet, handle, pod, runtime, container) {
        round.retry_in(left);
        return;
    }
    let started = start::start_container(kubelet, handle, pod, runtime, container, sandbox_id, volumes).await;
    match started {
        Ok(()) => {
            resize::started(kubelet, handle, container);
            handle.with_errors(|errors| errors.remove(&container.name));
            round.progressed = true;
        }
        Err(failure) => {
            tracing::info!(pod = %spec::format(pod), container = container.name, reason = failure.error.reason, "container not started");
            handle.with_errors(|errors| errors.insert(container.name.clone(), failure.error));
            round.retry_in(failure.retry.unwrap_or(CONFIG_RETRY));
        }
    }
}

/// How long a container that ended still has to wait; records the reason and counts the restart.
fn crash_loop(
    kubelet: &Kubelet,
    handle: &PodHandle,
    pod: &Pod,
    runtime: &PodRuntimeStatus,
    container: &Container,
) -> Option<Duration> {
    let ended = runtime
        .container(&container.name)
        .filter(|record| record.state == State::Exited)?;
    let now = Timestamp::now();
    let event = ended.finished().unwrap_or(now);
    let key = container.name.as_str();
    let waiting = handle.with_backoff(|backoff| {
        let waiting = backoff.remaining(key, event, now);
        if waiting.is_none() {
            backoff.next(key, event, now);
        }
        waiting
    });
    let (delay, left) = waiting?;
    let shown = spec::format(pod);
    let message = format!("Back-off restarting failed container {key} in pod {shown}");
    let text = format!(
        "back-off {} restarting failed container={key} pod={shown}",
        go_duration(delay)
    );
    let error = StartError {
        reason: "CrashLoopBackOff".into(),
        message: text,
    };
    let before = handle.with_errors(|errors| errors.insert(container.name.clone(), error.clone()));
    if before.as_ref() != Some(&error) {
        kubelet.container_event(pod, key, EventType::Warning, "BackOff", message);
    }
    Some(left)
}

/// A whole number of seconds as Go prints it: `10s`, `1m20s`, `5m0s`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}
