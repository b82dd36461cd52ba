//! Storage, scheduling, authorization, flow control and dynamic resources.

use serde_json::{Value, json};

use crate::access::{
    Fields, child, default_nonzero, default_text, default_to, each, ensure, is_unset, str_of,
};

const RBAC: &str = "rbac.authorization.k8s.io";

/// `StorageClass`.
pub(super) fn storage_class(fields: &mut Fields) {
    default_to(fields, "reclaimPolicy", "Delete");
    default_to(fields, "volumeBindingMode", "Immediate");
}

/// `CSIDriver`.
pub(super) fn csi_driver(fields: &mut Fields) {
    let spec = ensure(fields, "spec");
    default_to(spec, "attachRequired", true);
    for field in [
        "podInfoOnMount",
        "storageCapacity",
        "requiresRepublish",
        "seLinuxMount",
    ] {
        default_to(spec, field, false);
    }
    default_to(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if is_unset(spec, "volumeLifecycleModes") {
        spec.insert("volumeLifecycleModes".to_owned(), json!(["Persistent"]));
    }
}

/// `PriorityClass`.
pub(super) fn priority_class(fields: &mut Fields) {
    default_to(fields, "preemptionPolicy", "PreemptLowerPriority");
}

/// `RoleBinding` and `ClusterRoleBinding`: the groups of roles, users and groups.
pub(super) fn role_binding(fields: &mut Fields) {
    default_text(ensure(fields, "roleRef"), "apiGroup", RBAC);
    each(fields, "subjects", |subject| {
        if matches!(str_of(subject, "kind"), "User" | "Group") {
            default_text(subject, "apiGroup", RBAC);
        }
    });
}

/// `FlowSchema`.
pub(super) fn flow_schema(fields: &mut Fields) {
    default_nonzero(ensure(fields, "spec"), "matchingPrecedence", 1000);
}

/// `PriorityLevelConfiguration`.
pub(super) fn priority_level(fields: &mut Fields) {
    let Some(spec) = child(fields, "spec") else { return };
    if let Some(exempt) = child(spec, "exempt") {
        default_to(exempt, "nominalConcurrencyShares", 0);
        default_to(exempt, "lendablePercent", 0);
    }
    if let Some(limited) = child(spec, "limited") {
        default_to(limited, "nominalConcurrencyShares", 30);
        default_to(limited, "lendablePercent", 0);
        if let Some(queuing) = child(limited, "limitResponse").and_then(|response| child(response, "queuing"))
        {
            default_nonzero(queuing, "handSize", 8);
            default_nonzero(queuing, "queues", 64);
            default_nonzero(queuing, "queueLengthLimit", 50);
        }
    }
}

fn device_request(request: &mut Fields) {
    default_text(request, "allocationMode", "ExactCount");
    if str_of(request, "allocationMode") == "ExactCount" {
        default_nonzero(request, "count", 1);
    }
    each(request, "tolerations", |toleration| {
        default_text(toleration, "operator", "Equal")
    });
}

fn claim_spec(spec: &mut Fields) {
    let Some(devices) = child(spec, "devices") else {
        return;
    };
    each(devices, "requests", |request| {
        if let Some(exactly) = child(request, "exactly") {
            device_request(exactly);
        }
        each(request, "firstAvailable", device_request);
    });
}

/// `ResourceClaim`.
pub(super) fn resource_claim(fields: &mut Fields) {
    if let Some(spec) = child(fields, "spec") {
        claim_spec(spec);
    }
}

/// `ResourceClaimTemplate`.
pub(super) fn resource_claim_template(fields: &mut Fields) {
    if let Some(spec) = child(fields, "spec").and_then(|spec| child(spec, "spec")) {
        claim_spec(spec);
    }
}

/// `ResourceSlice`: what a mapping multiplies by.
pub(super) fn resource_slice(fields: &mut Fields) {
    let Some(spec) = child(fields, "spec") else { return };
    each(spec, "devices", |device| {
        if let Some(mappings) = child(device, "nodeAllocatableResourceMappings") {
            for mapping in mappings.values_mut().filter_map(Value::as_object_mut) {
                default_to(mapping, "allocationMultiplier", "1");
            }
        }
    });
}
