//! In-process read access to everything stored, for admission, authorization and the server itself: served from the watch
//! cache without parsing, without a request.

use std::sync::Arc;

use tokio::sync::watch;

use crate::watch_cache::{CacheSet, CachedObject, KindCache, WatchCacheError};

/// All cached kinds. Cheap to clone.
#[derive(Clone)]
pub struct Resources {
    caches: Arc<CacheSet>,
}

impl Resources {
    /// Reads through these caches.
    pub fn new(caches: Arc<CacheSet>) -> Self {
        Self { caches }
    }

    /// The caches themselves.
    pub fn caches(&self) -> &Arc<CacheSet> {
        &self.caches
    }

    /// A reader of one kind by group and plural, e.g. `("rbac.authorization.k8s.io", "roles")`. A kind that is not served reads
    /// as empty.
    pub fn resource(&self, group: &str, resource: &str) -> Reader {
        Reader {
            cache: self.caches.kind(group, resource),
            caches: self.caches.clone(),
        }
    }
}

/// Reads one kind. `namespace` is empty for cluster-scoped kinds.
#[derive(Clone)]
pub struct Reader {
    cache: Arc<KindCache>,
    caches: Arc<CacheSet>,
}

impl Reader {
    /// The object as the cache has it. [`CachedObject::value`] parses at most once per version and keeps the result;
    /// [`CachedObject::parse`] parses and does not keep it.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<CachedObject>> {
        self.cache.get(namespace, name)
    }

    /// The object, after waiting until the cache has everything that was written before this call.
    pub async fn get_latest(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<CachedObject>>, WatchCacheError> {
        self.caches.wait_until_current().await?;
        Ok(self.cache.get(namespace, name))
    }

    /// All objects, of one namespace or (`None`) of all, in key order.
    pub fn list(&self, namespace: Option<&str>) -> Vec<Arc<CachedObject>> {
        self.cache.list(namespace)
    }

    /// Revision of the kind's last change: an index built from [`Self::list`] is valid while this stays the same. Read it
    /// before listing.
    pub fn version(&self) -> u64 {
        self.cache.version()
    }

    /// Told the new [`Self::version`] after each change of the kind.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.cache.changes()
    }
}
