//! Pod sandboxes: their configuration and creation.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use keelson_client::EventType;
use keelson_cri::v1 as cri;
use kube::Api;

use super::{dns, rpc_error, security};
use crate::kubelet::Kubelet;
use crate::labels;
use crate::pod::spec;
use crate::pod::sync::SyncError;

/// The configuration of the pod's sandbox.
pub(crate) async fn config(
    kubelet: &Kubelet,
    pod: &Pod,
    attempt: u32,
) -> Result<cri::PodSandboxConfig, String> {
    let own = &kubelet.config;
    let (name, namespace, uid) = (spec::name(pod), spec::namespace(pod), spec::uid(pod));
    if spec::spec(pod).host_users == Some(false) {
        return Err("user namespaces (hostUsers: false) are not supported by this kubelet".into());
    }
    let host = dns::parse_resolv_conf(
        &tokio::fs::read_to_string(&own.resolv_conf)
            .await
            .unwrap_or_default(),
    );
    let hostname = if spec::host_network(pod) {
        String::new()
    } else {
        dns::kernel_hostname(pod, &own.cluster_domain)?
    };
    let mut pod_labels: HashMap<String, String> = pod
        .metadata
        .labels
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    for (key, value) in [
        (labels::POD_NAME, name),
        (labels::POD_NAMESPACE, namespace),
        (labels::POD_UID, uid),
    ] {
        pod_labels.insert(key.to_owned(), value.to_owned());
    }
    let sysctls = spec::spec(pod)
        .security_context
        .as_ref()
        .and_then(|context| context.sysctls.clone());
    Ok(cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: uid.to_owned(),
            namespace: namespace.to_owned(),
            attempt,
        }),
        hostname,
        log_directory: own.pod_log_dir(namespace, name, uid).display().to_string(),
        dns_config: Some(dns::dns_config(pod, own, &host)),
        port_mappings: port_mappings(pod),
        labels: pod_labels,
        annotations: pod
            .metadata
            .annotations
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: kubelet.cgroups.parent_for_runtime(pod),
            security_context: Some(security::sandbox_context(pod, own)),
            sysctls: sysctls
                .unwrap_or_default()
                .into_iter()
                .map(|s| (s.name.replace('/', "."), s.value))
                .collect(),
            ..cri::LinuxPodSandboxConfig::default()
        }),
        ..cri::PodSandboxConfig::default()
    })
}

fn port_mappings(pod: &Pod) -> Vec<cri::PortMapping> {
    if spec::host_network(pod) {
        return Vec::new();
    }
    let containers = spec::init_containers(pod)
        .iter()
        .filter(|c| spec::is_sidecar(c))
        .chain(spec::containers(pod));
    containers
        .flat_map(|container| container.ports.as_deref().unwrap_or_default())
        .map(|port| cri::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => cri::Protocol::Udp,
                Some("SCTP") => cri::Protocol::Sctp,
                _ => cri::Protocol::Tcp,
            } as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or_default(),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

/// Name of the runtime handler that the pod's RuntimeClass asks for.
async fn runtime_handler(kubelet: &Kubelet, pod: &Pod) -> Result<String, String> {
    let Some(class) = spec::spec(pod)
        .runtime_class_name
        .as_deref()
        .filter(|class| !class.is_empty())
    else {
        return Ok(String::new());
    };
    let api = Api::<RuntimeClass>::all(kubelet.client.clone());
    let found = api
        .get(class)
        .await
        .map_err(|error| format!("failed to get RuntimeClass {class:?}: {error}"))?;
    Ok(found.handler)
}

/// Makes a new sandbox; returns its ID.
pub(crate) async fn create(kubelet: &Kubelet, pod: &Pod, attempt: u32) -> Result<String, SyncError> {
    let result = try_create(kubelet, pod, attempt).await;
    result.map_err(|message| {
        let text = format!("Failed to create pod sandbox: {message}");
        kubelet.pod_event(pod, EventType::Warning, "FailedCreatePodSandBox", text);
        SyncError::Sandbox(message)
    })
}

async fn try_create(kubelet: &Kubelet, pod: &Pod, attempt: u32) -> Result<String, String> {
    let config = config(kubelet, pod, attempt).await?;
    let runtime_handler = runtime_handler(kubelet, pod).await?;
    let request = cri::RunPodSandboxRequest {
        config: Some(config),
        runtime_handler,
    };
    let response = kubelet
        .config
        .cri
        .runtime()
        .run_pod_sandbox(request)
        .await
        .map_err(|status| rpc_error(&status))?;
    Ok(response.into_inner().pod_sandbox_id)
}
