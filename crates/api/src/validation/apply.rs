//! The table of kinds.

use serde_json::Value;

use super::{
    autoscaling, batch, core, enums, metadata, networking, pod, pod_update, rbac, registration, service,
    storage, workloads,
};
use crate::field::{ErrorList, Path};
use crate::gvk::GroupVersionKind;
use crate::{resources, schema};

type Create = fn(&mut ErrorList, &Path, &Value);
type Update = fn(&mut ErrorList, &Path, &Value, &Value);

/// Judges a new object of a built-in kind: metadata, enumerations, and what the kind itself says.
pub fn validate_create(gvk: &GroupVersionKind, object: &Value) -> ErrorList {
    let namespaced =
        resources::by_gvk(&gvk.group, &gvk.version, &gvk.kind).is_some_and(|info| info.namespaced);
    let mut errors = metadata::validate_metadata(gvk, namespaced, object);
    body(&mut errors, gvk, object);
    if let Some(create) = only_on_create(gvk) {
        create(&mut errors, &Path::root(), object);
    }
    errors
}

/// Judges a changed object of a built-in kind, or a change through `subresource`.
pub fn validate_update(gvk: &GroupVersionKind, subresource: &str, new: &Value, old: &Value) -> ErrorList {
    if subresource == "status" {
        return validate_status_update(gvk, new, old);
    }
    let mut errors = metadata::validate_metadata_update(gvk, new, old);
    if gvk.group.is_empty() && gvk.kind == "Pod" {
        pod_update::update(&mut errors, subresource, new, old);
        return errors;
    }
    // An object that is being deleted may lose its finalizers whatever else is wrong with it.
    if !(is_deleting(old) && new["spec"] == old["spec"]) {
        body(&mut errors, gvk, new);
    }
    if let Some(update) = update_of(gvk) {
        update(&mut errors, &Path::new("spec"), new, old);
    }
    errors
}

/// Judges a changed status.
pub fn validate_status_update(gvk: &GroupVersionKind, new: &Value, old: &Value) -> ErrorList {
    metadata::validate_metadata_update(gvk, new, old)
}

fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

fn body(errors: &mut ErrorList, gvk: &GroupVersionKind, object: &Value) {
    let before = errors.len();
    if let Some(check) = body_of(gvk) {
        check(errors, &Path::new("spec"), object);
    }
    if let Some(schema) = schema::registry().by_gvk(&gvk.group, &gvk.version, &gvk.kind) {
        let mut unsupported = ErrorList::new();
        enums::check(&mut unsupported, schema, object);
        // What the kind's own code has judged already is not judged twice.
        unsupported.retain(|error| !errors[before..].iter().any(|known| known.path == error.path));
        errors.append(&mut unsupported);
    }
}

/// What a kind says of new and of changed objects; the path is that of the spec.
fn body_of(gvk: &GroupVersionKind) -> Option<Create> {
    Some(match (&*gvk.group, &*gvk.kind) {
        ("", "Pod") => pod::pod,
        ("", "PodTemplate") => workloads::pod_template,
        ("", "ReplicationController") => workloads::replication_controller,
        ("", "Service") => service::service,
        ("", "Secret") => core::secret,
        ("", "ConfigMap") => core::config_map,
        ("", "Node") => core::node,
        ("", "Endpoints") => core::endpoints,
        ("", "LimitRange") => core::limit_range,
        ("", "ResourceQuota") => core::resource_quota,
        ("", "PersistentVolume") => storage::persistent_volume,
        ("", "PersistentVolumeClaim") => storage::persistent_volume_claim,
        ("apps", "Deployment") => workloads::deployment,
        ("apps", "ReplicaSet") => workloads::replica_set,
        ("apps", "DaemonSet") => workloads::daemon_set,
        ("apps", "StatefulSet") => workloads::stateful_set,
        ("batch", "Job") => batch::job,
        ("batch", "CronJob") => batch::cron_job,
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaling::autoscaler,
        ("policy", "PodDisruptionBudget") => autoscaling::disruption_budget,
        ("networking.k8s.io", "Ingress") => networking::ingress,
        ("networking.k8s.io", "IngressClass") => networking::ingress_class,
        ("networking.k8s.io", "NetworkPolicy") => networking::network_policy,
        ("networking.k8s.io", "IPAddress") => networking::ip_address,
        ("networking.k8s.io", "ServiceCIDR") => networking::service_cidr,
        ("discovery.k8s.io", "EndpointSlice") => networking::endpoint_slice,
        ("coordination.k8s.io", "Lease") => core::lease,
        ("scheduling.k8s.io", "PriorityClass") => core::priority_class,
        ("node.k8s.io", "RuntimeClass") => core::runtime_class,
        ("storage.k8s.io", "StorageClass") => storage::storage_class,
        ("certificates.k8s.io", "CertificateSigningRequest") => registration::certificate_request,
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => rbac::role,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => rbac::binding,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => registration::custom_resource_definition,
        ("apiregistration.k8s.io", "APIService") => registration::api_service,
        (
            "admissionregistration.k8s.io",
            "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration",
        ) => registration::webhooks,
        _ => return None,
    })
}

/// What a kind says of new objects alone.
fn only_on_create(gvk: &GroupVersionKind) -> Option<Create> {
    Some(match (&*gvk.group, &*gvk.kind) {
        ("", "Event") => core::event,
        ("batch", "CronJob") => batch::cron_job_name,
        _ => return None,
    })
}

/// What a kind says of changes; the path is that of the spec.
fn update_of(gvk: &GroupVersionKind) -> Option<Update> {
    Some(match (&*gvk.group, &*gvk.kind) {
        ("", "Secret") => core::secret_update,
        ("", "ConfigMap") => core::config_map_update,
        ("", "Node") => core::node_update,
        ("", "ResourceQuota") => core::resource_quota_update,
        ("", "Service") => service::update,
        ("", "PersistentVolume") => storage::persistent_volume_update,
        ("", "PersistentVolumeClaim") => storage::persistent_volume_claim_update,
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet") => workloads::selector_update,
        ("apps", "StatefulSet") => workloads::stateful_set_update,
        ("apps", "ControllerRevision") => workloads::controller_revision_update,
        ("batch", "Job") => batch::job_update,
        ("storage.k8s.io", "StorageClass") => storage::storage_class_update,
        ("scheduling.k8s.io", "PriorityClass") => core::priority_class_update,
        ("node.k8s.io", "RuntimeClass") => core::runtime_class_update,
        ("networking.k8s.io", "IngressClass") => networking::ingress_class_update,
        ("discovery.k8s.io", "EndpointSlice") => networking::endpoint_slice_update,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => rbac::binding_update,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            registration::custom_resource_definition_update
        }
        _ => return None,
    })
}
