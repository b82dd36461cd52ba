//! Ending containers: preStop hook, stop signal, grace period; sidecars after the main containers, in reverse order.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use keelson_client::EventType;
use keelson_cri::v1 as cri;
use tokio::time::Instant;

use super::hooks;
use crate::kubelet::Kubelet;
use crate::pod::actions::KillReason;
use crate::pod::handle::PodHandle;
use crate::pod::runtime_status::{ContainerRecord, PodRuntimeStatus};
use crate::pod::spec;

/// What a container gets at least, in seconds, to react to its signal.
const MINIMUM_GRACE: i64 = 2;

/// Seconds that a container gets when a probe failed: the probe's own grace period, or the pod's.
pub(crate) fn grace_after_probe(pod: &Pod, record: &ContainerRecord, reason: KillReason) -> i64 {
    let container = spec::container(pod, &record.name);
    let probe = container.as_ref().and_then(|container| match reason {
        KillReason::LivenessProbe => container.liveness_probe.as_ref(),
        KillReason::StartupProbe => container.startup_probe.as_ref(),
        KillReason::Unknown | KillReason::DefinitionChanged | KillReason::Resize => None,
    });
    probe
        .and_then(|probe| probe.termination_grace_period_seconds)
        .unwrap_or_else(|| spec::grace_period(pod))
}

/// Ends one container within `grace` seconds; `message` is the event's text.
pub(crate) async fn kill_container(
    kubelet: &Kubelet,
    handle: &PodHandle,
    record: &ContainerRecord,
    grace: i64,
    message: &str,
) -> Result<(), tonic::Status> {
    let pod = handle.pod();
    let text = if message.is_empty() {
        format!("Stopping container {}", record.name)
    } else {
        message.to_owned()
    };
    let began = Instant::now();
    if handle.claim_hook(&record.id) {
        kubelet.container_event(&pod, &record.name, EventType::Normal, "Killing", text);
        pre_stop(kubelet, handle, &pod, record, grace).await;
    }
    let used = i64::try_from(began.elapsed().as_secs()).unwrap_or(grace);
    let timeout = if grace <= 0 {
        0
    } else {
        (grace - used).max(MINIMUM_GRACE.min(grace))
    };
    let request = cri::StopContainerRequest {
        container_id: record.id.clone(),
        timeout,
    };
    match kubelet.config.cri.runtime().stop_container(request).await {
        Ok(_) => Ok(()),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
        Err(status) => Err(status),
    }
}

async fn pre_stop(kubelet: &Kubelet, handle: &PodHandle, pod: &Pod, record: &ContainerRecord, grace: i64) {
    let Some(container) = spec::container(pod, &record.name) else {
        return;
    };
    let Some(hook) = container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.pre_stop.as_ref())
    else {
        return;
    };
    if grace <= 0 {
        return;
    }
    let ip = match handle.runtime().ips().first() {
        Some(ip) => ip.clone(),
        None => kubelet.config.host_ip(),
    };
    let limit = Duration::from_secs(u64::try_from(grace).unwrap_or_default());
    let run = hooks::run(kubelet, pod, &container, &record.id, &ip, hook);
    match tokio::time::timeout(limit, run).await {
        Ok(Ok(())) => {}
        Ok(Err(message)) => {
            let text = format!("PreStopHook failed: {message}");
            kubelet.container_event(pod, &record.name, EventType::Warning, "FailedPreStopHook", text);
        }
        Err(_) => tracing::info!(
            container = record.name,
            grace,
            "preStop hook did not end within the grace period"
        ),
    }
}

/// Ends all containers of the pod within `grace` seconds, then its sandboxes.
pub(crate) async fn kill_pod(
    kubelet: &Kubelet,
    handle: &PodHandle,
    runtime: &PodRuntimeStatus,
    grace: i64,
) -> Result<(), tonic::Status> {
    let pod = handle.pod();
    let order = |record: &ContainerRecord| {
        spec::init_containers(&pod)
            .iter()
            .position(|c| c.name == record.name && spec::is_sidecar(c))
    };
    let (mut sidecars, others): (Vec<_>, Vec<_>) =
        runtime.running().partition(|record| order(record).is_some());
    let deadline = Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or_default());
    let kills = others
        .into_iter()
        .map(|record| kill_container(kubelet, handle, record, grace, ""));
    join_all(kills).await.into_iter().collect::<Result<(), _>>()?;
    sidecars.sort_by_key(|record| std::cmp::Reverse(order(record)));
    for record in sidecars {
        let left = deadline.saturating_duration_since(Instant::now()).as_secs();
        let left = i64::try_from(left).unwrap_or(grace).max(MINIMUM_GRACE.min(grace));
        kill_container(kubelet, handle, record, left, "").await?;
    }
    for sandbox in runtime.sandboxes.iter().filter(|sandbox| sandbox.ready) {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: sandbox.id.clone(),
        };
        kubelet.config.cri.runtime().stop_pod_sandbox(request).await?;
    }
    Ok(())
}
