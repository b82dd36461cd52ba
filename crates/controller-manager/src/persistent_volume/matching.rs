//! Which volume a claim gets; pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use keelson_api::quantity::Quantity;

use crate::shared::owner::{is_deleting, name, namespace, uid};
use crate::shared::selector::{matches, parse};

const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

fn annotated(annotations: Option<&std::collections::BTreeMap<String, String>>) -> Option<String> {
    annotations
        .and_then(|annotations| annotations.get(CLASS))
        .cloned()
}

/// The class that the claim asks for, empty for none.
pub(super) fn class_of_claim(claim: &PersistentVolumeClaim) -> String {
    let spec = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.storage_class_name.clone());
    annotated(claim.metadata.annotations.as_ref())
        .or(spec)
        .unwrap_or_default()
}

fn class_of_volume(volume: &PersistentVolume) -> String {
    let spec = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.storage_class_name.clone());
    annotated(volume.metadata.annotations.as_ref())
        .or(spec)
        .unwrap_or_default()
}

fn size(text: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>) -> i128 {
    text.and_then(|text| Quantity::parse(&text.0).ok())
        .map_or(0, |quantity| quantity.nanos())
}

fn capacity(volume: &PersistentVolume) -> i128 {
    size(
        volume
            .spec
            .as_ref()
            .and_then(|spec| spec.capacity.as_ref()?.get("storage")),
    )
}

fn requested(claim: &PersistentVolumeClaim) -> i128 {
    size(
        claim
            .spec
            .as_ref()
            .and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage")),
    )
}

/// Whether the reference is to this claim; one without a UID was made by a user, for a claim to come.
pub(super) fn refers_to(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    let same_uid = reference
        .uid
        .as_deref()
        .is_none_or(|wanted| wanted.is_empty() || wanted == uid(claim));
    reference.name.as_deref() == Some(name(claim))
        && reference.namespace.as_deref() == Some(namespace(claim))
        && same_uid
}

/// The claim of a volume.
pub(super) fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether the volume is what the claim asks for, apart from who else has it.
pub(super) fn suits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(offer), Some(wish)) = (&volume.spec, &claim.spec) else {
        return false;
    };
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".into());
    let offered = offer.access_modes.clone().unwrap_or_default();
    class_of_volume(volume) == class_of_claim(claim)
        && mode(&offer.volume_mode) == mode(&wish.volume_mode)
        && offer.volume_attributes_class_name.as_deref().unwrap_or("")
            == wish.volume_attributes_class_name.as_deref().unwrap_or("")
        && wish
            .access_modes
            .iter()
            .flatten()
            .all(|wanted| offered.contains(wanted))
        && capacity(volume) >= requested(claim)
}

/// The volume for a claim that names none: one that was made for it, else the smallest free one that suits.
pub(super) fn best(
    volumes: &[Arc<PersistentVolume>],
    claim: &PersistentVolumeClaim,
) -> Option<Arc<PersistentVolume>> {
    let selector = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.as_ref())
        .map(parse)
        .transpose()
        .ok()?;
    let suiting = || {
        volumes
            .iter()
            .filter(|volume| !is_deleting(volume.as_ref()) && suits(volume, claim))
    };
    let made_for_it =
        suiting().find(|volume| claim_ref(volume).is_some_and(|reference| refers_to(reference, claim)));
    if let Some(volume) = made_for_it {
        return Some(volume.clone());
    }
    let selected = |volume: &&Arc<PersistentVolume>| {
        selector
            .as_ref()
            .is_none_or(|selector| matches(selector, volume.metadata.labels.as_ref()))
    };
    let is_available = |volume: &&Arc<PersistentVolume>| {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        claim_ref(volume).is_none() && phase == Some("Available")
    };
    suiting()
        .filter(is_available)
        .filter(selected)
        .min_by_key(|volume| (capacity(volume), volume.metadata.name.clone()))
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(name: &str, size: &str, extra: Value) -> Arc<PersistentVolume> {
        let mut volume = json!({
            "metadata": {"name": name},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "s"},
            "status": {"phase": "Available"}
        });
        json_patch::merge(&mut volume, &extra);
        Arc::new(serde_json::from_value(volume).unwrap())
    }

    #[test]
    fn choices() {
        let all = [
            volume("big", "10Gi", json!({})),
            volume("mid", "5Gi", json!({"metadata": {"labels": {"a": "b"}}})),
            volume("low", "1Gi", json!({})),
            volume("else", "2Gi", json!({"spec": {"storageClassName": ""}})),
            volume("block", "2Gi", json!({"spec": {"volumeMode": "Block"}})),
            volume(
                "used",
                "2Gi",
                json!({"status": {"phase": "Bound"}, "spec": {"claimRef": {"name": "x", "namespace": "ns"}}}),
            ),
            volume(
                "made",
                "9Gi",
                json!({"spec": {"claimRef": {"name": "mine", "namespace": "ns"}}}),
            ),
            volume(
                "going",
                "3Gi",
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            ),
        ];
        let check = |claim_name: &str, extra: Value, expected: Option<&str>| {
            let mut spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "s", "resources": {"requests": {"storage": "2Gi"}}});
            json_patch::merge(&mut spec, &extra);
            let claim =
                json!({"metadata": {"name": claim_name, "namespace": "ns", "uid": "u"}, "spec": spec});
            let claim = serde_json::from_value(claim).unwrap();
            let found = best(&all, &claim);
            assert_eq!(
                found.as_ref().map(|volume| name(volume.as_ref())),
                expected,
                "{spec}"
            );
        };
        check("c", json!({}), Some("mid"));
        check("c", json!({"selector": {"matchLabels": {"a": "c"}}}), None);
        check(
            "c",
            json!({"resources": {"requests": {"storage": "6Gi"}}}),
            Some("big"),
        );
        check("c", json!({"accessModes": ["ReadWriteMany"]}), None);
        check("c", json!({"storageClassName": ""}), Some("else"));
        check("c", json!({"volumeMode": "Block"}), Some("block"));
        check("mine", json!({}), Some("made"));
    }
}
