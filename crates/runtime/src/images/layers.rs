//! Unpacked layers on disk: making, publishing, measuring, deleting.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::digest::{Digest, HashingReader};
use super::error::ImageError;
use super::spec::Compression;
use super::store::FsUsage;
use super::unpack::{self, UnpackError};

/// `layer.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LayerMeta {
    /// Disk usage of the unpacked files.
    pub(crate) bytes: u64,
    /// Inodes of the unpacked files.
    pub(crate) inodes: u64,
    /// Directories whose attributes come from the layers below.
    #[serde(default)]
    pub(crate) implicit_dirs: Vec<String>,
}

/// The layers of one store, by key.
#[derive(Debug)]
pub(crate) struct Layers {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    present: BTreeMap<String, Arc<LayerMeta>>,
    /// Layers that running pulls and imports rely on.
    leases: HashMap<String, usize>,
    /// One lock per layer being fetched, so that concurrent pulls share the work.
    fetching: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
}

/// Keeps layers from being collected while it lives.
#[derive(Debug)]
pub(crate) struct Lease {
    layers: Arc<Layers>,
    keys: Vec<String>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.layers.state.lock();
        for key in &self.keys {
            if let Some(count) = state.leases.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    state.leases.remove(key);
                    state.fetching.remove(key);
                }
            }
        }
    }
}

/// A directory below `ingest/` that is removed unless published.
#[derive(Debug)]
pub(crate) struct Ingest {
    path: PathBuf,
    armed: bool,
}

impl Ingest {
    pub(crate) fn new(root: &Path) -> Result<Self, ImageError> {
        let path = root
            .join("ingest")
            .join(uuid::Uuid::new_v4().simple().to_string());
        make_dir(&path)?;
        Ok(Self { path, armed: true })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the directory to its final place.
    pub(crate) fn publish(mut self, target: &Path) -> Result<(), ImageError> {
        std::fs::rename(&self.path, target).map_err(|e| ImageError::io("publish", target, e))?;
        self.armed = false;
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if self.armed
            && let Err(e) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), error = %e, "leftover is removed at next start");
        }
    }
}

/// Makes a directory that only root may enter.
pub(crate) fn make_dir(path: &Path) -> Result<(), ImageError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| ImageError::io("create directory", path, e))
}

impl Layers {
    /// Reads the layers below `root`; one whose `layer.json` is damaged is dropped.
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        let dir = root.join("layers");
        let mut present = BTreeMap::new();
        for entry in std::fs::read_dir(&dir).map_err(|e| ImageError::io("read", &dir, e))? {
            let entry = entry.map_err(|e| ImageError::io("read", &dir, e))?;
            let Ok(key) = entry.file_name().into_string() else {
                continue;
            };
            let meta = std::fs::read(entry.path().join("layer.json"))
                .ok()
                .and_then(|bytes| serde_json::from_slice::<LayerMeta>(&bytes).ok());
            if let Some(meta) = meta {
                present.insert(key, Arc::new(meta));
            } else {
                tracing::warn!(layer = key, "damaged layer dropped");
                discard(root, &entry.path())?;
            }
        }
        let layers = Self {
            root: root.to_path_buf(),
            state: Mutex::new(State {
                present,
                ..State::default()
            }),
        };
        let keys: Vec<_> = layers.state.lock().present.keys().cloned().collect();
        for key in keys {
            layers.link(&key)?;
        }
        Ok(layers)
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.state.lock().present.contains_key(key)
    }

    pub(crate) fn meta(&self, key: &str) -> Option<Arc<LayerMeta>> {
        self.state.lock().present.get(key).cloned()
    }

    /// The unpacked files of layer `key`.
    pub(crate) fn fs_path(&self, key: &str) -> PathBuf {
        self.root.join("layers").join(key).join("fs")
    }

    /// The short alias of [`Layers::fs_path`].
    pub(crate) fn short_path(&self, key: &str) -> PathBuf {
        self.root.join("l").join(short_name(key))
    }

    pub(crate) fn lease(self: &Arc<Self>, keys: Vec<String>) -> Lease {
        let mut state = self.state.lock();
        for key in &keys {
            *state.leases.entry(key.clone()).or_default() += 1;
        }
        Lease {
            layers: Arc::clone(self),
            keys,
        }
    }

    /// Whoever holds the lock of a key fetches that layer; the others wait and find it present, or try themselves.
    pub(crate) fn fetch_lock(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.state.lock().fetching.entry(key.to_owned()).or_default())
    }

    /// Unpacks `blob` (plain, gzip or zstd tar), checks it against `diff_id` and publishes it under the diff id's
    /// name. Blocking. The whole blob is read, also what follows the archive's end.
    pub(crate) fn unpack(&self, blob: impl Read, diff_id: &Digest, label: &str) -> Result<(), ImageError> {
        let key = diff_id.file_name();
        let ingest = Ingest::new(&self.root)?;
        let fs = ingest.path().join("fs");
        std::fs::DirBuilder::new()
            .mode(0o755)
            .create(&fs)
            .map_err(|e| ImageError::io("create", &fs, e))?;
        let invalid = |reason: String| ImageError::InvalidLayer {
            layer: label.to_owned(),
            reason,
        };
        let read_error = |e: std::io::Error| invalid(format!("read: {e}"));

        let mut blob = buffered(blob).map_err(read_error)?;
        let plain: Box<dyn Read + '_> = decompress(&mut blob).map_err(read_error)?;
        let mut plain = HashingReader::new(plain, diff_id.algorithm());
        let unpacked = unpack::unpack(&mut plain, &fs).map_err(|e| match e {
            UnpackError::Read(e) => read_error(e),
            UnpackError::Entry(path, reason) => invalid(format!("{}: {reason}", path.display())),
            UnpackError::Write(path, e) => ImageError::io(&format!("extract layer {label}:"), path, e),
        })?;
        let (actual, _) = plain.drain().map_err(read_error)?;
        std::io::copy(&mut blob, &mut std::io::sink()).map_err(read_error)?;
        if actual != *diff_id {
            let what = format!("uncompressed layer {label}");
            return Err(ImageError::DigestMismatch {
                what,
                expected: diff_id.clone(),
                actual,
            });
        }
        let usage = disk_usage(&fs)?;
        let implicit_dirs = unpacked
            .implicit_dirs
            .into_iter()
            .filter_map(|p| p.into_os_string().into_string().ok())
            .collect();
        let meta = LayerMeta {
            bytes: usage.bytes,
            inodes: usage.inodes,
            implicit_dirs,
        };
        self.publish(ingest, &key, meta)
    }

    /// Makes the finished directory `ingest` layer `key`.
    pub(crate) fn publish(&self, ingest: Ingest, key: &str, meta: LayerMeta) -> Result<(), ImageError> {
        let json = serde_json::to_vec(&meta).expect("invariant: layer.json is plain data");
        let file = ingest.path().join("layer.json");
        std::fs::write(&file, json).map_err(|e| ImageError::io("write", &file, e))?;
        // The files are on disk before the name that says they are complete.
        let dir = std::fs::File::open(ingest.path()).map_err(|e| ImageError::io("open", ingest.path(), e))?;
        rustix::fs::syncfs(&dir).map_err(|e| ImageError::io("sync", ingest.path(), e.into()))?;
        let mut state = self.state.lock();
        if state.present.contains_key(key) {
            return Ok(());
        }
        ingest.publish(&self.root.join("layers").join(key))?;
        state.present.insert(key.to_owned(), Arc::new(meta));
        drop(state);
        self.link(key)
    }

    fn link(&self, key: &str) -> Result<(), ImageError> {
        let link = self.short_path(key);
        let target = Path::new("../layers").join(key).join("fs");
        match std::os::unix::fs::symlink(&target, &link) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => match std::fs::read_link(&link) {
                Ok(found) if found == target => Ok(()),
                _ => Err(ImageError::io("link", &link, e)),
            },
            Err(e) => Err(ImageError::io("link", &link, e)),
        }
    }

    /// Moves every layer that is neither in `used` nor leased out of the way and returns where they are now; the
    /// caller deletes them.
    pub(crate) fn collect(&self, used: &HashSet<String>) -> Result<Vec<PathBuf>, ImageError> {
        let mut state = self.state.lock();
        let unused: Vec<String> = state
            .present
            .keys()
            .filter(|key| !used.contains(*key) && !state.leases.contains_key(*key))
            .cloned()
            .collect();
        let mut trash = Vec::new();
        for key in unused {
            let moved = trash_path(&self.root);
            let from = self.root.join("layers").join(&key);
            std::fs::rename(&from, &moved).map_err(|e| ImageError::io("remove", &from, e))?;
            state.present.remove(&key);
            match std::fs::remove_file(self.short_path(&key)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ImageError::io("remove", self.short_path(&key), e));
                }
                _ => trash.push(moved),
            }
        }
        Ok(trash)
    }

    /// Disk usage of all layers.
    pub(crate) fn usage(&self) -> FsUsage {
        let state = self.state.lock();
        state
            .present
            .values()
            .fold(FsUsage::default(), |sum, meta| FsUsage {
                bytes: sum.bytes + meta.bytes,
                inodes: sum.inodes + meta.inodes,
            })
    }
}

fn short_name(key: &str) -> String {
    Digest::sha256(key.as_bytes()).hex()[..16].to_owned()
}

fn trash_path(root: &Path) -> PathBuf {
    root.join("ingest")
        .join(format!("trash-{}", uuid::Uuid::new_v4().simple()))
}

/// Takes `path` out of the store at once, then deletes it. Blocking.
pub(crate) fn discard(root: &Path, path: &Path) -> Result<(), ImageError> {
    let moved = trash_path(root);
    match std::fs::rename(path, &moved) {
        Ok(()) => std::fs::remove_dir_all(&moved).map_err(|e| ImageError::io("remove", path, e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(ImageError::io("remove", path, e)),
    }
}

/// A buffered reader whose first fill has the magic number in one piece.
pub(crate) fn buffered<R: Read>(mut blob: R) -> std::io::Result<BufReader<impl Read>> {
    let mut head = Vec::new();
    blob.by_ref().take(4).read_to_end(&mut head)?;
    Ok(BufReader::with_capacity(
        128 * 1024,
        std::io::Cursor::new(head).chain(blob),
    ))
}

/// Tells the compression from the first bytes of what [`buffered`] made.
pub(crate) fn decompress<'a>(blob: &'a mut BufReader<impl Read>) -> std::io::Result<Box<dyn Read + 'a>> {
    let kind = match std::io::BufRead::fill_buf(blob)? {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        [a, 0x2a, 0x4d, 0x18, ..] if (0x50..=0x5f).contains(a) => Compression::Zstd,
        _ => Compression::None,
    };
    Ok(match kind {
        Compression::None => Box::new(blob),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(blob)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(blob)?),
    })
}

/// Blocks and inodes below `path` including itself, hard links counted once. Blocking.
pub(crate) fn disk_usage(path: &Path) -> Result<FsUsage, ImageError> {
    let mut usage = FsUsage::default();
    let mut links = HashSet::new();
    let mut pending = vec![path.to_path_buf()];
    while let Some(current) = pending.pop() {
        let meta = match std::fs::symlink_metadata(&current) {
            Ok(meta) => meta,
            // A running container removed it meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(ImageError::io("stat", &current, e)),
        };
        if meta.is_dir() {
            match std::fs::read_dir(&current) {
                Ok(entries) => {
                    for entry in entries {
                        pending.push(entry.map_err(|e| ImageError::io("read", &current, e))?.path());
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(ImageError::io("read", &current, e)),
            }
        } else if meta.nlink() > 1 && !links.insert((meta.dev(), meta.ino())) {
            continue;
        }
        usage.bytes += meta.blocks() * 512;
        usage.inodes += 1;
    }
    Ok(usage)
}
