//! All kinds' caches and the one task that feeds them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use keelson_store::{EventKind, KeyValue, RangeRequest, Revision, Store, WatchMessage, WatchStream};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::WatchCacheError;
use super::kind::{Change, KindCache};
use super::object::{CachedObject, KindSpec};

/// How long a read waits for the cache, as upstream's `blockTimeout`.
const WAIT: Duration = Duration::from_secs(3);
const ROOT: &str = "/registry/";

/// All caches of a server, at one common revision.
pub struct CacheSet {
    store: Arc<dyn Store>,
    kinds: RwLock<HashMap<Box<str>, Arc<KindCache>>>,
    nothing: Arc<KindCache>,
    applied: Arc<AtomicU64>,
    applied_tx: watch::Sender<u64>,
}

fn id(group: &str, resource: &str) -> String {
    format!("{group}/{resource}")
}

impl CacheSet {
    /// Caches of these kinds, empty until [`Self::run`] has read the store.
    pub fn new(store: Arc<dyn Store>, specs: Vec<KindSpec>) -> Arc<Self> {
        let applied = Arc::new(AtomicU64::new(0));
        let nothing = Arc::new(KindSpec::new("", "-", "v1", "-", Vec::new()));
        let kinds = specs
            .into_iter()
            .map(|spec| {
                let id = id(&spec.group, &spec.resource).into_boxed_str();
                (id, Arc::new(KindCache::new(Arc::new(spec), applied.clone())))
            })
            .collect();
        Arc::new(Self {
            store,
            kinds: RwLock::new(kinds),
            nothing: Arc::new(KindCache::new(nothing, applied.clone())),
            applied,
            applied_tx: watch::Sender::new(0),
        })
    }

    /// The store behind the caches.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The cache of a kind; an always empty one for kinds that are not stored.
    pub fn kind(&self, group: &str, resource: &str) -> Arc<KindCache> {
        self.try_kind(group, resource)
            .unwrap_or_else(|| self.nothing.clone())
    }

    /// The cache of a kind.
    pub fn try_kind(&self, group: &str, resource: &str) -> Option<Arc<KindCache>> {
        self.kinds.read().get(id(group, resource).as_str()).cloned()
    }

    /// All caches.
    pub fn all(&self) -> Vec<Arc<KindCache>> {
        self.kinds.read().values().cloned().collect()
    }

    /// Removes a kind's cache (its CRD was deleted). Its watches end.
    pub fn remove(&self, group: &str, resource: &str) {
        let removed = self.kinds.write().remove(id(group, resource).as_str());
        if let Some(cache) = removed {
            cache.close();
        }
    }

    /// Adds a kind at run time and fills its cache, in the place of the one that was there, whose watches end.
    pub async fn add(&self, spec: KindSpec) -> Result<(), WatchCacheError> {
        let spec = Arc::new(spec);
        let cache = Arc::new(KindCache::new(spec.clone(), self.applied.clone()));
        // Filled from a snapshot; events between the snapshot and the insertion are caught by reading again until the
        // applied revision did not move past the snapshot.
        loop {
            let range = self
                .store
                .range(RangeRequest::prefix(spec.prefix.clone()))
                .await?;
            let mut objects = Vec::with_capacity(range.kvs.len());
            for kv in range.kvs {
                match CachedObject::new(&spec, &kv.key, kv.value, kv.mod_revision.0) {
                    Ok(object) => objects.push(Arc::new(object)),
                    Err(error) => tracing::error!(%error, "stored object left out"),
                }
            }
            cache.reset(objects, range.revision.0);
            self.wait_for(range.revision.0).await?;
            let mut kinds = self.kinds.write();
            // The dispatcher holds this lock while it applies, so the comparison is exact.
            if self.applied.load(Ordering::Acquire) == range.revision.0 {
                let before = kinds.insert(id(&spec.group, &spec.resource).into_boxed_str(), cache);
                drop(kinds);
                if let Some(before) = before {
                    before.close();
                }
                return Ok(());
            }
        }
    }

    /// The revision up to which all caches are complete.
    pub fn revision(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Told each new [`Self::revision`].
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.applied_tx.subscribe()
    }

    /// Waits until the caches hold everything that the store had acknowledged when this was called.
    pub async fn wait_until_current(&self) -> Result<(), WatchCacheError> {
        let revision = self.store.revision().await?.0;
        self.wait_for(revision).await
    }

    /// Waits until the caches are at `revision`, at most three seconds.
    pub async fn wait_for(&self, revision: u64) -> Result<(), WatchCacheError> {
        if self.applied.load(Ordering::Acquire) >= revision {
            return Ok(());
        }
        let mut progress = self.applied_tx.subscribe();
        let waited = tokio::time::timeout(WAIT, progress.wait_for(|r| *r >= revision)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(WatchCacheError::Closed),
            Err(_) => Err(WatchCacheError::TooLargeResourceVersion {
                requested: revision,
                current: self.revision(),
            }),
        }
    }

    /// Reads the store and starts watching it. The returned stream belongs to [`Self::run`].
    pub async fn fill(&self) -> Result<WatchStream, WatchCacheError> {
        let range = self.store.range(RangeRequest::prefix(ROOT)).await?;
        let revision = range.revision;
        // Everything, also keys that are not ours: progress must reach each revision of the store.
        let stream = self
            .store
            .watch(Bytes::new(), Some(Revision(revision.0 + 1)))
            .await?;
        let kinds = self.kinds.write();
        let mut sorted: HashMap<&str, Vec<Arc<CachedObject>>> = HashMap::new();
        for kv in range.kvs {
            let Some((id, cache)) = kind_of(&kinds, &kv.key) else {
                continue;
            };
            match CachedObject::new(cache.spec(), &kv.key, kv.value, kv.mod_revision.0) {
                Ok(object) => sorted.entry(id).or_default().push(Arc::new(object)),
                Err(error) => tracing::error!(%error, "stored object left out"),
            }
        }
        for (id, cache) in kinds.iter() {
            cache.reset(sorted.remove(id.as_ref()).unwrap_or_default(), revision.0);
        }
        self.set_applied(revision.0);
        Ok(stream)
    }

    /// Feeds the caches until the store or `shutdown` ends it.
    pub async fn run(self: Arc<Self>, mut stream: WatchStream, shutdown: CancellationToken) {
        loop {
            let message = tokio::select! {
                () = shutdown.cancelled() => return,
                message = stream.next() => message,
            };
            match message {
                None => return,
                Some(WatchMessage::Progress(revision)) => self.set_applied(revision.0),
                Some(WatchMessage::Events(events)) => {
                    let Some(last) = events.last().map(|e| e.kv.mod_revision.0) else {
                        continue;
                    };
                    let kinds = self.kinds.read();
                    self.apply(&kinds, events);
                    self.set_applied(last);
                }
                Some(WatchMessage::Lagged) => match self.fill().await {
                    Ok(new) => stream = new,
                    Err(error) => {
                        tracing::error!(%error, "the store cannot be read; the watch cache has stopped");
                        return;
                    }
                },
            }
        }
    }

    fn set_applied(&self, revision: u64) {
        let before = self.applied.fetch_max(revision, Ordering::AcqRel);
        if revision > before {
            self.applied_tx.send_replace(revision);
        }
    }

    fn apply(&self, kinds: &HashMap<Box<str>, Arc<KindCache>>, events: Vec<keelson_store::Event>) {
        // Events of one kind are applied together; the order between kinds is not visible to anyone.
        let mut batches: Vec<(Arc<KindCache>, Vec<Change>)> = Vec::new();
        for event in events {
            let Some((_, cache)) = kind_of(kinds, &event.kv.key) else {
                continue;
            };
            let change = match event.kind {
                EventKind::Put => match put_of(cache, event.kv) {
                    Some(change) => change,
                    None => continue,
                },
                EventKind::Delete => {
                    let key = event.kv.key.slice(cache.spec().prefix.len()..);
                    Change::Delete(key, event.kv.mod_revision.0)
                }
            };
            match batches.iter_mut().find(|(c, _)| Arc::ptr_eq(c, cache)) {
                Some((_, changes)) => changes.push(change),
                None => batches.push((cache.clone(), vec![change])),
            }
        }
        for (cache, changes) in batches {
            cache.apply(changes);
        }
    }
}

fn put_of(cache: &KindCache, kv: KeyValue) -> Option<Change> {
    match CachedObject::new(cache.spec(), &kv.key, kv.value, kv.mod_revision.0) {
        Ok(object) => Some(Change::Put(Arc::new(object))),
        Err(error) => {
            tracing::error!(%error, "stored object left out");
            None
        }
    }
}

/// The cache that a key belongs to. Core kinds have no group in the key; no group is named like a core resource.
fn kind_of<'a>(
    kinds: &'a HashMap<Box<str>, Arc<KindCache>>,
    key: &[u8],
) -> Option<(&'a str, &'a Arc<KindCache>)> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix(ROOT)?;
    let (first, tail) = rest.split_once('/')?;
    let mut id = smallvec::SmallVec::<[u8; 96]>::new();
    id.push(b'/');
    id.extend_from_slice(first.as_bytes());
    let core = std::str::from_utf8(&id)
        .ok()
        .and_then(|id| kinds.get_key_value(id));
    let found = core.or_else(|| {
        let (second, _) = tail.split_once('/')?;
        id.clear();
        id.extend_from_slice(first.as_bytes());
        id.push(b'/');
        id.extend_from_slice(second.as_bytes());
        kinds.get_key_value(std::str::from_utf8(&id).ok()?)
    })?;
    Some((found.0, found.1))
}
