//! The CRI configuration of a container.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use keelson_cri::v1 as cri;

use super::security::{self, ImageUser};
use super::{env, expansion, mounts};
use crate::kubelet::Kubelet;
use crate::labels;
use crate::node;
use crate::pod::runtime_status::PodRuntimeStatus;
use crate::pod::{qos, spec};
use crate::volume::PodVolumes;

/// A container cannot be configured; it waits with `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Environment(#[from] env::Error),
    #[error(transparent)]
    Mounts(#[from] mounts::Error),
    #[error("{0}")]
    Security(String),
    #[error("container {0:?} to target does not run")]
    Target(String),
}

/// What a container is made of, besides its spec.
pub(crate) struct ContainerInput<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) runtime: &'a PodRuntimeStatus,
    pub(crate) volumes: &'a PodVolumes,
    pub(crate) restart_count: u32,
    pub(crate) image_ref: String,
    pub(crate) image_user: ImageUser,
    pub(crate) pod_ips: &'a [String],
}

/// The configuration.
pub(crate) async fn generate(
    kubelet: &Kubelet,
    input: &ContainerInput<'_>,
) -> Result<cri::ContainerConfig, Error> {
    let (pod, container) = (input.pod, input.container);
    security::verify_run_as_non_root(pod, container, &input.image_user).map_err(Error::Security)?;
    let allocatable = node::capacity::allocatable(&kubelet.config, &kubelet.machine);
    let host_ips = kubelet.host_ips();
    let fields = env::FieldContext {
        pod,
        pod_ips: input.pod_ips,
        host_ips: &host_ips,
        allocatable: &allocatable,
    };
    let environment = env::environment(kubelet, container, &fields).await?;
    let mounts = mounts::mounts(
        kubelet,
        pod,
        container,
        input.volumes,
        &environment,
        input.pod_ips,
    )
    .await?;
    let lookup = |name: &str| {
        environment
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.clone())
    };
    let expand = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter()
            .flatten()
            .map(|text| expansion::expand(text, lookup))
            .collect()
    };
    let image = container.image.clone().unwrap_or_default();
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: container.name.clone(),
            attempt: input.restart_count,
        }),
        image: Some(cri::ImageSpec {
            image: input.image_ref.clone(),
            user_specified_image: image,
            ..cri::ImageSpec::default()
        }),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: environment
            .iter()
            .map(|(key, value)| cri::KeyValue {
                key: key.clone(),
                value: value.clone(),
            })
            .collect(),
        mounts,
        labels: container_labels(pod, container),
        annotations: container_annotations(pod, container, input.restart_count),
        log_path: format!("{}/{}.log", container.name, input.restart_count),
        stdin: container.stdin.unwrap_or_default(),
        stdin_once: container.stdin_once.unwrap_or_default(),
        tty: container.tty.unwrap_or_default(),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources(kubelet, pod, container)),
            security_context: Some(security::container_context(
                pod,
                container,
                &kubelet.config,
                &input.image_user,
                target(pod, container, input.runtime)?,
            )),
        }),
        stop_signal: stop_signal(container) as i32,
        ..cri::ContainerConfig::default()
    })
}

fn stop_signal(container: &Container) -> cri::Signal {
    let name = container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    name.and_then(cri::Signal::from_str_name)
        .unwrap_or(cri::Signal::RuntimeDefault)
}

/// ID of the container whose processes an ephemeral container is to see.
fn target(pod: &Pod, container: &Container, runtime: &PodRuntimeStatus) -> Result<Option<String>, Error> {
    let ephemeral = spec::spec(pod)
        .ephemeral_containers
        .iter()
        .flatten()
        .find(|other| other.name == container.name);
    let Some(target) = ephemeral.and_then(|ephemeral| ephemeral.target_container_name.as_deref()) else {
        return Ok(None);
    };
    let record = runtime.running().find(|record| record.name == target);
    record
        .map(|record| Some(record.id.clone()))
        .ok_or_else(|| Error::Target(target.to_owned()))
}

/// Labels by which the container is found again.
fn container_labels(pod: &Pod, container: &Container) -> HashMap<String, String> {
    HashMap::from([
        (labels::POD_NAME.to_owned(), spec::name(pod).to_owned()),
        (labels::POD_NAMESPACE.to_owned(), spec::namespace(pod).to_owned()),
        (labels::POD_UID.to_owned(), spec::uid(pod).to_owned()),
        (labels::CONTAINER_NAME.to_owned(), container.name.clone()),
    ])
}

fn container_annotations(pod: &Pod, container: &Container, restart_count: u32) -> HashMap<String, String> {
    let path = container
        .termination_message_path
        .clone()
        .unwrap_or_else(|| "/dev/termination-log".into());
    let policy = container
        .termination_message_policy
        .clone()
        .unwrap_or_else(|| "File".into());
    let mut annotations = HashMap::from([
        (labels::CONTAINER_HASH.to_owned(), spec::container_hash(container)),
        (labels::RESTART_COUNT.to_owned(), restart_count.to_string()),
        (labels::TERMINATION_MESSAGE_PATH.to_owned(), path),
        (labels::TERMINATION_MESSAGE_POLICY.to_owned(), policy),
        (
            labels::TERMINATION_GRACE_PERIOD.to_owned(),
            spec::grace_period(pod).to_string(),
        ),
    ]);
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        annotations.insert(labels::DELETION_GRACE_PERIOD.to_owned(), seconds.to_string());
    }
    let pre_stop = container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(text) = pre_stop.and_then(|hook| serde_json::to_string(hook).ok()) {
        annotations.insert(labels::PRE_STOP.to_owned(), text);
    }
    if let Some(text) = container
        .ports
        .as_ref()
        .and_then(|ports| serde_json::to_string(ports).ok())
    {
        annotations.insert(labels::CONTAINER_PORTS.to_owned(), text);
    }
    annotations
}

/// Limits of the container's own group.
pub(crate) fn resources(kubelet: &Kubelet, pod: &Pod, container: &Container) -> cri::LinuxContainerResources {
    let capacity = i64::try_from(kubelet.machine.memory).unwrap_or(i64::MAX);
    let mut resources = cri::LinuxContainerResources {
        cpu_shares: qos::cpu_shares(qos::request(container, "cpu")),
        cpu_period: 100_000,
        cpu_quota: qos::cpu_quota(qos::limit(container, "cpu")),
        memory_limit_in_bytes: qos::limit(container, "memory"),
        oom_score_adj: qos::oom_score_adj(pod, container, capacity),
        ..cri::LinuxContainerResources::default()
    };
    if kubelet.cgroups.is_unified() {
        // One process over the limit ends the whole container, not a random part of it.
        resources.unified.insert("memory.oom.group".into(), "1".into());
    }
    resources
}
