//! Attributes of directories that a layer needed but did not list.
//!
//! A layer's archive may hold `a/b/file` without entries for `a` and `a/b`. Unpacked on its own, such a layer has these
//! directories with default attributes, and mounted above others it would hide their true owner and mode. Layers stay
//! content-addressed all the same: where the attributes differ from the default, a small layer that consists of these
//! directories alone is put above it.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::digest::Digest;
use super::error::ImageError;
use super::layers::{Ingest, LayerMeta, Layers, Lease};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
}

const DEFAULT: Attributes = Attributes {
    uid: 0,
    gid: 0,
    mode: 0o755,
};

/// The layers to mount for `chain` (lowest first): the same, with correcting layers in between, which the leases keep
/// until the image is recorded. Blocking.
pub(crate) fn complete(
    root: &Path,
    layers: &Arc<Layers>,
    chain: &[String],
) -> Result<(Vec<String>, Vec<Lease>), ImageError> {
    let mut leases = Vec::new();
    let mut completed: Vec<String> = Vec::with_capacity(chain.len());
    for key in chain {
        completed.push(key.clone());
        let Some(meta) = layers.meta(key) else { continue };
        if completed.len() == 1 || meta.implicit_dirs.is_empty() {
            continue;
        }
        let mut wrong = BTreeMap::new();
        for dir in &meta.implicit_dirs {
            let attributes = merged(layers, &completed, Path::new(dir))?;
            if attributes != DEFAULT {
                wrong.insert(PathBuf::from(dir), attributes);
            }
        }
        if !wrong.is_empty() {
            let key = format!("fix-{}", Digest::sha256(completed.join("\n").as_bytes()).hex());
            leases.push(layers.lease(vec![key.clone()]));
            if !layers.contains(&key) {
                correcting_layer(root, layers, &key, &completed, &wrong)?;
            }
            completed.push(key);
        }
    }
    Ok((topmost(completed), leases))
}

/// Each layer once: overlayfs refuses a directory that is mounted twice, and the upper one hides all of the lower.
fn topmost(chain: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut kept: Vec<_> = chain
        .into_iter()
        .rev()
        .filter(|key| seen.insert(key.clone()))
        .collect();
    kept.reverse();
    kept
}

fn correcting_layer(
    root: &Path,
    layers: &Layers,
    key: &str,
    below: &[String],
    wrong: &BTreeMap<PathBuf, Attributes>,
) -> Result<(), ImageError> {
    let ingest = Ingest::new(root)?;
    let fs = ingest.path().join("fs");
    make(&fs, merged(layers, below, Path::new(""))?)?;
    let mut inodes = 1;
    for dir in wrong.keys() {
        let mut current = PathBuf::new();
        for component in dir.components() {
            current.push(component);
            if !fs.join(&current).exists() {
                let attributes = match wrong.get(&current) {
                    Some(attributes) => *attributes,
                    None => merged(layers, below, &current)?,
                };
                make(&fs.join(&current), attributes)?;
                inodes += 1;
            }
        }
    }
    let meta = LayerMeta {
        bytes: inodes * 4096,
        inodes,
        implicit_dirs: Vec::new(),
    };
    layers.publish(ingest, key, meta)
}

fn make(path: &Path, attributes: Attributes) -> Result<(), ImageError> {
    let error = |e| ImageError::io("create", path, e);
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(error)?;
    std::os::unix::fs::chown(path, Some(attributes.uid), Some(attributes.gid)).map_err(error)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(attributes.mode)).map_err(error)
}

/// Attributes of directory `dir` in the layers mounted together, passing over layers that have it only implicitly.
fn merged(layers: &Layers, chain: &[String], dir: &Path) -> Result<Attributes, ImageError> {
    for key in chain.iter().rev() {
        let implicit = layers
            .meta(key)
            .is_some_and(|meta| meta.implicit_dirs.iter().any(|d| Path::new(d) == dir));
        match find(&layers.fs_path(key), dir)? {
            Found::Directory(attributes, _) if !implicit => return Ok(attributes),
            Found::Directory(_, true) | Found::Missing(true) | Found::Hidden => return Ok(DEFAULT),
            Found::Directory(_, false) | Found::Missing(false) => {}
        }
    }
    Ok(DEFAULT)
}

enum Found {
    /// It is there; whether it or a parent is opaque.
    Directory(Attributes, bool),
    /// It is not there; whether an opaque parent hides the layers below.
    Missing(bool),
    /// Something else stands there or above.
    Hidden,
}

fn find(fs: &Path, dir: &Path) -> Result<Found, ImageError> {
    let mut current = fs.to_path_buf();
    let mut opaque = false;
    let mut components = dir.components();
    loop {
        let meta = match std::fs::symlink_metadata(&current) {
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Missing(opaque)),
            Err(e) => return Err(ImageError::io("stat", &current, e)),
        };
        if !meta.is_dir() || meta.file_type().is_char_device() {
            return Ok(Found::Hidden);
        }
        let mut value = [0_u8; 1];
        if let Ok(1) = rustix::fs::lgetxattr(&current, "trusted.overlay.opaque", &mut value[..]) {
            opaque |= value == *b"y";
        }
        match components.next() {
            Some(component) => current.push(component),
            None => {
                let attributes = Attributes {
                    uid: meta.uid(),
                    gid: meta.gid(),
                    mode: meta.mode() & 0o7777,
                };
                return Ok(Found::Directory(attributes, opaque));
            }
        }
    }
}
