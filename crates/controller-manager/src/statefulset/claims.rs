//! The PersistentVolumeClaims of a pod, and who owns them by the retention policy.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

use super::spec::Wanted;
use crate::shared::owner::{controller_reference, name, uid};

/// `<template>-<set>-<ordinal>`.
pub(super) fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", name(template), name(set))
}

/// The claims of that ordinal as they are to be created.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let Some(spec) = set.spec.as_ref() else {
        return Vec::new();
    };
    let templates = spec.volume_claim_templates.as_deref().unwrap_or_default();
    let claim = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace.clone_from(&set.metadata.namespace);
        claim.status = None;
        let labels = claim.metadata.labels.get_or_insert_default();
        labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
        claim
    };
    templates.iter().map(claim).collect()
}

/// The owners that the claim of a pod should have; `None` where they are right already.
///
/// `scaled_away` says that the pod is beyond the set's size: then the claim goes with the pod if the policy says so.
pub(super) fn owners(
    set: &StatefulSet,
    wanted: &Wanted,
    pod: Option<&Pod>,
    scaled_away: bool,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let by_pod = wanted.delete_claims_with_pod && scaled_away;
    let by_set = wanted.delete_claims_with_set && !by_pod;
    let before = claim.metadata.owner_references.clone().unwrap_or_default();
    let mut after: Vec<_> = before
        .iter()
        .filter(|owner| {
            let is_set = owner.uid == uid(set);
            let is_pod = pod.is_some_and(|pod| owner.uid == uid(pod));
            (!is_set || by_set) && (!is_pod || by_pod)
        })
        .cloned()
        .collect();
    let mut add = |reference: OwnerReference| {
        if !after.iter().any(|owner| owner.uid == reference.uid) {
            after.push(reference);
        }
    };
    if by_set {
        add(controller_reference(set));
    }
    if let Some(pod) = pod.filter(|_| by_pod) {
        add(controller_reference(pod));
    }
    (after != before).then_some(after)
}

/// Whether the claim belongs to an earlier pod of the same name: it will go away, and the new pod must wait for that.
pub(super) fn is_stale(claim: &PersistentVolumeClaim, pod_name: &str, pod_uid: Option<&str>) -> bool {
    let kind = Pod::kind(&());
    let owners = claim.metadata.owner_references.iter().flatten();
    owners
        .into_iter()
        .any(|owner| owner.kind == kind && owner.name == pod_name && Some(owner.uid.as_str()) != pod_uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn retention() {
        let check = |deleted: &str, scaled: &str, scaled_away, before: &[&str], expected: Option<&[&str]>| {
            let set: StatefulSet = serde_json::from_value(json!({
                "metadata": {"name": "db", "uid": "set"},
                "spec": {"selector": {}, "template": {}, "persistentVolumeClaimRetentionPolicy":
                    {"whenDeleted": deleted, "whenScaled": scaled}}
            }))
            .unwrap();
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {"name": "db-0", "uid": "pod"}})).unwrap();
            let owners_before: Vec<_> = before
                .iter()
                .map(|uid| json!({"apiVersion": "", "kind": "", "name": "", "uid": uid}))
                .collect();
            let claim =
                serde_json::from_value(json!({"metadata": {"name": "c", "ownerReferences": owners_before}}));
            let after = owners(&set, &Wanted::of(&set), Some(&pod), scaled_away, &claim.unwrap());
            let after = after.map(|after| after.into_iter().map(|owner| owner.uid).collect::<Vec<_>>());
            let expected = expected.map(|uids| uids.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(after, expected, "{deleted} {scaled} {scaled_away} {before:?}");
        };
        check("Retain", "Retain", false, &[], None);
        check("Retain", "Retain", true, &["set", "pod", "x"], Some(&["x"]));
        check("Delete", "Retain", false, &[], Some(&["set"]));
        check("Delete", "Retain", true, &["set"], None);
        check("Retain", "Delete", false, &["pod"], Some(&[]));
        check("Retain", "Delete", true, &[], Some(&["pod"]));
        check("Delete", "Delete", false, &[], Some(&["set"]));
        check("Delete", "Delete", true, &["set"], Some(&["pod"]));
    }
}
