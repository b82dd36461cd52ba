//! The node's status, made of facts and the runtime's state. Pure but for the list of images.

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus, NodeSwapStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use keelson_cri::v1 as cri;
use serde_json::{Map, Value, json};

use super::capacity;
use super::run::RuntimeState;
use crate::eviction::PressureState;
use crate::kubelet::Kubelet;
use crate::machine;

/// The API level that this kubelet has.
pub(crate) const VERSION: &str = "v1.36.0";
/// Images that a status lists, and names of each.
const MAX_IMAGES: usize = 50;
const MAX_NAMES: usize = 5;

/// The status without times.
pub(super) async fn make(kubelet: &Kubelet, runtime: &RuntimeState) -> NodeStatus {
    let config = &kubelet.config;
    let machine = &kubelet.machine;
    let port = config.server.as_ref().map(|server| i32::from(server.port));
    NodeStatus {
        addresses: Some(addresses(kubelet)).filter(|addresses| !addresses.is_empty()),
        capacity: Some(capacity::capacity(config, machine)),
        allocatable: Some(capacity::allocatable(config, machine)),
        conditions: Some(conditions(runtime, &kubelet.pressure.state())),
        daemon_endpoints: port.map(|port| NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port }),
        }),
        node_info: Some(NodeSystemInfo {
            architecture: machine::architecture().to_owned(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: format!("{}://{}", kubelet.runtime_name, kubelet.runtime_version),
            kernel_version: machine.kernel_version.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: VERSION.to_owned(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: machine.os_image.clone(),
            swap: (machine.swap > 0).then(|| NodeSwapStatus {
                capacity: i64::try_from(machine.swap).ok(),
            }),
            system_uuid: machine.system_uuid.clone(),
        }),
        images: images(kubelet).await,
        runtime_handlers: Some(handlers(runtime)).filter(|handlers| !handlers.is_empty()),
        features: Some(NodeFeatures {
            supplemental_groups_policy: Some(runtime.supplemental_groups_policy),
        }),
        ..NodeStatus::default()
    }
}

fn addresses(kubelet: &Kubelet) -> Vec<NodeAddress> {
    let known = kubelet
        .node()
        .and_then(|node| node.status.clone()?.addresses)
        .unwrap_or_default();
    if kubelet.config.external_cloud_provider && !known.is_empty() {
        // They belong to the cloud-controller-manager.
        return known;
    }
    let ips = kubelet.config.node_ips.iter();
    let ips = ips.map(|ip| NodeAddress {
        type_: "InternalIP".into(),
        address: ip.to_string(),
    });
    let name = NodeAddress {
        type_: "Hostname".into(),
        address: kubelet.config.hostname.clone(),
    };
    ips.chain([name]).collect()
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> NodeCondition {
    NodeCondition {
        type_: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..NodeCondition::default()
    }
}

/// The conditions in upstream's order and words.
fn conditions(runtime: &RuntimeState, pressure: &PressureState) -> Vec<NodeCondition> {
    let memory = if pressure.memory {
        condition(
            "MemoryPressure",
            true,
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
        )
    } else {
        condition(
            "MemoryPressure",
            false,
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        )
    };
    let disk = if pressure.disk {
        condition(
            "DiskPressure",
            true,
            "KubeletHasDiskPressure",
            "kubelet has disk pressure",
        )
    } else {
        condition(
            "DiskPressure",
            false,
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        )
    };
    let pid = if pressure.pid {
        condition(
            "PIDPressure",
            true,
            "KubeletHasInsufficientPID",
            "kubelet has insufficient PID available",
        )
    } else {
        condition(
            "PIDPressure",
            false,
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        )
    };
    let mut problems = Vec::new();
    if let Some(error) = &runtime.runtime_error {
        problems.push(format!("container runtime is down: {error}"));
    }
    if let Some(error) = &runtime.network_error {
        problems.push(format!("container runtime network not ready: {error}"));
    }
    let ready = if problems.is_empty() {
        condition("Ready", true, "KubeletReady", "kubelet is posting ready status")
    } else if problems.len() == 1 {
        condition("Ready", false, "KubeletNotReady", &problems[0])
    } else {
        condition(
            "Ready",
            false,
            "KubeletNotReady",
            &format!("[{}]", problems.join(", ")),
        )
    };
    vec![memory, disk, pid, ready]
}

async fn images(kubelet: &Kubelet) -> Option<Vec<ContainerImage>> {
    let response = kubelet
        .config
        .cri
        .image()
        .list_images(cri::ListImagesRequest { filter: None })
        .await;
    let mut images = response.ok()?.into_inner().images;
    images.sort_by_key(|image| (std::cmp::Reverse(image.size), image.id.clone()));
    images.truncate(MAX_IMAGES);
    let image = |image: cri::Image| ContainerImage {
        names: Some(
            image
                .repo_digests
                .into_iter()
                .chain(image.repo_tags)
                .take(MAX_NAMES)
                .collect(),
        ),
        size_bytes: i64::try_from(image.size).ok(),
    };
    Some(images.into_iter().map(image).collect())
}

fn handlers(runtime: &RuntimeState) -> Vec<NodeRuntimeHandler> {
    let handler = |handler: &cri::RuntimeHandler| NodeRuntimeHandler {
        name: Some(handler.name.clone()),
        features: handler
            .features
            .as_ref()
            .map(|features| NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
                user_namespaces: Some(features.user_namespaces),
            }),
    };
    runtime.handlers.iter().map(handler).collect()
}

/// Gives conditions their times: when they were seen, and since when they are what they are.
pub(super) fn stamp(status: &mut NodeStatus, before: &[NodeCondition], now: Timestamp) {
    for condition in status.conditions.iter_mut().flatten() {
        let old = before
            .iter()
            .find(|old| old.type_ == condition.type_ && old.status == condition.status);
        condition.last_heartbeat_time = Some(Time(now));
        condition.last_transition_time = old
            .and_then(|old| old.last_transition_time.clone())
            .or(Some(Time(now)));
    }
}

/// The part of `new` that is not in `old`, as a strategic merge patch. `None` when only times differ.
pub(super) fn difference(old: Option<&NodeStatus>, new: &NodeStatus) -> Option<Map<String, Value>> {
    let bare = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
            condition.last_transition_time = None;
        }
        serde_json::to_value(status)
            .ok()
            .and_then(|value| value.as_object().cloned())
            .unwrap_or_default()
    };
    let old = old.map(bare).unwrap_or_default();
    let changed: Vec<String> = bare(new)
        .into_iter()
        .filter(|(field, value)| old.get(field) != Some(value))
        .map(|(field, _)| field)
        .collect();
    (!changed.is_empty()).then(|| patch(new, |field| changed.iter().any(|changed| changed == field)))
}

/// The named fields of the status as a patch; conditions always, for their heartbeat.
pub(super) fn patch(status: &NodeStatus, wanted: impl Fn(&str) -> bool) -> Map<String, Value> {
    let value = serde_json::to_value(status)
        .ok()
        .and_then(|value| value.as_object().cloned())
        .unwrap_or_default();
    let mut patch: Map<String, Value> = value
        .into_iter()
        .filter(|(field, _)| field == "conditions" || wanted(field))
        .collect();
    // Addresses merge by type, of which there may be two: the list is replaced as a whole.
    if let Some(Value::Array(addresses)) = patch.get_mut("addresses") {
        addresses.push(json!({"$patch": "replace"}));
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_and_what_is_sent_of_them() {
        let down = RuntimeState {
            network_error: Some("NetworkReady=false reason:X message:Y".into()),
            ..RuntimeState::default()
        };
        let not_ready = conditions(&down, &PressureState::default());
        assert_eq!(
            not_ready[3].message.as_deref(),
            Some("container runtime network not ready: NetworkReady=false reason:X message:Y")
        );
        let mut first = NodeStatus {
            conditions: Some(not_ready.clone()),
            ..NodeStatus::default()
        };
        let (t1, t2) = (
            Timestamp::from_second(1).unwrap(),
            Timestamp::from_second(2).unwrap(),
        );
        stamp(&mut first, &[], t1);
        let mut same = NodeStatus {
            conditions: Some(not_ready),
            ..NodeStatus::default()
        };
        stamp(&mut same, first.conditions.as_deref().unwrap(), t2);
        assert_eq!(difference(Some(&first), &same), None, "only a heartbeat");
        assert_eq!(
            same.conditions.as_ref().unwrap()[3].last_transition_time,
            Some(Time(t1))
        );
        let mut ready = NodeStatus {
            conditions: Some(conditions(&RuntimeState::default(), &PressureState::default())),
            ..NodeStatus::default()
        };
        stamp(&mut ready, first.conditions.as_deref().unwrap(), t2);
        let patch = difference(Some(&first), &ready).unwrap();
        assert_eq!(patch["conditions"][3]["reason"], "KubeletReady");
        assert_eq!(
            ready.conditions.as_ref().unwrap()[3].last_transition_time,
            Some(Time(t2))
        );
        assert_eq!(
            ready.conditions.as_ref().unwrap()[0].last_transition_time,
            Some(Time(t1))
        );
    }
}
