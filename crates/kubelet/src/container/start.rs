//! Starting one container: image, configuration, create, start, postStart hook, each with its event and its waiting reason.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use keelson_client::EventType;
use keelson_cri::v1 as cri;

use super::config::{self, ContainerInput};
use super::{hooks, images, kill, rpc_error, sandbox};
use crate::kubelet::Kubelet;
use crate::pod::container_status::StartError;
use crate::pod::handle::PodHandle;
use crate::pod::runtime_status::PodRuntimeStatus;
use crate::pod::{spec, sync};
use crate::volume::PodVolumes;

/// A container that did not start.
pub(crate) struct StartFailure {
    /// What the container's Waiting state shows.
    pub(crate) error: StartError,
    /// When to try again; `None` leaves it to the caller.
    pub(crate) retry: Option<Duration>,
}

impl StartFailure {
    pub(crate) fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            error: StartError {
                reason: reason.to_owned(),
                message: message.into(),
            },
            retry: None,
        }
    }
}

/// Starts `container` in the sandbox.
pub(crate) async fn start_container(
    kubelet: &Arc<Kubelet>,
    handle: &Arc<PodHandle>,
    pod: &Arc<Pod>,
    runtime: &PodRuntimeStatus,
    container: &Container,
    sandbox_id: &str,
    volumes: &PodVolumes,
) -> Result<(), StartFailure> {
    let name = container.name.as_str();
    let failed = |text: &str| {
        kubelet.container_event(pod, name, EventType::Warning, "Failed", format!("Error: {text}"))
    };
    let attempt = runtime
        .sandboxes
        .iter()
        .find(|sandbox| sandbox.id == sandbox_id)
        .map_or(0, |sandbox| sandbox.attempt);
    let sandbox_config = sandbox::config(kubelet, pod, attempt).await.map_err(|message| {
        failed(&message);
        StartFailure::new("CreateContainerConfigError", message)
    })?;
    let image = tokio::select! {
        image = images::ensure(kubelet, pod, container, &sandbox_config) => image,
        () = handle.stop_starting.cancelled() => Err(StartFailure::new("ContainerCreating", "")),
    };
    let image = image.inspect_err(|failure| {
        if failure.error.reason != "ContainerCreating" {
            failed(&failure.error.reason);
        }
    })?;
    let restart_count = match runtime.container(name) {
        Some(record) => u32::try_from(record.restart_count).unwrap_or_default() + 1,
        None => restarts_from_logs(kubelet, pod, name).await,
    };
    let ips = pod_ips(kubelet, pod, sandbox_id).await;
    let input = ContainerInput {
        pod,
        container,
        runtime,
        volumes,
        restart_count,
        image_ref: image.reference,
        image_user: image.user,
        pod_ips: &ips,
    };
    let config = config::generate(kubelet, &input).await.map_err(|error| {
        failed(&error.to_string());
        StartFailure::new("CreateContainerConfigError", error.to_string())
    })?;
    let log_dir = kubelet
        .config
        .pod_log_dir(spec::namespace(pod), spec::name(pod), spec::uid(pod))
        .join(name);
    if let Err(error) = tokio::fs::create_dir_all(&log_dir).await {
        let message = format!("create log directory {}: {error}", log_dir.display());
        failed(&message);
        return Err(StartFailure::new("CreateContainerError", message));
    }
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: sandbox_id.to_owned(),
        config: Some(config),
        sandbox_config: Some(sandbox_config),
    };
    let created = kubelet
        .config
        .cri
        .runtime()
        .create_container(request)
        .await
        .map_err(|status| {
            let message = rpc_error(&status);
            failed(&message);
            StartFailure::new("CreateContainerError", message)
        })?;
    let container_id = created.into_inner().container_id;
    kubelet.container_event(pod, name, EventType::Normal, "Created", "Container created");
    let request = cri::StartContainerRequest {
        container_id: container_id.clone(),
    };
    if let Err(status) = kubelet.config.cri.runtime().start_container(request).await {
        let message = rpc_error(&status);
        failed(&message);
        return Err(StartFailure::new("RunContainerError", message));
    }
    kubelet.container_event(pod, name, EventType::Normal, "Started", "Container started");
    post_start(kubelet, handle, pod, container, &container_id).await
}

async fn post_start(
    kubelet: &Arc<Kubelet>,
    handle: &Arc<PodHandle>,
    pod: &Arc<Pod>,
    container: &Container,
    container_id: &str,
) -> Result<(), StartFailure> {
    let Some(hook) = container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.post_start.as_ref())
    else {
        return Ok(());
    };
    let Ok(runtime) = sync::refresh(kubelet, handle).await else {
        return Ok(());
    };
    let ip = runtime.ips().first().cloned().unwrap_or_default();
    let outcome = tokio::select! {
        outcome = hooks::run(kubelet, pod, container, container_id, &ip, hook) => outcome,
        () = handle.stop_starting.cancelled() => return Ok(()),
    };
    let Err(message) = outcome else { return Ok(()) };
    let text = format!("PostStartHook failed: {message}");
    kubelet.container_event(
        pod,
        &container.name,
        EventType::Warning,
        "FailedPostStartHook",
        text.clone(),
    );
    if let Some(record) = runtime.containers.iter().find(|record| record.id == container_id) {
        let grace = spec::grace_period(pod);
        if let Err(status) = kill::kill_container(kubelet, handle, record, grace, "FailedPostStartHook").await
        {
            tracing::warn!(container_id, %status, "container not killed after its postStart hook failed");
        }
    }
    Err(StartFailure::new("PostStartHookError", text))
}

/// The addresses that the pod's containers are to see.
async fn pod_ips(kubelet: &Kubelet, pod: &Pod, sandbox_id: &str) -> Vec<String> {
    if spec::host_network(pod) {
        return kubelet.host_ips();
    }
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: sandbox_id.to_owned(),
        verbose: false,
    };
    let response = kubelet.config.cri.runtime().pod_sandbox_status(request).await;
    let network = response
        .ok()
        .and_then(|response| response.into_inner().status)
        .and_then(|status| status.network);
    let Some(network) = network else { return Vec::new() };
    let additional = network.additional_ips.into_iter().map(|ip| ip.ip);
    std::iter::once(network.ip)
        .chain(additional)
        .filter(|ip| !ip.is_empty())
        .collect()
}

/// When the runtime has forgotten a container, its logs still tell how often it was started.
async fn restarts_from_logs(kubelet: &Kubelet, pod: &Pod, container: &str) -> u32 {
    let dir = kubelet
        .config
        .pod_log_dir(spec::namespace(pod), spec::name(pod), spec::uid(pod))
        .join(container);
    let Ok(mut entries) = tokio::fs::read_dir(dir).await else {
        return 0;
    };
    let mut next = 0;
    while let Ok(Some(entry)) = entries.next_entry().await {
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.split('.').next())
            .and_then(|number| number.parse::<u32>().ok());
        next = next.max(number.map_or(0, |number| number + 1));
    }
    next
}
