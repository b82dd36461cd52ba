//! The table of kinds.

use serde_json::Value;

use super::{core, networking, others, pod, registration, workloads};
use crate::access::Fields;
use crate::gvk::GroupVersionKind;
use crate::schema;

/// Fills in everything that is missing in an object of a built-in kind: the schema's defaults, then the kind's own.
pub fn apply(gvk: &GroupVersionKind, value: &mut Value) {
    if let Some(schema) = schema::registry().by_gvk(&gvk.group, &gvk.version, &gvk.kind) {
        schema::apply_defaults(schema, value);
    }
    apply_kind(gvk, value);
}

/// Fills in what the kind itself says of missing fields; nothing for kinds without defaults and for custom ones.
pub fn apply_kind(gvk: &GroupVersionKind, value: &mut Value) {
    if let Some(fields) = value.as_object_mut()
        && let Some(defaults) = defaults_of(gvk)
    {
        defaults(fields);
    }
}

fn defaults_of(gvk: &GroupVersionKind) -> Option<fn(&mut Fields)> {
    Some(match (&*gvk.group, &*gvk.kind) {
        ("", "Pod") => pod::pod,
        ("", "PodTemplate") => pod::pod_template,
        ("", "ReplicationController") => workloads::replication_controller,
        ("", "Service") => core::service,
        ("", "Endpoints") => core::endpoints,
        ("", "Secret") => core::secret,
        ("", "Namespace") => core::namespace,
        ("", "Node") => core::node,
        ("", "PersistentVolume") => core::persistent_volume,
        ("", "PersistentVolumeClaim") => core::persistent_volume_claim,
        ("", "LimitRange") => core::limit_range,
        ("", "ResourceQuota") => core::resource_quota,
        ("apps", "Deployment") => workloads::deployment,
        ("apps", "ReplicaSet") => workloads::replica_set,
        ("apps", "DaemonSet") => workloads::daemon_set,
        ("apps", "StatefulSet") => workloads::stateful_set,
        ("batch", "Job") => workloads::job,
        ("batch", "CronJob") => workloads::cron_job,
        ("autoscaling", "HorizontalPodAutoscaler") if gvk.version == "v1" => workloads::autoscaler_v1,
        ("autoscaling", "HorizontalPodAutoscaler") => workloads::autoscaler_v2,
        ("networking.k8s.io", "NetworkPolicy") => networking::network_policy,
        ("networking.k8s.io", "IngressClass") => networking::ingress_class,
        ("discovery.k8s.io", "EndpointSlice") => networking::endpoint_slice,
        ("storage.k8s.io", "StorageClass") => others::storage_class,
        ("storage.k8s.io", "CSIDriver") => others::csi_driver,
        ("scheduling.k8s.io", "PriorityClass") => others::priority_class,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => others::role_binding,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => others::flow_schema,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => others::priority_level,
        ("resource.k8s.io", "ResourceClaim") => others::resource_claim,
        ("resource.k8s.io", "ResourceClaimTemplate") => others::resource_claim_template,
        ("resource.k8s.io", "ResourceSlice") => others::resource_slice,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => registration::custom_resource_definition,
        ("apiregistration.k8s.io", "APIService") => registration::api_service,
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") => {
            registration::validating_webhooks
        }
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration") => registration::mutating_webhooks,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => registration::validating_policy,
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => registration::mutating_policy,
        (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding",
        ) => registration::policy_binding,
        _ => return None,
    })
}
