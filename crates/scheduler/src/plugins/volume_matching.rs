//! Which volume a claim may be bound to on a node.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::cache::{NodeInfo, NodeSelector, label_selector, quantity};

/// Whether the volume can be used on the node; a malformed selector can be used nowhere.
pub(super) fn fits_node(volume: &PersistentVolume, node: &NodeInfo) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) else {
        return true;
    };
    NodeSelector::parse(required).is_ok_and(|selector| selector.matches(node.name(), node.labels()))
}

/// Whether the class provisions volumes for the node.
pub(super) fn allows_node(class: &StorageClass, node: &NodeInfo) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    terms.is_empty()
        || terms.iter().any(|term| {
            let expressions = term.match_label_expressions.as_deref().unwrap_or_default();
            !expressions.is_empty()
                && expressions.iter().all(|e| {
                    node.label(&e.key)
                        .is_some_and(|v| e.values.iter().any(|w| w == v))
                })
        })
}

/// The smallest free volume that satisfies the claim and can be used on the node; one that is meant for the claim goes first.
pub(super) fn find_volume(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    node: &NodeInfo,
    free: impl Fn(&PersistentVolume) -> bool,
) -> Option<Arc<PersistentVolume>> {
    let spec = claim.spec.as_ref()?;
    let wanted = spec
        .resources
        .as_ref()
        .and_then(|r| r.requests.as_ref()?.get("storage"))
        .map(quantity);
    let wanted = wanted.unwrap_or_default();
    let selector = spec
        .selector
        .as_ref()
        .map(|selector| label_selector(Some(selector), Vec::new()));
    let mode = spec.volume_mode.as_deref().unwrap_or("Filesystem");
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let mut best: Option<(bool, i128, &Arc<PersistentVolume>)> = None;
    for volume in volumes {
        let Some(of) = volume.spec.as_ref() else { continue };
        let meant = of.claim_ref.as_ref().map(|reference| {
            reference.name == claim.metadata.name
                && reference.namespace == claim.metadata.namespace
                && (reference.uid.is_none() || reference.uid == claim.metadata.uid)
        });
        let size = of
            .capacity
            .as_ref()
            .and_then(|c| c.get("storage"))
            .map(quantity)
            .unwrap_or_default();
        let labels = volume.metadata.labels.as_ref();
        let selected = match &selector {
            None => true,
            Some(Ok(selector)) => selector.matches_by(|key| labels?.get(key).map(String::as_str)),
            Some(Err(_)) => false,
        };
        let phase = volume
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            .unwrap_or_default();
        let usable = meant != Some(false)
            && volume.metadata.deletion_timestamp.is_none()
            && (meant == Some(true) || phase == "Available")
            && of.storage_class_name.as_deref().unwrap_or_default()
                == spec.storage_class_name.as_deref().unwrap_or_default()
            && of.volume_mode.as_deref().unwrap_or("Filesystem") == mode
            && modes
                .iter()
                .all(|mode| of.access_modes.as_ref().is_some_and(|all| all.contains(mode)))
            && size >= wanted
            && (meant == Some(true) || selected)
            && fits_node(volume, node)
            && free(volume);
        if usable {
            let rank = (meant != Some(true), size.nanos());
            if best
                .as_ref()
                .is_none_or(|(other, bytes, _)| rank < (*other, *bytes))
            {
                best = Some((rank.0, rank.1, volume));
            }
        }
    }
    best.map(|(.., volume)| volume.clone())
}
