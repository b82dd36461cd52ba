//! What the runtime knows of one pod, read from CRI and kept without protobuf's optional fields.

use std::collections::HashMap;
use std::path::Path;

use k8s_openapi::jiff::Timestamp;
use keelson_cri::v1 as cri;

use crate::cri::Cri;
use crate::labels;

/// Longest termination message of one container, in bytes.
const MAX_TERMINATION_MESSAGE: usize = 4096;
/// Longest message that is taken from the log, in bytes and lines.
const MAX_LOG_MESSAGE: (usize, usize) = (2048, 80);

/// A pod's sandbox.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) ready: bool,
    pub(crate) created_at: i64,
    pub(crate) attempt: u32,
    pub(crate) host_network: bool,
    pub(crate) ips: Vec<String>,
}

/// State of a container in the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Created,
    Running,
    Exited,
    Unknown,
}

/// A container, running or dead.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) sandbox_id: String,
    pub(crate) state: State,
    /// Nanoseconds since the epoch, as all times here.
    pub(crate) created_at: i64,
    pub(crate) started_at: i64,
    pub(crate) finished_at: i64,
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) hash: String,
    pub(crate) restart_count: i32,
    pub(crate) log_path: String,
    pub(crate) grace_period: Option<i64>,
    pub(crate) user: Option<cri::LinuxContainerUser>,
    pub(crate) stop_signal: i32,
}

impl ContainerRecord {
    /// When it ended, if it did.
    pub(crate) fn finished(&self) -> Option<Timestamp> {
        timestamp(self.finished_at)
    }
}

/// One pod in the runtime. Sandboxes and containers are sorted, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodRuntimeStatus {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) containers: Vec<ContainerRecord>,
}

impl PodRuntimeStatus {
    /// The newest container of that name.
    pub(crate) fn container(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The addresses of the newest ready sandbox.
    pub(crate) fn ips(&self) -> &[String] {
        self.sandboxes
            .iter()
            .find(|sandbox| sandbox.ready)
            .map(|sandbox| sandbox.ips.as_slice())
            .unwrap_or_default()
    }

    /// Whether any container runs or any sandbox is ready.
    pub(crate) fn is_running(&self) -> bool {
        self.sandboxes.iter().any(|sandbox| sandbox.ready) || self.running().next().is_some()
    }

    /// Containers that run, or whose state is unknown.
    pub(crate) fn running(&self) -> impl Iterator<Item = &ContainerRecord> {
        self.containers
            .iter()
            .filter(|container| matches!(container.state, State::Running | State::Unknown))
    }
}

/// Nanoseconds since the epoch as a time; 0 is none.
pub(crate) fn timestamp(nanos: i64) -> Option<Timestamp> {
    (nanos > 0)
        .then(|| Timestamp::from_nanosecond(i128::from(nanos)).ok())
        .flatten()
}

/// Reads everything of one pod. Containers and sandboxes that vanish meanwhile are left out.
pub(crate) async fn read(cri: &Cri, uid: &str) -> Result<PodRuntimeStatus, tonic::Status> {
    let selector = HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())]);
    let filter = cri::PodSandboxFilter {
        label_selector: selector.clone(),
        ..Default::default()
    };
    let request = cri::ListPodSandboxRequest { filter: Some(filter) };
    let sandboxes = cri.runtime().list_pod_sandbox(request).await?.into_inner().items;
    let filter = cri::ContainerFilter {
        label_selector: selector,
        ..Default::default()
    };
    let request = cri::ListContainersRequest { filter: Some(filter) };
    let containers = cri
        .runtime()
        .list_containers(request)
        .await?
        .into_inner()
        .containers;

    let mut pod = PodRuntimeStatus::default();
    for sandbox in sandboxes {
        if let Some(metadata) = &sandbox.metadata {
            pod.name.clone_from(&metadata.name);
            pod.namespace.clone_from(&metadata.namespace);
        }
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: sandbox.id.clone(),
            verbose: false,
        };
        if let Some(response) = found(cri.runtime().pod_sandbox_status(request).await)?
            && let Some(status) = response.status
        {
            pod.sandboxes.push(sandbox_of(status));
        }
    }
    for container in containers {
        let request = cri::ContainerStatusRequest {
            container_id: container.id.clone(),
            verbose: false,
        };
        if let Some(response) = found(cri.runtime().container_status(request).await)?
            && let Some(status) = response.status
        {
            pod.containers
                .push(container_of(status, container.pod_sandbox_id).await);
        }
    }
    pod.sandboxes
        .sort_by_key(|sandbox| std::cmp::Reverse((sandbox.created_at, sandbox.attempt)));
    pod.containers
        .sort_by_key(|container| std::cmp::Reverse((container.created_at, container.restart_count)));
    Ok(pod)
}

fn found<T>(result: Result<tonic::Response<T>, tonic::Status>) -> Result<Option<T>, tonic::Status> {
    match result {
        Ok(response) => Ok(Some(response.into_inner())),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

fn sandbox_of(status: cri::PodSandboxStatus) -> Sandbox {
    let options = status
        .linux
        .and_then(|linux| linux.namespaces)
        .and_then(|namespaces| namespaces.options);
    let network = status.network.unwrap_or_default();
    let additional = network.additional_ips.into_iter().map(|ip| ip.ip);
    let ips = std::iter::once(network.ip)
        .chain(additional)
        .filter(|ip| !ip.is_empty())
        .collect();
    Sandbox {
        ready: status.state == cri::PodSandboxState::SandboxReady as i32,
        id: status.id,
        created_at: status.created_at,
        attempt: status
            .metadata
            .map(|metadata| metadata.attempt)
            .unwrap_or_default(),
        host_network: options.is_some_and(|options| options.network == cri::NamespaceMode::Node as i32),
        ips,
    }
}

async fn container_of(status: cri::ContainerStatus, sandbox_id: String) -> ContainerRecord {
    let annotation = |key: &str| status.annotations.get(key);
    let state = match cri::ContainerState::try_from(status.state) {
        Ok(cri::ContainerState::ContainerCreated) => State::Created,
        Ok(cri::ContainerState::ContainerRunning) => State::Running,
        Ok(cri::ContainerState::ContainerExited) => State::Exited,
        Ok(cri::ContainerState::ContainerUnknown) | Err(_) => State::Unknown,
    };
    let mut message = status.message.clone();
    if state == State::Exited
        && let Some(own) = termination_message(&status).await
    {
        message = own;
    }
    ContainerRecord {
        name: status
            .labels
            .get(labels::CONTAINER_NAME)
            .cloned()
            .unwrap_or_default(),
        sandbox_id,
        state,
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        message,
        hash: annotation(labels::CONTAINER_HASH).cloned().unwrap_or_default(),
        restart_count: annotation(labels::RESTART_COUNT)
            .and_then(|count| count.parse().ok())
            .unwrap_or_default(),
        grace_period: annotation(labels::TERMINATION_GRACE_PERIOD).and_then(|seconds| seconds.parse().ok()),
        image: status.image.map(|image| image.image).unwrap_or_default(),
        image_id: if status.image_ref.is_empty() {
            status.image_id
        } else {
            status.image_ref
        },
        log_path: status.log_path,
        user: status.user.and_then(|user| user.linux),
        id: status.id,
        reason: status.reason,
        stop_signal: status.stop_signal,
    }
}

/// What the container wrote to its termination message file; with `FallbackToLogsOnError` else the end of its log.
async fn termination_message(status: &cri::ContainerStatus) -> Option<String> {
    let path = status
        .annotations
        .get(labels::TERMINATION_MESSAGE_PATH)
        .filter(|path| !path.is_empty())?;
    let fallback = status
        .annotations
        .get(labels::TERMINATION_MESSAGE_POLICY)
        .map(String::as_str)
        == Some("FallbackToLogsOnError")
        && status.exit_code != 0;
    if let Some(mount) = status.mounts.iter().find(|mount| &mount.container_path == path) {
        match read_head(Path::new(&mount.host_path), MAX_TERMINATION_MESSAGE).await {
            Ok(message) if message.is_empty() => {}
            Ok(message) => return Some(message),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Some(format!(
                    "Error on reading termination log {}: {error}",
                    mount.host_path
                ));
            }
        }
    }
    if fallback {
        crate::container::logs::tail_text(Path::new(&status.log_path), MAX_LOG_MESSAGE.1, MAX_LOG_MESSAGE.0)
            .await
    } else {
        None
    }
}

async fn read_head(path: &Path, limit: usize) -> std::io::Result<String> {
    use tokio::io::AsyncReadExt;
    let file = tokio::fs::File::open(path).await?;
    let mut bytes = Vec::new();
    file.take(limit as u64).read_to_end(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
