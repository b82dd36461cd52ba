//! Pulling: from a reference to a recorded image.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::config::AuthConfig;
use super::digest::Digest;
use super::error::ImageError;
use super::fixup;
use super::reference::Reference;
use super::registry::{Chunk, Repository};
use super::spec::{Descriptor, Document, ImageDocument, Manifest, check_layer_media_type};
use super::store::{ImageRecord, Inner, NewImage};

/// Chunks between the network and the unpacking thread; each is at most what one read of the connection gives.
const CHANNEL_DEPTH: usize = 32;

/// How far a pull is. Counts only grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// What is being done.
    pub phase: PullPhase,
    /// Layers of the image.
    pub layers_total: usize,
    /// Layers on disk.
    pub layers_done: usize,
    /// Bytes of all layer blobs.
    pub bytes_total: u64,
    /// Bytes downloaded, or not needed because the layer was there.
    pub bytes_done: u64,
}

/// The steps of a pull.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullPhase {
    /// Finding the manifest.
    #[default]
    Resolving,
    /// Downloading and unpacking layers.
    Downloading,
    /// The image is recorded.
    Done,
}

pub(crate) async fn pull(
    inner: &Arc<Inner>,
    reference: &str,
    auth: Option<AuthConfig>,
    progress: &watch::Sender<PullProgress>,
) -> Result<ImageRecord, ImageError> {
    let reference = Reference::parse(reference)?;
    let result = pull_reference(inner, &reference, auth.as_ref(), progress).await;
    match result {
        Ok(record) => {
            progress.send_modify(|p| p.phase = PullPhase::Done);
            Ok(record)
        }
        Err(source) => {
            if !source.is_retryable() {
                // A retry would fail the same way: what was complete is of no use.
                let inner = Arc::clone(inner);
                let store = Arc::clone(&inner);
                if let Err(error) = inner.blocking.run(move || store.collect_garbage()).await {
                    tracing::warn!(%error, "layers of a failed pull were not removed");
                }
            }
            Err(ImageError::Pull {
                reference: reference.to_string(),
                source: Box::new(source),
            })
        }
    }
}

async fn pull_reference(
    inner: &Arc<Inner>,
    reference: &Reference,
    auth: Option<&AuthConfig>,
    progress: &watch::Sender<PullProgress>,
) -> Result<ImageRecord, ImageError> {
    progress.send_replace(PullProgress::default());
    let repository = inner.registry.repository(reference, auth, "pull")?;
    let resolved = repository.manifest(&reference.selector_text()).await?;
    let top_digest = resolved.digest.clone();
    let (manifest, fetched) = match Document::parse(&resolved.bytes, &resolved.content_type)? {
        Document::Manifest(manifest) => (manifest, resolved),
        Document::Index(index) => {
            let chosen = index.select(&resolved.digest, &inner.config.platform)?;
            let fetched = repository.manifest(&chosen.digest.to_string()).await?;
            match Document::parse(&fetched.bytes, &fetched.content_type)? {
                Document::Manifest(manifest) => (manifest, fetched),
                Document::Index(_) => {
                    return Err(ImageError::Unsupported(format!(
                        "index {} inside an index",
                        fetched.digest
                    )));
                }
            }
        }
    };
    for layer in &manifest.layers {
        check_layer_media_type(&layer.media_type)?;
    }
    let config = repository
        .small_blob(&manifest.config, "image configuration")
        .await?;
    let document = ImageDocument::parse(&config)?;
    document.check_platform(&fetched.digest, &inner.config.platform)?;
    let diff_ids = check_layer_count(&manifest, &document)?;
    let lease = inner
        .layers
        .lease(diff_ids.iter().map(Digest::file_name).collect());
    progress.send_modify(|p| {
        p.phase = PullPhase::Downloading;
        p.layers_total = manifest.layers.len();
        p.bytes_total = manifest.layers.iter().map(|l| l.size).sum();
    });

    let mut names = vec![reference.with_digest(&top_digest)];
    if matches!(reference.selector(), super::reference::Selector::Tag(_)) {
        names.push(reference.clone());
    }
    let width = inner.config.max_concurrent_layers.max(1);
    let unpacking = TaskTracker::new();
    // Collected first: a stream over the closure is not provably `Send` for every lifetime of its arguments.
    let fetches: Vec<_> = manifest
        .layers
        .iter()
        .zip(diff_ids)
        .map(|(descriptor, diff_id)| {
            let work = LayerFetch {
                descriptor,
                diff_id,
                unpacking: unpacking.token(),
            };
            fetch_layer(inner, &repository, work, progress)
        })
        .collect();
    let fetched_all = stream::iter(fetches)
        .buffer_unordered(width)
        .try_collect::<Vec<()>>()
        .await;
    // After a failure the other layers' downloads have been dropped; their threads clean up.
    unpacking.close();
    unpacking.wait().await;
    fetched_all?;
    let store = Arc::clone(inner);
    inner
        .blocking
        .run(move || {
            let chain: Vec<_> = document.rootfs.diff_ids.iter().map(Digest::file_name).collect();
            let (layers, leases) = fixup::complete(&store.config.root, &store.layers, &chain)?;
            let image = NewImage {
                manifest_digest: &fetched.digest,
                manifest: &fetched.bytes,
                config_digest: &manifest.config.digest,
                config: &config,
                document: &document,
                layers,
                size: image_size(fetched.bytes.len(), &manifest),
            };
            let record = store.record(image, &names);
            drop((lease, leases));
            record
        })
        .await
}

/// Bytes of the blobs of an image.
pub(crate) fn image_size(manifest_len: usize, manifest: &Manifest) -> u64 {
    manifest_len as u64 + manifest.config.size + manifest.layers.iter().map(|l| l.size).sum::<u64>()
}

pub(crate) fn check_layer_count<'a>(
    manifest: &Manifest,
    document: &'a ImageDocument,
) -> Result<&'a [Digest], ImageError> {
    let diff_ids = &document.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        let (have, want) = (manifest.layers.len(), diff_ids.len());
        let reason = format!("mismatched image rootfs and manifest layers: {want} diff ids, {have} layers");
        return Err(ImageError::manifest("image configuration", reason));
    }
    Ok(diff_ids)
}

/// One layer to fetch.
struct LayerFetch<'a> {
    descriptor: &'a Descriptor,
    diff_id: &'a Digest,
    /// Lives as long as a thread works on the layer.
    unpacking: TaskTrackerToken,
}

/// Makes the layer present: at once when it is, by waiting when another pull fetches it, otherwise by
/// downloading.
async fn fetch_layer(
    inner: &Arc<Inner>,
    repository: &Repository<'_>,
    LayerFetch {
        descriptor,
        diff_id,
        unpacking,
    }: LayerFetch<'_>,
    progress: &watch::Sender<PullProgress>,
) -> Result<(), ImageError> {
    let key = diff_id.file_name();
    let lock = inner.layers.fetch_lock(&key);
    let _fetching = lock.lock().await;
    if inner.layers.contains(&key) {
        progress.send_modify(|p| {
            p.layers_done += 1;
            p.bytes_done += descriptor.size;
        });
        return Ok(());
    }
    let _permit = inner
        .layer_permits
        .acquire()
        .await
        .expect("invariant: the semaphore is never closed");
    let (sink, source) = mpsc::channel(CHANNEL_DEPTH);
    let layers = Arc::clone(&inner.layers);
    let (wanted, label) = (diff_id.clone(), descriptor.digest.to_string());
    let unpack = inner.blocking.run(move || {
        let mut reader = ChunkReader {
            source,
            current: Bytes::new(),
            ended: false,
        };
        let result = layers.unpack(&mut reader, &wanted, &label);
        if matches!(result, Err(ImageError::InvalidLayer { .. })) {
            // Damaged on the way, or made so? The download's digest check tells, and its error comes first.
            let _ = io::copy(&mut reader, &mut io::sink());
        }
        drop(unpacking);
        result
    });
    let download = repository.download(descriptor, sink, |n| progress.send_modify(|p| p.bytes_done += n));
    let (downloaded, unpacked) = tokio::join!(download, unpack);
    // A download's failure is also the end of unpacking, but not the other way round.
    downloaded?;
    unpacked?;
    progress.send_modify(|p| p.layers_done += 1);
    Ok(())
}

/// Reads what the download sends, on a blocking thread. The end is an end only when the download says so.
struct ChunkReader {
    source: mpsc::Receiver<Chunk>,
    current: Bytes,
    ended: bool,
}

impl Read for ChunkReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            if self.ended {
                return Ok(0);
            }
            match self.source.blocking_recv() {
                Some(Chunk::Data(bytes)) => self.current = bytes,
                Some(Chunk::End) => self.ended = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the download was given up",
                    ));
                }
            }
        }
        let n = buf.len().min(self.current.len());
        self.current.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}
