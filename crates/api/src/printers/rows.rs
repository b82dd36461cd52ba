//! Which function fills a kind's cells.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{autoscaler, core, networking, others, pod, storage, workloads};
use crate::gvk::GroupVersionKind;

/// The cells of an object, as many as its kind has columns; name and creation time for kinds without columns.
pub fn row(gvk: &GroupVersionKind, object: &Value, now: Timestamp) -> Vec<Value> {
    match cells_of(gvk) {
        Some(cells) => cells(object, now),
        None => vec![
            object["metadata"]["name"].clone(),
            object["metadata"]["creationTimestamp"].clone(),
        ],
    }
}

/// The conditions of a row: a pod that has ended is completed.
pub fn row_conditions(gvk: &GroupVersionKind, object: &Value) -> Option<Value> {
    if !gvk.group.is_empty() || gvk.kind != "Pod" {
        return None;
    }
    let (reason, message) = match object["status"]["phase"].as_str()? {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}

type Cells = fn(&Value, Timestamp) -> Vec<Value>;

fn cells_of(gvk: &GroupVersionKind) -> Option<Cells> {
    Some(match (&*gvk.group, &*gvk.kind) {
        ("", "Pod") => pod::pod,
        ("", "Node") => core::node,
        ("", "Namespace") => core::namespace,
        ("", "Service") => core::service,
        ("", "Endpoints") => core::endpoints,
        ("" | "events.k8s.io", "Event") => core::event,
        ("", "Secret") => core::secret,
        ("", "ConfigMap") => core::config_map,
        ("", "ServiceAccount") => core::service_account,
        ("", "ResourceQuota") => core::resource_quota,
        ("", "ComponentStatus") => core::component_status,
        ("", "PodTemplate") => workloads::pod_template,
        ("", "ReplicationController") => workloads::replication_controller,
        ("apps", "Deployment") => workloads::deployment,
        ("apps", "ReplicaSet") => workloads::replica_set,
        ("apps", "StatefulSet") => workloads::stateful_set,
        ("apps", "DaemonSet") => workloads::daemon_set,
        ("apps", "ControllerRevision") => workloads::controller_revision,
        ("batch", "Job") => workloads::job,
        ("batch", "CronJob") => workloads::cron_job,
        ("autoscaling", "HorizontalPodAutoscaler") if gvk.version == "v1" => autoscaler::v1,
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaler::v2,
        ("policy", "PodDisruptionBudget") => workloads::disruption_budget,
        ("networking.k8s.io", "Ingress") => networking::ingress,
        ("networking.k8s.io", "IngressClass") => networking::ingress_class,
        ("networking.k8s.io", "NetworkPolicy") => networking::network_policy,
        ("networking.k8s.io", "IPAddress") => networking::ip_address,
        ("networking.k8s.io", "ServiceCIDR") => networking::service_cidr,
        ("discovery.k8s.io", "EndpointSlice") => networking::endpoint_slice,
        ("", "PersistentVolume") => storage::persistent_volume,
        ("", "PersistentVolumeClaim") => storage::persistent_volume_claim,
        ("storage.k8s.io", "StorageClass") => storage::storage_class,
        ("storage.k8s.io", "CSIDriver") => storage::csi_driver,
        ("storage.k8s.io", "CSINode") => storage::csi_node,
        ("storage.k8s.io", "VolumeAttachment") => storage::volume_attachment,
        ("storage.k8s.io", "VolumeAttributesClass") => storage::volume_attributes_class,
        ("certificates.k8s.io", "CertificateSigningRequest") => others::certificate_request,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => others::role_binding,
        ("coordination.k8s.io", "Lease") => others::lease,
        ("node.k8s.io", "RuntimeClass") => others::runtime_class,
        ("scheduling.k8s.io", "PriorityClass") => others::priority_class,
        ("apiregistration.k8s.io", "APIService") => others::api_service,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => others::flow_schema,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => others::priority_level,
        ("resource.k8s.io", "ResourceClaim") => others::resource_claim,
        ("resource.k8s.io", "ResourceSlice") => others::resource_slice,
        ("resource.k8s.io", "DeviceClass" | "ResourceClaimTemplate") => others::name_and_age,
        (
            "admissionregistration.k8s.io",
            "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration",
        ) => others::webhooks,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => others::validating_policy,
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => others::mutating_policy,
        ("admissionregistration.k8s.io", _) => others::policy_binding,
        _ => return None,
    })
}
