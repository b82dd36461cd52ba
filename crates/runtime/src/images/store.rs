//! The image store: what the CRI image service and the container side call.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::blocking::BlockingPool;
use super::config::{AuthConfig, ImageConfig};
use super::digest::Digest;
use super::error::ImageError;
use super::import::ImportSource;
use super::index::{self, ImageEntry, Images};
use super::layers::{Layers, make_dir};
use super::overlay::OverlayMount;
use super::pull::PullProgress;
use super::reference::{Reference, Selector};
use super::registry::Registry;
use super::rootfs::{self, Rootfs, Snapshot};
use super::spec::{ImageDocument, RunConfig};

/// Handle on one store; clones share it.
#[derive(Debug, Clone)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: ImageConfig,
    pub(crate) registry: Registry,
    pub(crate) layers: Arc<Layers>,
    pub(crate) layer_permits: Semaphore,
    pub(crate) blocking: BlockingPool,
    state: Mutex<State>,
    /// Held for the life of the store.
    _lock: std::fs::File,
}

#[derive(Debug)]
struct State {
    images: Images,
    run_configs: HashMap<Digest, Arc<RunConfig>>,
    containers: BTreeMap<String, Snapshot>,
}

/// An image as CRI describes it.
#[derive(Debug, Clone)]
pub struct ImageRecord {
    /// Digest of the image configuration, `sha256:…`.
    pub id: Digest,
    /// Digest of the manifest.
    pub manifest: Digest,
    /// `name:tag`, normalised.
    pub repo_tags: Vec<String>,
    /// `name@digest`, normalised; empty for images that never were in a registry.
    pub repo_digests: Vec<String>,
    /// Bytes of the image's blobs as they are in a registry (compressed), as containerd reports.
    pub size: u64,
    /// Not to be removed by garbage collection.
    pub pinned: bool,
    /// How containers of the image run.
    pub config: Arc<RunConfig>,
}

impl ImageRecord {
    /// What a container status reports as `imageRef`: the first repo digest, otherwise the id.
    pub fn image_ref(&self) -> String {
        self.repo_digests
            .first()
            .cloned()
            .unwrap_or_else(|| self.id.to_string())
    }
}

/// Space taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsUsage {
    /// Bytes on disk (allocated blocks).
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Space taken by the store, in CRI's two halves.
#[derive(Debug, Clone)]
pub struct FsInfo {
    /// The store's directory, CRI's `FilesystemIdentifier.mountpoint`.
    pub mountpoint: PathBuf,
    /// Layers, manifests and configurations.
    pub images: FsUsage,
    /// Writable layers of containers.
    pub containers: FsUsage,
}

const SUBDIRS: [&str; 6] = ["blobs", "layers", "l", "containers", "ingest", "empty"];

impl ImageStore {
    /// Opens or creates the store and removes what an earlier process left half done. Blocking.
    pub fn open(config: ImageConfig) -> Result<Self, ImageError> {
        let root = &config.root;
        make_dir(root)?;
        let lock_path = root.join("lock");
        let lock = std::fs::File::create(&lock_path).map_err(|e| ImageError::io("open", &lock_path, e))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| ImageError::io("image store is used by another process:", &lock_path, e.into()))?;
        for dir in SUBDIRS {
            make_dir(&root.join(dir))?;
        }
        let ingest = root.join("ingest");
        for entry in std::fs::read_dir(&ingest).map_err(|e| ImageError::io("read", &ingest, e))? {
            let path = entry.map_err(|e| ImageError::io("read", &ingest, e))?.path();
            remove_any(&path)?;
        }
        let layers = Arc::new(Layers::open(root)?);
        let mut images = index::load(&root.join("index.json"))?;
        let mut run_configs = HashMap::new();
        let recorded = images.len();
        images.retain(|id, entry| match check_image(root, &layers, id, entry) {
            Ok(run_config) => {
                run_configs.insert(id.clone(), Arc::new(run_config));
                true
            }
            Err(error) => {
                tracing::warn!(image = %id, %error, "damaged image dropped");
                false
            }
        });
        if images.len() != recorded {
            index::save(&root.join("index.json"), &images)?;
        }
        let containers = rootfs::load_all(root)?.into_iter().collect();
        let store = Self {
            inner: Arc::new(Inner {
                registry: Registry::new(&config)?,
                layers,
                layer_permits: Semaphore::new(config.max_concurrent_layers.max(1)),
                // One thread for each layer on its way, and some for everything else.
                blocking: BlockingPool::new(config.max_concurrent_layers.max(1) + 4),
                state: Mutex::new(State {
                    images,
                    run_configs,
                    containers,
                }),
                config,
                _lock: lock,
            }),
        };
        store.inner.collect_garbage()?;
        Ok(store)
    }

    /// Downloads and unpacks the image `reference`, reporting to `progress`. Dropping the future ends the pull and
    /// leaves nothing half done; layers that were complete stay until the next removal.
    pub async fn pull(
        &self,
        reference: &str,
        auth: Option<AuthConfig>,
        progress: watch::Sender<PullProgress>,
    ) -> Result<ImageRecord, ImageError> {
        super::pull::pull(&self.inner, reference, auth, &progress).await
    }

    /// Adds the images of an archive: `docker save` or OCI layout, plain, gzip or zstd.
    pub async fn import(&self, source: ImportSource) -> Result<Vec<ImageRecord>, ImageError> {
        let inner = Arc::clone(&self.inner);
        self.inner
            .blocking
            .run(move || super::import::import(&inner, source))
            .await
    }

    /// Finds an image by reference, by id (`sha256:…` or bare hex) or by a unique prefix of the hex id.
    pub fn status(&self, image: &str) -> Option<ImageRecord> {
        let state = self.inner.state.lock();
        let id = state.resolve(image)?;
        state.record(&id)
    }

    /// All images, or the one that `filter` names in any form that [`ImageStore::status`] takes.
    pub fn list(&self, filter: Option<&str>) -> Vec<ImageRecord> {
        let state = self.inner.state.lock();
        match filter.filter(|f| !f.is_empty()) {
            Some(image) => state
                .resolve(image)
                .and_then(|id| state.record(&id))
                .into_iter()
                .collect(),
            None => state.images.keys().filter_map(|id| state.record(id)).collect(),
        }
    }

    /// Removes the image with all of its names; one that is not there is fine. Containers made from it keep working.
    pub async fn remove(&self, image: &str) -> Result<(), ImageError> {
        let inner = Arc::clone(&self.inner);
        let image = image.to_owned();
        self.inner.blocking.run(move || inner.remove(&image)).await
    }

    /// Marks an image as not to be garbage-collected (or no longer so); CRI reports it as `pinned`.
    pub async fn set_pinned(&self, image: &str, pinned: bool) -> Result<(), ImageError> {
        let inner = Arc::clone(&self.inner);
        let image = image.to_owned();
        self.inner
            .blocking
            .run(move || {
                let mut state = inner.state.lock();
                let id = state.resolve(&image).ok_or(ImageError::NotFound(image))?;
                let mut images = state.images.clone();
                images.get_mut(&id).expect("invariant: resolved").pinned = pinned;
                inner.commit(&mut state, images)
            })
            .await
    }

    /// Makes a writable layer for container `container_id` above `image` (in any form that [`ImageStore::status`]
    /// takes).
    pub async fn prepare_rootfs(&self, image: &str, container_id: &str) -> Result<Rootfs, ImageError> {
        let inner = Arc::clone(&self.inner);
        let (image, container_id) = (image.to_owned(), container_id.to_owned());
        self.inner
            .blocking
            .run(move || inner.prepare_rootfs(image, &container_id))
            .await
    }

    /// What to mount for a container whose writable layer was prepared earlier, also by an earlier process.
    pub fn mount_options(&self, container_id: &str) -> Result<OverlayMount, ImageError> {
        let state = self.inner.state.lock();
        let snapshot = state
            .containers
            .get(container_id)
            .ok_or_else(|| ImageError::NotFound(format!("rootfs of container {container_id:?}")))?;
        rootfs::overlay(
            &self.inner.config.root,
            &self.inner.layers,
            container_id,
            snapshot,
        )
    }

    /// Containers that have a writable layer here, for clearing leftovers at start.
    pub fn rootfs_ids(&self) -> Vec<String> {
        self.inner.state.lock().containers.keys().cloned().collect()
    }

    /// Deletes the writable layer, which must no longer be mounted, and layers that only it held; one that is not
    /// there is fine.
    pub async fn remove_rootfs(&self, container_id: &str) -> Result<(), ImageError> {
        let inner = Arc::clone(&self.inner);
        let container_id = container_id.to_owned();
        self.inner
            .blocking
            .run(move || {
                rootfs::remove(&inner.config.root, &container_id)?;
                inner.state.lock().containers.remove(&container_id);
                inner.collect_garbage()
            })
            .await
    }

    /// Disk usage of a container's writable layer.
    pub async fn rootfs_usage(&self, container_id: &str) -> Result<FsUsage, ImageError> {
        let root = self.inner.config.root.clone();
        let container_id = container_id.to_owned();
        self.inner
            .blocking
            .run(move || rootfs::usage(&root, &container_id))
            .await
    }

    /// Space taken by images and by writable layers.
    pub async fn fs_info(&self) -> Result<FsInfo, ImageError> {
        let inner = Arc::clone(&self.inner);
        self.inner
            .blocking
            .run(move || {
                let root = &inner.config.root;
                let blobs = super::layers::disk_usage(&root.join("blobs"))?;
                let layers = inner.layers.usage();
                let containers = super::layers::disk_usage(&root.join("containers"))?;
                Ok(FsInfo {
                    mountpoint: root.clone(),
                    images: FsUsage {
                        bytes: blobs.bytes + layers.bytes,
                        inodes: blobs.inodes + layers.inodes,
                    },
                    containers,
                })
            })
            .await
    }
}

impl State {
    fn resolve(&self, image: &str) -> Option<Digest> {
        if let Ok(digest) = image.parse::<Digest>()
            && self.images.contains_key(&digest)
        {
            return Some(digest);
        }
        if let Ok(reference) = Reference::parse(image) {
            let text = reference.to_string();
            let names = |entry: &ImageEntry| match reference.selector() {
                Selector::Tag(_) => entry.tags.contains(&text),
                Selector::Digest(_) => entry.digests.contains(&text),
            };
            if let Some((id, _)) = self.images.iter().find(|(_, entry)| names(entry)) {
                return Some(id.clone());
            }
        }
        let prefix = image.strip_prefix("sha256:").unwrap_or(image);
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut matching = self.images.keys().filter(|id| id.hex().starts_with(prefix));
        let first = matching.next()?;
        matching.next().is_none().then(|| first.clone())
    }

    fn record(&self, id: &Digest) -> Option<ImageRecord> {
        let entry = self.images.get(id)?;
        Some(ImageRecord {
            id: id.clone(),
            manifest: entry.manifest.clone(),
            repo_tags: entry.tags.clone(),
            repo_digests: entry.digests.clone(),
            size: entry.size,
            pinned: entry.pinned,
            config: Arc::clone(self.run_configs.get(id)?),
        })
    }
}

impl Inner {
    fn index_path(&self) -> PathBuf {
        self.config.root.join("index.json")
    }

    /// Writes `images` to disk, then makes them what readers see.
    fn commit(&self, state: &mut State, images: Images) -> Result<(), ImageError> {
        index::save(&self.index_path(), &images)?;
        state.run_configs.retain(|id, _| images.contains_key(id));
        state.images = images;
        Ok(())
    }

    /// Writes the blobs of an image and records it under `names`, which move here from any other image. Its layers
    /// are complete and leased by the caller. Blocking.
    pub(crate) fn record(&self, image: NewImage<'_>, names: &[Reference]) -> Result<ImageRecord, ImageError> {
        let root = &self.config.root;
        let id = image.config_digest;
        let mut state = self.state.lock();
        index::replace(&index::blob_path(root, image.manifest_digest), image.manifest)?;
        index::replace(&index::blob_path(root, id), image.config)?;
        let mut images = state.images.clone();
        for name in names {
            let text = name.to_string();
            for entry in images.values_mut() {
                entry.tags.retain(|tag| *tag != text);
            }
        }
        let entry = images.entry(id.clone()).or_insert_with(|| ImageEntry {
            manifest: image.manifest_digest.clone(),
            tags: Vec::new(),
            digests: Vec::new(),
            layers: Vec::new(),
            size: 0,
            pinned: false,
        });
        entry.manifest = image.manifest_digest.clone();
        entry.layers = image.layers;
        entry.size = image.size;
        for name in names {
            let text = name.to_string();
            let list = match name.selector() {
                Selector::Tag(_) => &mut entry.tags,
                Selector::Digest(_) => &mut entry.digests,
            };
            if !list.contains(&text) {
                list.push(text);
                list.sort();
            }
        }
        state
            .run_configs
            .insert(id.clone(), Arc::new(image.document.config.clone()));
        self.commit(&mut state, images)?;
        Ok(state.record(id).expect("invariant: just recorded"))
    }

    fn remove(&self, image: &str) -> Result<(), ImageError> {
        {
            let mut state = self.state.lock();
            let Some(id) = state.resolve(image) else {
                return Ok(());
            };
            let mut images = state.images.clone();
            images.remove(&id);
            self.commit(&mut state, images)?;
        }
        self.collect_garbage()
    }

    fn prepare_rootfs(&self, image: String, container_id: &str) -> Result<Rootfs, ImageError> {
        // Under the lock, so that no collection comes between reading the layers and recording their use.
        let mut state = self.state.lock();
        let id = state.resolve(&image).ok_or(ImageError::NotFound(image))?;
        let layers = state.images[&id].layers.clone();
        let snapshot = Snapshot { image: id, layers };
        let rootfs = rootfs::create(&self.config.root, &self.layers, container_id, &snapshot)?;
        state.containers.insert(container_id.to_owned(), snapshot);
        Ok(rootfs)
    }

    /// Deletes layers and blobs that nothing refers to. Blocking.
    pub(crate) fn collect_garbage(&self) -> Result<(), ImageError> {
        let root = &self.config.root;
        let trash = {
            let state = self.state.lock();
            let used: HashSet<String> = state
                .images
                .values()
                .flat_map(|entry| &entry.layers)
                .chain(state.containers.values().flat_map(|snapshot| &snapshot.layers))
                .cloned()
                .collect();
            let blobs: HashSet<String> = state
                .images
                .iter()
                .flat_map(|(id, entry)| [id.file_name(), entry.manifest.file_name()])
                .collect();
            let dir = root.join("blobs");
            for entry in std::fs::read_dir(&dir).map_err(|e| ImageError::io("read", &dir, e))? {
                let entry = entry.map_err(|e| ImageError::io("read", &dir, e))?;
                if !entry
                    .file_name()
                    .to_str()
                    .is_some_and(|name| blobs.contains(name))
                {
                    remove_any(&entry.path())?;
                }
            }
            self.layers.collect(&used)?
        };
        for path in trash {
            std::fs::remove_dir_all(&path).map_err(|e| ImageError::io("remove", &path, e))?;
        }
        Ok(())
    }
}

/// Everything about an image that is to be recorded.
pub(crate) struct NewImage<'a> {
    pub(crate) manifest_digest: &'a Digest,
    pub(crate) manifest: &'a [u8],
    pub(crate) config_digest: &'a Digest,
    pub(crate) config: &'a [u8],
    pub(crate) document: &'a ImageDocument,
    pub(crate) layers: Vec<String>,
    pub(crate) size: u64,
}

fn check_image(
    root: &Path,
    layers: &Layers,
    id: &Digest,
    entry: &ImageEntry,
) -> Result<RunConfig, ImageError> {
    if let Some(missing) = entry.layers.iter().find(|key| !layers.contains(key)) {
        return Err(ImageError::NotFound(format!("layer {missing}")));
    }
    let path = index::blob_path(root, id);
    let bytes = std::fs::read(&path).map_err(|e| ImageError::io("read", &path, e))?;
    id.verify(&bytes, "image configuration")?;
    Ok(ImageDocument::parse(&bytes)?.config)
}

fn remove_any(path: &Path) -> Result<(), ImageError> {
    let is_dir = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    let result = if is_dir {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    match result {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(ImageError::io("remove", path, e)),
        _ => Ok(()),
    }
}
