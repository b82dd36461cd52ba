//! Volumes of pods and sources of persistent volumes.

use serde_json::{Map, Value};

use super::core;
use super::pod::{field_ref, pull_policy};
use crate::access::{Fields, child, default_text, default_to, each, is_unset, str_of};

const MODE: i64 = 0o644;
const TOKEN_SECONDS: i64 = 3600;

/// `Volume`: an empty directory when no source is given.
pub(super) fn volume(volume: &mut Fields) {
    if volume
        .iter()
        .all(|(name, value)| name == "name" || value.is_null())
    {
        volume.insert("emptyDir".to_owned(), Value::Object(Map::new()));
        return;
    }
    for name in ["secret", "configMap"] {
        if let Some(source) = child(volume, name) {
            default_to(source, "defaultMode", MODE);
        }
    }
    if let Some(source) = child(volume, "downwardAPI") {
        default_to(source, "defaultMode", MODE);
        downward_items(source);
    }
    if let Some(source) = child(volume, "projected") {
        projected(source);
    }
    if let Some(source) = child(volume, "image")
        && is_unset(source, "pullPolicy")
    {
        let policy = pull_policy(str_of(source, "reference"));
        source.insert("pullPolicy".to_owned(), Value::from(policy));
    }
    if let Some(spec) = child(volume, "ephemeral")
        .and_then(|e| child(e, "volumeClaimTemplate"))
        .and_then(|t| child(t, "spec"))
    {
        core::claim_spec(spec);
    }
    source(volume);
}

/// Sources that pods and persistent volumes share.
pub(super) fn source(volume: &mut Fields) {
    if let Some(path) = child(volume, "hostPath") {
        default_to(path, "type", "");
    }
    if let Some(iscsi) = child(volume, "iscsi") {
        default_text(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = child(volume, "rbd") {
        default_text(rbd, "pool", "rbd");
        default_text(rbd, "user", "admin");
        default_text(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = child(volume, "azureDisk") {
        default_to(disk, "cachingMode", "ReadWrite");
        default_to(disk, "kind", "Shared");
        default_to(disk, "fsType", "ext4");
        default_to(disk, "readOnly", false);
    }
    if let Some(scale) = child(volume, "scaleIO") {
        default_text(scale, "storageMode", "ThinProvisioned");
        default_text(scale, "fsType", "xfs");
    }
}

fn downward_items(source: &mut Fields) {
    each(source, "items", |item| {
        if let Some(reference) = child(item, "fieldRef") {
            field_ref(reference);
        }
    });
}

fn projected(source: &mut Fields) {
    default_to(source, "defaultMode", MODE);
    each(source, "sources", |source| {
        if let Some(downward) = child(source, "downwardAPI") {
            downward_items(downward);
        }
        if let Some(token) = child(source, "serviceAccountToken") {
            default_to(token, "expirationSeconds", TOKEN_SECONDS);
        }
    });
}
