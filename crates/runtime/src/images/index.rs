//! The persistent list of images, and files that are replaced atomically.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::ImageError;

const VERSION: u32 = 1;

/// One image as it is kept on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageEntry {
    /// Digest of the manifest (not of an index that led to it).
    pub(crate) manifest: Digest,
    /// Normalised `name:tag` references.
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    /// Normalised `name@digest` references.
    #[serde(default)]
    pub(crate) digests: Vec<String>,
    /// Layer keys, lowest first.
    pub(crate) layers: Vec<String>,
    /// Bytes of manifest, configuration and layer blobs.
    pub(crate) size: u64,
    /// Not to be removed by garbage collection.
    #[serde(default)]
    pub(crate) pinned: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    images: BTreeMap<Digest, ImageEntry>,
}

/// Images by id (configuration digest).
pub(crate) type Images = BTreeMap<Digest, ImageEntry>;

/// Reads the index; a missing file is an empty one.
pub(crate) fn load(path: &Path) -> Result<Images, ImageError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Images::new()),
        Err(e) => return Err(ImageError::io("read", path, e)),
    };
    let invalid = |e: serde_json::Error| {
        ImageError::io(
            "read",
            path,
            std::io::Error::new(std::io::ErrorKind::InvalidData, e),
        )
    };
    let version: Version = serde_json::from_slice(&bytes).map_err(invalid)?;
    if version.version > VERSION {
        return Err(ImageError::NewerVersion {
            path: path.to_path_buf(),
            found: version.version,
            supported: VERSION,
        });
    }
    Ok(serde_json::from_slice::<File>(&bytes).map_err(invalid)?.images)
}

/// Replaces the index; it is on disk when this returns.
pub(crate) fn save(path: &Path, images: &Images) -> Result<(), ImageError> {
    let file = File {
        version: VERSION,
        images: images.clone(),
    };
    let bytes = serde_json::to_vec_pretty(&file).expect("invariant: the index is plain data");
    replace(path, &bytes)
}

/// Writes `bytes` to `path` by way of a synced temporary file and a rename.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        std::fs::File::open(dir)?.sync_all()
    };
    write().map_err(|e| ImageError::io("write", path, e))
}

/// Where blob `digest` is kept below the store's root.
pub(crate) fn blob_path(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs").join(digest.file_name())
}
