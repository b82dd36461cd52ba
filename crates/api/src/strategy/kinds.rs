//! One row per kind: whether its status is the server's, and when its generation rises.

use serde_json::Value;

use crate::access::Fields;
use crate::gvk::GroupVersionKind;

/// When `metadata.generation` rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Generation {
    /// The kind has none.
    None,
    /// It is 1 and stays.
    Once,
    /// When the spec changes.
    Spec,
    /// When the spec or the annotations change.
    SpecOrAnnotations,
    /// When this field changes.
    Field(&'static str),
    /// When anything but metadata and status changes.
    Body,
}

/// What holds of a kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// Clients cannot set the status when they create or replace.
    pub(super) resets_status: bool,
    /// When the generation rises.
    pub(super) generation: Generation,
    /// What a status update leaves of metadata as it was.
    pub(super) status_keeps: &'static [&'static str],
}

const ALL_METADATA: &[&str] = &[
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "deletionTimestamp",
    "generation",
];

const fn rule(resets_status: bool, generation: Generation, status_keeps: &'static [&'static str]) -> Rule {
    Rule {
        resets_status,
        generation,
        status_keeps,
    }
}

/// The row of a kind; kinds without one are stored as they come.
pub(super) fn rule_of(gvk: &GroupVersionKind) -> Rule {
    use Generation::{Body, Field, None, Once, Spec, SpecOrAnnotations};
    match (&*gvk.group, &*gvk.kind) {
        ("", "Pod") => rule(true, Spec, &["ownerReferences"]),
        ("", "Namespace" | "PersistentVolume" | "PersistentVolumeClaim" | "ResourceQuota" | "Service") => {
            rule(true, None, &[])
        }
        ("", "ReplicationController") => rule(true, Spec, &[]),
        ("", "PodTemplate") => rule(false, Field("template"), &[]),
        ("apps", "Deployment") => rule(true, SpecOrAnnotations, &["labels"]),
        ("apps", "ReplicaSet" | "DaemonSet" | "StatefulSet") => rule(true, Spec, &[]),
        ("batch", "Job" | "CronJob") => rule(true, Spec, &[]),
        ("autoscaling", "HorizontalPodAutoscaler") => rule(true, None, &[]),
        ("policy", "PodDisruptionBudget") => rule(true, Spec, &[]),
        ("networking.k8s.io", "Ingress") => rule(true, Spec, &[]),
        ("networking.k8s.io", "NetworkPolicy" | "IngressClass") => rule(false, Spec, &[]),
        ("networking.k8s.io", "ServiceCIDR") => rule(true, None, &[]),
        ("discovery.k8s.io", "EndpointSlice") => rule(false, Body, &[]),
        ("certificates.k8s.io", "CertificateSigningRequest") => rule(true, None, &[]),
        ("scheduling.k8s.io", "PriorityClass") => rule(false, Once, &[]),
        ("storage.k8s.io", "VolumeAttachment") => rule(true, None, ALL_METADATA),
        ("storage.k8s.io", "CSIDriver") => rule(false, None, &[]),
        ("flowcontrol.apiserver.k8s.io", _) => rule(true, Spec, ALL_METADATA),
        ("resource.k8s.io", "ResourceClaim") => rule(true, None, ALL_METADATA),
        ("resource.k8s.io", "ResourceSlice" | "DeviceClass") => rule(false, Spec, &[]),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => rule(true, Spec, ALL_METADATA),
        ("apiregistration.k8s.io", "APIService") => rule(
            true,
            None,
            &["labels", "annotations", "ownerReferences", "finalizers"],
        ),
        (
            "admissionregistration.k8s.io",
            "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration",
        ) => rule(false, Field("webhooks"), &[]),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => rule(true, Spec, ALL_METADATA),
        ("admissionregistration.k8s.io", _) => rule(false, Spec, &[]),
        _ => rule(false, None, &[]),
    }
}

/// Whether a change from `old` to `new` raises the generation.
pub(super) fn raises_generation(generation: Generation, new: &Value, old: &Value) -> bool {
    match generation {
        Generation::None | Generation::Once => false,
        Generation::Spec => new["spec"] != old["spec"],
        Generation::SpecOrAnnotations => {
            new["spec"] != old["spec"] || new["metadata"]["annotations"] != old["metadata"]["annotations"]
        }
        Generation::Field(field) => new[field] != old[field],
        Generation::Body => body_differs(new, old, &["metadata", "status"]),
    }
}

/// Whether two objects differ in a field other than the given ones, `apiVersion` and `kind`.
pub(super) fn body_differs(new: &Value, old: &Value, except: &[&str]) -> bool {
    let ignored = |name: &str| except.contains(&name) || matches!(name, "apiVersion" | "kind");
    let (Value::Object(new), Value::Object(old)) = (new, old) else {
        return new != old;
    };
    let covers = |a: &Fields, b: &Fields| a.iter().all(|(name, v)| ignored(name) || b.get(name) == Some(v));
    !covers(new, old) || !covers(old, new)
}
