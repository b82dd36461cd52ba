//! Sandboxes and containers as CRI messages.

use std::collections::HashMap;
use std::sync::Arc;

use keelson_cri::v1;

use crate::protocol::SeccompFilter;
use crate::runtime::{Runtime, now};
use crate::state::{Container, Phase, Sandbox};

impl Runtime {
    pub(crate) fn describe_sandbox(&self, sandbox: &Sandbox) -> v1::PodSandboxStatus {
        let record = sandbox.record.lock().clone();
        let state = sandbox.state();
        let mut network = v1::PodSandboxNetworkStatus::default();
        if state == v1::PodSandboxState::SandboxReady {
            let mut ips = record.ips.iter().map(ToString::to_string);
            network.ip = ips.next().unwrap_or_default();
            network.additional_ips = ips.map(|ip| v1::PodIp { ip }).collect();
        }
        v1::PodSandboxStatus {
            id: sandbox.id.clone(),
            metadata: sandbox.config.metadata.clone(),
            state: state as i32,
            created_at: record.created_at,
            network: Some(network),
            linux: Some(v1::LinuxPodSandboxStatus {
                namespaces: Some(v1::Namespace {
                    options: Some(sandbox.namespaces()),
                }),
            }),
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
            runtime_handler: record.runtime_handler,
        }
    }

    pub(crate) fn list_sandboxes(&self, filter: Option<v1::PodSandboxFilter>) -> Vec<v1::PodSandbox> {
        let filter = filter.unwrap_or_default();
        let mut list: Vec<v1::PodSandbox> = self
            .0
            .sandboxes
            .read()
            .values()
            .filter(|sandbox| filter.id.is_empty() || sandbox.id.starts_with(&filter.id))
            .filter(|sandbox| {
                filter
                    .state
                    .is_none_or(|wanted| wanted.state == sandbox.state() as i32)
            })
            .filter(|sandbox| matches(&filter.label_selector, &sandbox.config.labels))
            .map(|sandbox| {
                let record = sandbox.record.lock();
                v1::PodSandbox {
                    id: sandbox.id.clone(),
                    metadata: sandbox.config.metadata.clone(),
                    state: sandbox.state_of(&record) as i32,
                    created_at: record.created_at,
                    labels: sandbox.config.labels.clone(),
                    annotations: sandbox.config.annotations.clone(),
                    runtime_handler: record.runtime_handler.clone(),
                }
            })
            .collect();
        list.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.created_at));
        list
    }

    pub(crate) fn list_containers(&self, filter: Option<v1::ContainerFilter>) -> Vec<v1::Container> {
        let filter = filter.unwrap_or_default();
        let mut list: Vec<v1::Container> = self
            .0
            .containers
            .read()
            .values()
            .filter(|c| filter.id.is_empty() || c.id.starts_with(&filter.id))
            .filter(|c| filter.pod_sandbox_id.is_empty() || c.sandbox_id.starts_with(&filter.pod_sandbox_id))
            .filter(|c| {
                filter
                    .state
                    .is_none_or(|wanted| wanted.state == c.phase().cri() as i32)
            })
            .filter(|c| matches(&filter.label_selector, &c.config.lock().labels))
            .map(|container| {
                let (config, record) = (container.config.lock(), container.record.lock());
                v1::Container {
                    id: container.id.clone(),
                    pod_sandbox_id: container.sandbox_id.clone(),
                    metadata: config.metadata.clone(),
                    image: config.image.clone(),
                    image_ref: record.image_ref.clone(),
                    state: container.phase().cri() as i32,
                    created_at: record.created_at,
                    labels: config.labels.clone(),
                    annotations: config.annotations.clone(),
                    image_id: record.image_id.clone(),
                }
            })
            .collect();
        list.sort_by_key(|container| std::cmp::Reverse(container.created_at));
        list
    }

    pub(crate) fn describe_container(&self, container: &Container) -> v1::ContainerStatus {
        let phase = container.phase();
        let (mut config, record) = (container.config.lock().clone(), container.record.lock().clone());
        // The kubelet asks for an image by its id; people know it by its tag. containerd names the first one too.
        if let (Some(image), false) = (&mut config.image, record.image_tag.is_empty()) {
            image.image = record.image_tag;
        }
        let mut status = v1::ContainerStatus {
            id: container.id.clone(),
            metadata: config.metadata,
            state: phase.cri() as i32,
            created_at: record.created_at,
            image: config.image,
            image_ref: record.image_ref,
            image_id: record.image_id,
            labels: config.labels,
            annotations: config.annotations,
            mounts: config.mounts,
            log_path: container
                .log_path
                .as_ref()
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
            resources: config
                .linux
                .and_then(|linux| linux.resources)
                .map(|linux| v1::ContainerResources {
                    linux: Some(linux),
                    windows: None,
                }),
            user: Some(v1::ContainerUser {
                linux: Some(v1::LinuxContainerUser {
                    uid: record.uid.into(),
                    gid: record.gid.into(),
                    supplemental_groups: record.groups.iter().map(|gid| i64::from(*gid)).collect(),
                }),
            }),
            stop_signal: cri_signal(record.stop_signal) as i32,
            ..Default::default()
        };
        match phase {
            Phase::Created => {}
            Phase::Running { started_at, .. } => status.started_at = started_at,
            Phase::Exited {
                exit,
                reason,
                message,
            } => {
                status.started_at = exit.started_at;
                status.finished_at = exit.at;
                status.exit_code = exit.code;
                status.reason = reason.to_owned();
                status.message = message;
            }
        }
        status
    }

    /// Tells subscribers that something happened to a container (or, with the sandbox's own id, to the sandbox).
    pub(crate) fn emit(&self, sandbox_id: &str, id: &str, kind: v1::ContainerEventType) {
        if self.0.events.receiver_count() == 0 {
            return;
        }
        let sandbox = self.0.sandboxes.read().get(sandbox_id).cloned();
        let event = v1::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind as i32,
            created_at: now(),
            pod_sandbox_status: sandbox.map(|sandbox| self.describe_sandbox(&sandbox)),
            containers_statuses: self.describe_containers_of(sandbox_id),
        };
        // Fails when the last subscriber has just gone.
        let _ = self.0.events.send(event);
    }

    pub(crate) fn describe_containers_of(&self, sandbox_id: &str) -> Vec<v1::ContainerStatus> {
        self.containers_of(sandbox_id)
            .iter()
            .map(|container| self.describe_container(container))
            .collect()
    }

    /// Details for `crictl inspect`: process ids and the specification.
    pub(crate) fn container_info(&self, container: &Arc<Container>) -> HashMap<String, String> {
        let pid = match container.phase() {
            Phase::Running { pid, .. } => pid,
            _ => 0,
        };
        let read = |name: &str| -> Option<serde_json::Value> {
            let bytes = std::fs::read(container.directory.join(name)).ok()?;
            serde_json::from_slice(&bytes).ok()
        };
        let mut spec = read("config.json").unwrap_or_default();
        // As it was before the filter was taken out of it.
        let filter =
            read("launch.json").and_then(|launch| serde_json::from_value(launch["seccomp"].clone()).ok());
        if let (Some(filter), Some(profile)) = (filter, read(SeccompFilter::PROFILE)) {
            crate::seccomp::take_back(&filter, &mut spec["process"]["capabilities"]);
            spec["linux"]["seccomp"] = profile;
        }
        let info = serde_json::json!({"sandboxID": container.sandbox_id, "pid": pid, "runtimeSpec": spec});
        HashMap::from([("info".to_owned(), info.to_string())])
    }
}

impl Sandbox {
    /// The state, for a caller that holds the record.
    fn state_of(&self, record: &crate::records::SandboxRecord) -> v1::PodSandboxState {
        if self.shim.lock().is_some() && !record.stopped {
            v1::PodSandboxState::SandboxReady
        } else {
            v1::PodSandboxState::SandboxNotready
        }
    }
}

/// Whether all wanted labels are there.
pub(crate) fn matches(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// A signal number as CRI names it.
fn cri_signal(number: i32) -> v1::Signal {
    let name = match number {
        34 => "SIGRTMIN".to_owned(),
        64 => "SIGRTMAX".to_owned(),
        35..=49 => format!("SIGRTMINPLUS{}", number - 34),
        50..=63 => format!("SIGRTMAXMINUS{}", 64 - number),
        _ => match nix::sys::signal::Signal::try_from(number) {
            Ok(signal) => signal.as_str().to_owned(),
            Err(_) => return v1::Signal::RuntimeDefault,
        },
    };
    v1::Signal::from_str_name(&name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_cri_names() {
        for (number, signal) in [
            (15, v1::Signal::Sigterm),
            (37, v1::Signal::Sigrtminplus3),
            (50, v1::Signal::Sigrtmaxminus14),
            (64, v1::Signal::Sigrtmax),
            (99, v1::Signal::RuntimeDefault),
        ] {
            assert_eq!(cri_signal(number), signal, "{number}");
        }
    }
}
