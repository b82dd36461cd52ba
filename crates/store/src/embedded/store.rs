//! The store itself: answers reads from the index, hands writes to the committer.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};

use crate::embedded::Options;
use crate::embedded::committer::{SealedQueue, Shared, run_checkpointer, run_committer};
use crate::embedded::directory::{self, Directory, disk_error};
use crate::embedded::hub::Hub;
use crate::embedded::index::Found;
use crate::embedded::recovery::{Recovered, recover};
use crate::embedded::stage::{Reply, Request};
use crate::embedded::watch::EmbeddedWatch;
use crate::{
    Error, KeyValue, LeaseId, Precondition, RangeRequest, RangeResponse, Revision, Store, WatchStream,
    WriteOutcome,
};

/// The embedded store: everything in one data directory, locked while the store is open.
///
/// [`EmbeddedStore::close`] shuts it down in order; dropping it does the same and waits for its threads (milliseconds).
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    running: Mutex<Option<Running>>,
    queue: RwLock<Option<mpsc::Sender<Request>>>,
    path: std::path::PathBuf,
}

/// What ends with the store.
struct Running {
    threads: Vec<JoinHandle<()>>,
    _directory: Directory,
}

impl EmbeddedStore {
    /// Opens the store in `path`, creating the directory where there is none. Reads and checks all of it: blocking, up to 1 s
    /// per 100 MB on a busy machine.
    ///
    /// `Error::Unusable` says what is wrong with the directory (in use, newer, damaged) and what to do.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Arc<Self>, Error> {
        let directory = Directory::open(path.as_ref())?;
        let Recovered {
            index,
            leases,
            checkpoint,
            journal,
            sealed,
        } = recover(&directory, &options)?;
        let hub = Hub::new(index.current);
        let shared = Arc::new(Shared {
            index: RwLock::new(index),
            hub: Mutex::new(hub),
            leases,
            checkpoint,
            sealed: SealedQueue::default(),
            store_id: directory.store_id,
            watch_buffer: options.watch_buffer,
        });
        for (segment, revision) in sealed {
            shared.sealed.push(segment, revision);
        }
        let (queue, receiver) = mpsc::channel(options.queue.max(1));
        let store = Self {
            running: Mutex::new(Some(Running {
                threads: Vec::new(),
                _directory: directory,
            })),
            queue: RwLock::new(Some(queue.clone())),
            path: path.as_ref().to_owned(),
            shared,
        };
        let shared = store.shared.clone();
        store.spawn("store-commit", move || run_committer(&shared, journal, receiver))?;
        let shared = store.shared.clone();
        store.spawn("store-checkpoint", move || run_checkpointer(&shared))?;
        let shared = store.shared.clone();
        store.spawn("store-leases", move || {
            // A closed queue means that the store shuts down, and then the timer is told so, too.
            shared
                .leases
                .run_timer(|id| drop(queue.blocking_send(Request::LeaseExpire { id })));
        })?;
        Ok(Arc::new(store))
    }

    /// Ends all watches, finishes what was queued and releases the directory. Later calls answer `Error::Closed`.
    pub async fn close(self: &Arc<Self>) {
        let store = self.clone();
        // A panic in there would be one of the store's threads; it has been reported by the panic hook.
        let _ = tokio::task::spawn_blocking(move || store.shut_down()).await;
    }

    /// Waits until no full journal segment is left to checkpoint; returns at once when the last attempt failed.
    pub async fn wait_for_checkpoint(&self) {
        let shared = self.shared.clone();
        // The closure only waits; it ends with the store.
        let _ = tokio::task::spawn_blocking(move || shared.sealed.wait_until_at_most(0)).await;
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .map_err(|e| Error::Backend {
                operation: "start thread",
                source: Box::new(e),
            })?;
        if let Some(running) = &mut *self.running.lock() {
            running.threads.push(thread);
        }
        Ok(())
    }

    fn shut_down(&self) {
        let Some(running) = self.running.lock().take() else {
            return;
        };
        self.shared.hub.lock().close();
        self.shared.leases.close();
        self.shared.sealed.close();
        drop(self.queue.write().take());
        for thread in running.threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
        self.shared.checkpoint.close();
    }

    async fn submit<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.read().clone().ok_or(Error::Closed)?;
        queue.send(request(reply)).await.map_err(|_| Error::Closed)?;
        drop(queue);
        answer.await.map_err(|_| Error::Closed)?
    }

    fn check_open(&self) -> Result<(), Error> {
        if self.queue.read().is_some() {
            Ok(())
        } else {
            Err(Error::Closed)
        }
    }

    /// Fetches values that are not in memory. A value that was purged meanwhile means that `at` was compacted.
    async fn resolve(&self, found: Vec<Found>, at: u64) -> Result<Vec<KeyValue>, Error> {
        if !found.iter().any(Found::needs_disk) {
            return Ok(found.into_iter().filter_map(Found::in_memory).collect());
        }
        let shared = self.shared.clone();
        let fetched = tokio::task::spawn_blocking(move || {
            let mut fetch = |id| shared.checkpoint.fetch(id);
            found
                .into_iter()
                .map(|f| f.resolve(&mut fetch))
                .collect::<Result<Option<Vec<KeyValue>>, Error>>()
        });
        let fetched = fetched.await.map_err(|e| Error::Backend {
            operation: "read",
            source: Box::new(e),
        })??;
        fetched.ok_or_else(|| Error::Compacted {
            requested: Revision(at),
            compacted: Revision(self.shared.index.read().compacted),
        })
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.shut_down();
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn revision(&self) -> Result<Revision, Error> {
        self.check_open()?;
        Ok(Revision(self.shared.index.read().current))
    }

    async fn get(&self, key: &[u8], revision: Option<Revision>) -> Result<Option<KeyValue>, Error> {
        self.check_open()?;
        let (found, at) = {
            let index = self.shared.index.read();
            let at = index.readable(revision)?;
            (index.get(key, at), at)
        };
        match found {
            None => Ok(None),
            Some(found) => Ok(self.resolve(vec![found], at).await?.pop()),
        }
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        self.check_open()?;
        let (scan, at, current) = {
            let index = self.shared.index.read();
            let at = index.readable(request.revision)?;
            let scan = index.scan(
                &request.start,
                &request.end,
                at,
                request.limit,
                request.count_only,
            );
            (scan, at, index.current)
        };
        let kvs = self.resolve(scan.found, at).await?;
        Ok(RangeResponse {
            kvs,
            count: scan.count,
            revision: Revision(current),
        })
    }

    async fn put(
        &self,
        key: Bytes,
        value: Bytes,
        precondition: Precondition,
        lease: Option<LeaseId>,
    ) -> Result<WriteOutcome, Error> {
        self.submit(|reply| Request::Put {
            key,
            value,
            precondition,
            lease,
            reply,
        })
        .await
    }

    async fn delete(&self, key: Bytes, precondition: Precondition) -> Result<WriteOutcome, Error> {
        self.submit(|reply| Request::Delete {
            key,
            precondition,
            reply,
        })
        .await
    }

    async fn watch(&self, prefix: Bytes, from: Option<Revision>) -> Result<WatchStream, Error> {
        let watch = EmbeddedWatch::new(self.shared.clone(), prefix, from.map(|r| r.0))?;
        Ok(WatchStream::from_source(Box::new(watch)))
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.submit(|reply| Request::Compact {
            revision: revision.0,
            reply,
        })
        .await
    }

    async fn lease_grant(&self, ttl_seconds: u64) -> Result<LeaseId, Error> {
        self.submit(|reply| Request::LeaseGrant {
            ttl: ttl_seconds,
            reply,
        })
        .await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.check_open()?;
        self.shared.leases.keep_alive(lease.0)
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.submit(|reply| Request::LeaseRevoke { id: lease.0, reply })
            .await
    }

    async fn leases(&self) -> Result<Vec<(LeaseId, u64)>, Error> {
        self.check_open()?;
        let leases = self.shared.leases.list();
        Ok(leases.into_iter().map(|(id, ttl)| (LeaseId(id), ttl)).collect())
    }

    async fn size(&self) -> Result<u64, Error> {
        self.check_open()?;
        directory::size(&self.path).map_err(|e| disk_error("measure data directory", e))
    }
}
