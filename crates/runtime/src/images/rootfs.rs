//! Writable layers of containers.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::ImageError;
use super::layers::{Ingest, Layers, discard, disk_usage};
use super::overlay::OverlayMount;
use super::store::FsUsage;

/// A container's root file system, ready to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// Whose it is.
    pub container_id: String,
    /// Image it is made from.
    pub image_id: Digest,
    /// What to mount.
    pub overlay: OverlayMount,
}

/// `snapshot.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) image: Digest,
    /// Layer keys, lowest first.
    pub(crate) layers: Vec<String>,
}

/// Container ids become a path component.
fn dir(root: &Path, container_id: &str) -> Result<PathBuf, ImageError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if container_id.is_empty() || container_id.starts_with('.') || !container_id.bytes().all(plain) {
        return Err(ImageError::NotFound(format!("container {container_id:?}")));
    }
    Ok(root.join("containers").join(container_id))
}

/// Makes the writable layer. Blocking; nothing is synced, for no container outlives a power cut.
pub(crate) fn create(
    root: &Path,
    layers: &Layers,
    container_id: &str,
    snapshot: &Snapshot,
) -> Result<Rootfs, ImageError> {
    let target = dir(root, container_id)?;
    if target.exists() {
        return Err(ImageError::RootfsExists(container_id.to_owned()));
    }
    let ingest = Ingest::new(root)?;
    let upper = ingest.path().join("diff");
    let error = |e| ImageError::io("create rootfs", &upper, e);
    // The mounted root has the attributes of the upper directory.
    std::fs::DirBuilder::new()
        .mode(0o755)
        .create(&upper)
        .map_err(error)?;
    if let Some(top) = snapshot.layers.last() {
        let path = layers.fs_path(top);
        let meta = std::fs::metadata(&path).map_err(|e| ImageError::io("stat", &path, e))?;
        std::os::unix::fs::chown(&upper, Some(meta.uid()), Some(meta.gid())).map_err(error)?;
        std::fs::set_permissions(&upper, std::fs::Permissions::from_mode(meta.mode() & 0o7777))
            .map_err(error)?;
    } else {
        std::fs::set_permissions(&upper, std::fs::Permissions::from_mode(0o755)).map_err(error)?;
    }
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(ingest.path().join("work"))
        .map_err(error)?;
    let json = serde_json::to_vec(snapshot).expect("invariant: snapshot.json is plain data");
    std::fs::write(ingest.path().join("snapshot.json"), json).map_err(error)?;
    ingest.publish(&target)?;
    Ok(Rootfs {
        container_id: container_id.to_owned(),
        image_id: snapshot.image.clone(),
        overlay: overlay(root, layers, container_id, snapshot)?,
    })
}

/// What to mount for an existing writable layer.
pub(crate) fn overlay(
    root: &Path,
    layers: &Layers,
    container_id: &str,
    snapshot: &Snapshot,
) -> Result<OverlayMount, ImageError> {
    let dir = dir(root, container_id)?;
    let mut lowerdirs: Vec<_> = snapshot
        .layers
        .iter()
        .rev()
        .map(|key| layers.short_path(key))
        .collect();
    if lowerdirs.is_empty() {
        lowerdirs.push(root.join("empty"));
    }
    Ok(OverlayMount {
        lowerdirs,
        upper: dir.join("diff"),
        work: dir.join("work"),
    })
}

/// Deletes the writable layer; one that is not there is fine. Blocking.
pub(crate) fn remove(root: &Path, container_id: &str) -> Result<(), ImageError> {
    discard(root, &dir(root, container_id)?)
}

/// Disk usage of the writable layer. Blocking.
pub(crate) fn usage(root: &Path, container_id: &str) -> Result<FsUsage, ImageError> {
    let upper = dir(root, container_id)?.join("diff");
    if !upper.exists() {
        return Err(ImageError::NotFound(format!(
            "rootfs of container {container_id:?}"
        )));
    }
    disk_usage(&upper)
}

/// All writable layers by container id. One without a readable `snapshot.json` (a power cut) is deleted.
pub(crate) fn load_all(root: &Path) -> Result<Vec<(String, Snapshot)>, ImageError> {
    let parent = root.join("containers");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&parent).map_err(|e| ImageError::io("read", &parent, e))? {
        let entry = entry.map_err(|e| ImageError::io("read", &parent, e))?;
        let Ok(id) = entry.file_name().into_string() else {
            continue;
        };
        let snapshot = std::fs::read(entry.path().join("snapshot.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Snapshot>(&bytes).ok());
        match snapshot {
            Some(snapshot) => found.push((id, snapshot)),
            None => {
                tracing::warn!(container = id, "damaged writable layer dropped");
                discard(root, &entry.path())?;
            }
        }
    }
    Ok(found)
}
