//! The store: each call one etcd request.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error as EtcdError, GetOptions, GetResponse, KvClient,
    LeaseClient, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse, WatchOptions,
};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::{Meaning, meaning, store_error};
use super::options::EtcdOptions;
use super::watch::{Follower, to_key_value, unsigned};
use crate::{
    Error, KeyValue, LeaseId, Precondition, RangeRequest, RangeResponse, Revision, Store, WatchStream,
    WriteOutcome,
};

/// Keys of one answer; longer ranges are read in pages at one revision.
const PAGE: usize = 1_000;
/// A page of the largest objects that an API server stores, and more.
const MAX_MESSAGE: usize = 2 << 30;
/// Pause before a request is repeated.
const RETRY: Duration = Duration::from_millis(100);
/// The least key that etcd takes; as an end it means "to the last key".
const NUL: &[u8] = b"\0";

/// A store in etcd. Cheap to clone; clones are the same store.
#[derive(Clone)]
pub struct EtcdStore {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    kv: KvClient,
    timeout: Duration,
    /// The last read of the newest revision and when it was sent: see [`EtcdStore::newest`].
    newest: Mutex<Option<(Instant, u64)>>,
    /// The newest compaction mark that is known; etcd may be further.
    compacted: AtomicU64,
    closed: CancellationToken,
    watches: TaskTracker,
}

impl EtcdStore {
    /// Connects and waits until etcd answers, at most `options.timeout`.
    pub async fn connect(options: &EtcdOptions) -> Result<Self, Error> {
        let connect = options.connect_options().await?;
        let client = Client::connect(&options.endpoints, Some(connect))
            .await
            .map_err(|error| store_error("connect to etcd", None, error))?;
        let kv = client
            .kv_client()
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let inner = Inner {
            client,
            kv,
            timeout: options.timeout,
            newest: Mutex::new(None),
            compacted: AtomicU64::new(0),
            closed: CancellationToken::new(),
            watches: TaskTracker::new(),
        };
        let store = Self {
            inner: Arc::new(inner),
        };
        store.newest().await?;
        Ok(store)
    }

    /// As [`Self::connect`], for an etcd that holds a whole store: `Error::Unusable` when a load into it was interrupted.
    pub async fn open(options: &EtcdOptions) -> Result<Self, Error> {
        let store = Self::connect(options).await?;
        store.refuse_partial().await?;
        Ok(store)
    }

    pub(super) fn lease_client(&self) -> LeaseClient {
        self.inner.client.lease_client()
    }

    /// Ends all watches and waits for them. Later calls answer `Error::Closed`.
    pub async fn close(&self) {
        self.inner.closed.cancel();
        self.inner.watches.close();
        self.inner.watches.wait().await;
    }

    /// The newest revision, read after this call began. Callers that come while a read is on its way share the next.
    pub(super) async fn newest(&self) -> Result<u64, Error> {
        let asked = Instant::now();
        let mut newest = self.inner.newest.lock().await;
        if let Some((sent, revision)) = *newest
            && sent >= asked
        {
            return Ok(revision);
        }
        let sent = Instant::now();
        let response = self
            .read("revision", NUL, GetOptions::new().with_count_only())
            .await?;
        let revision = header_revision(&response);
        *newest = Some((sent, revision));
        Ok(revision)
    }

    /// A linearizable read, repeated while no member answers and there is time.
    async fn read(
        &self,
        operation: &'static str,
        key: &[u8],
        options: GetOptions,
    ) -> Result<GetResponse, Error> {
        let result = self
            .patiently(
                |meaning| matches!(meaning, Meaning::Unavailable | Meaning::NotSent),
                || {
                    let (mut kv, options) = (self.inner.kv.clone(), options.clone());
                    async move { kv.get(key, Some(options)).await }
                },
            )
            .await?;
        match result {
            Ok(response) => Ok(response),
            Err(error) => Err(store_error(operation, None, error)),
        }
    }

    /// A transaction, repeated only while it was certainly not sent.
    pub(super) async fn write(
        &self,
        operation: &'static str,
        lease: Option<LeaseId>,
        txn: Txn,
    ) -> Result<TxnResponse, Error> {
        let result = self
            .patiently(
                |meaning| matches!(meaning, Meaning::NotSent),
                || {
                    let (mut kv, txn) = (self.inner.kv.clone(), txn.clone());
                    async move { kv.txn(txn).await }
                },
            )
            .await?;
        result.map_err(|error| store_error(operation, lease, error))
    }

    /// Repeats `request` while its error may be repeated, within the timeout.
    async fn patiently<T, F: Future<Output = Result<T, EtcdError>>>(
        &self,
        may_repeat: impl Fn(Meaning) -> bool,
        request: impl Fn() -> F,
    ) -> Result<Result<T, EtcdError>, Error> {
        let end = Instant::now() + self.inner.timeout;
        loop {
            if self.inner.closed.is_cancelled() {
                return Err(Error::Closed);
            }
            let result = tokio::select! {
                () = self.inner.closed.cancelled() => return Err(Error::Closed),
                result = tokio::time::timeout_at(end, request()) => result,
            };
            match result {
                Ok(Err(error)) if may_repeat(meaning(&error)) && Instant::now() + RETRY < end => {
                    // Nothing tells when a member is back.
                    tokio::time::sleep(RETRY).await;
                }
                Ok(result) => return Ok(result),
                Err(_) => {
                    return Err(Error::Backend {
                        operation: "request to etcd",
                        source: format!(
                            "no answer within {:?}; is etcd running and has it a leader?",
                            self.inner.timeout
                        )
                        .into(),
                    });
                }
            }
        }
    }

    /// Runs a conditional write and reads its outcome.
    async fn conditional(
        &self,
        operation: &'static str,
        key: &Bytes,
        compares: Vec<Compare>,
        write: TxnOp,
        lease: Option<LeaseId>,
    ) -> Result<WriteOutcome, Error> {
        let txn = Txn::new()
            .when(compares)
            .and_then([write])
            .or_else([TxnOp::get(key.as_ref(), None)]);
        let response = self.write(operation, lease, txn).await?;
        let revision = Revision(response.header().map_or(0, |header| unsigned(header.revision())));
        let first = response.op_responses().into_iter().next();
        Ok(match first {
            Some(TxnOpResponse::Put(mut put)) => WriteOutcome::Committed {
                revision,
                previous: put.take_prev_key().map(to_key_value),
            },
            Some(TxnOpResponse::Delete(mut deleted)) => WriteOutcome::Committed {
                revision,
                previous: deleted.take_prev_kvs().pop().map(to_key_value),
            },
            Some(TxnOpResponse::Get(mut got)) => WriteOutcome::Conflict {
                revision,
                current: got.take_kvs().pop().map(to_key_value),
            },
            Some(TxnOpResponse::Txn(_)) | None => {
                return Err(Error::Backend {
                    operation,
                    source: "etcd answered a transaction without its result".into(),
                });
            }
        })
    }

    /// The error for a read at `revision`, which etcd refused.
    async fn refused_revision(&self, requested: Revision, error: Error) -> Error {
        let Error::Backend { source, .. } = &error else {
            return error;
        };
        match source.downcast_ref::<EtcdError>().map(meaning) {
            Some(Meaning::Compacted) => match self.compaction_mark(requested).await {
                Ok(compacted) => Error::Compacted { requested, compacted },
                Err(error) => error,
            },
            Some(Meaning::Future) => match self.newest().await {
                Ok(current) => Error::FutureRevision {
                    requested,
                    current: Revision(current),
                },
                Err(error) => error,
            },
            _ => error,
        }
    }

    /// A compaction mark above `requested`, which etcd refused. etcd tells its mark to a watch that starts before it, at its
    /// next look at such watches, ten times a second.
    async fn compaction_mark(&self, requested: Revision) -> Result<Revision, Error> {
        let known = self.inner.compacted.load(Ordering::Relaxed);
        if known > requested.0 {
            return Ok(Revision(known));
        }
        let options = WatchOptions::new().with_start_revision(1);
        let failed = |error| store_error("ask for the compaction mark", None, error);
        let mut watch = self.inner.client.watch_client();
        let mut stream = watch.watch(NUL, Some(options)).await.map_err(failed)?;
        loop {
            match stream.message().await.map_err(failed)? {
                Some(response) if response.compact_revision() > 0 => {
                    let mark = unsigned(response.compact_revision());
                    self.inner.compacted.fetch_max(mark, Ordering::Relaxed);
                    return Ok(Revision(mark));
                }
                Some(response) if response.created() && !response.canceled() => {}
                _ => return Ok(Revision(0)),
            }
        }
    }
}

fn header_revision(response: &GetResponse) -> u64 {
    response.header().map_or(0, |header| unsigned(header.revision()))
}

fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// What must hold in etcd's terms. An absent key has mod revision 0 there.
fn comparisons(key: &Bytes, precondition: Precondition) -> Vec<Compare> {
    match precondition {
        Precondition::None => vec![],
        Precondition::Absent => vec![Compare::create_revision(key.as_ref(), CompareOp::Equal, 0)],
        Precondition::ModRevision(revision) => vec![
            Compare::create_revision(key.as_ref(), CompareOp::Greater, 0),
            Compare::mod_revision(key.as_ref(), CompareOp::Equal, signed(revision)),
        ],
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn revision(&self) -> Result<Revision, Error> {
        self.newest().await.map(Revision)
    }

    async fn get(&self, key: &[u8], revision: Option<Revision>) -> Result<Option<KeyValue>, Error> {
        let options = GetOptions::new().with_revision(revision.map_or(0, signed));
        match (self.read("get", key, options).await, revision) {
            (Ok(mut response), _) => Ok(response.take_kvs().pop().map(to_key_value)),
            (Err(error), Some(revision)) => Err(self.refused_revision(revision, error).await),
            (Err(error), None) => Err(error),
        }
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        let end: Bytes = match &request.end {
            Bound::Excluded(end) => end.clone(),
            Bound::Included(end) => successor(end),
            Bound::Unbounded => Bytes::from_static(NUL),
        };
        let mut start = if request.start.is_empty() {
            Bytes::from_static(NUL)
        } else {
            request.start.clone()
        };
        let mut answer = RangeResponse {
            kvs: Vec::new(),
            count: 0,
            revision: Revision(0),
        };
        if request.end != Bound::Unbounded && start >= end {
            answer.revision = self.revision().await?;
            return Ok(answer);
        }
        let mut at = request.revision.map_or(0, signed);
        loop {
            let missing = match request.limit {
                0 => PAGE,
                limit => PAGE.min(limit - answer.kvs.len()),
            };
            let mut options = GetOptions::new()
                .with_range(end.as_ref())
                .with_revision(at)
                .with_limit(i64::try_from(missing).unwrap_or(i64::MAX));
            if request.count_only {
                options = options.with_count_only();
            }
            let mut page = match (self.read("range", &start, options).await, request.revision) {
                (Ok(page), _) => page,
                (Err(error), Some(revision)) => return Err(self.refused_revision(revision, error).await),
                (Err(error), None) => return Err(self.refused_revision(Revision(unsigned(at)), error).await),
            };
            if answer.revision == Revision(0) {
                answer.revision = Revision(header_revision(&page));
                answer.count = usize::try_from(page.count()).unwrap_or(0);
                // All pages show one state.
                at = request.revision.map_or(signed(answer.revision), signed);
            }
            let more = page.more();
            answer.kvs.extend(page.take_kvs().into_iter().map(to_key_value));
            let complete = request.limit != 0 && answer.kvs.len() >= request.limit;
            match answer.kvs.last() {
                Some(last) if more && !complete => start = successor(&last.key),
                _ => return Ok(answer),
            }
        }
    }

    async fn put(
        &self,
        key: Bytes,
        value: Bytes,
        precondition: Precondition,
        lease: Option<LeaseId>,
    ) -> Result<WriteOutcome, Error> {
        let options = PutOptions::new()
            .with_prev_key()
            .with_lease(lease.map_or(0, |lease| lease.0));
        let write = TxnOp::put(key.as_ref(), value.as_ref(), Some(options));
        let compares = comparisons(&key, precondition);
        self.conditional("put", &key, compares, write, lease).await
    }

    async fn delete(&self, key: Bytes, precondition: Precondition) -> Result<WriteOutcome, Error> {
        let mut compares = comparisons(&key, precondition);
        // Deleting what is not there is a conflict.
        compares.push(Compare::create_revision(key.as_ref(), CompareOp::Greater, 0));
        let write = TxnOp::delete(key.as_ref(), Some(DeleteOptions::new().with_prev_key()));
        self.conditional("delete", &key, compares, write, None).await
    }

    async fn watch(&self, prefix: Bytes, from: Option<Revision>) -> Result<WatchStream, Error> {
        if let Some(from) = from {
            // Refused here and not in the watch: a read just before the first revision fails where history is gone.
            let before = Revision(from.0.max(2) - 1);
            let options = GetOptions::new().with_count_only().with_revision(signed(before));
            if let Err(error) = self.read("watch", NUL, options).await {
                match self.refused_revision(from, error).await {
                    Error::FutureRevision { .. } => {}
                    error => return Err(error),
                }
            }
        }
        let newest = self.newest().await?;
        let (next, target) = match from {
            Some(from) => (from.0, Some(newest)),
            None => (newest + 1, None),
        };
        let (follower, watch) = Follower::new(self.clone(), prefix, next, target);
        let client = self.inner.client.watch_client();
        let task = follower.run(client, self.inner.closed.clone());
        if self.inner.watches.is_closed() {
            return Err(Error::Closed);
        }
        self.inner.watches.spawn(task);
        Ok(WatchStream::from_source(Box::new(watch)))
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let result = self
            .patiently(
                |meaning| matches!(meaning, Meaning::Unavailable | Meaning::NotSent),
                || {
                    let mut kv = self.inner.kv.clone();
                    async move { kv.compact(signed(revision), None).await }
                },
            )
            .await?;
        match result {
            Ok(_) => {
                self.inner.compacted.fetch_max(revision.0, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if matches!(meaning(&error), Meaning::Compacted) => Ok(()),
            Err(error) => Err(self
                .refused_revision(revision, store_error("compact", None, error))
                .await),
        }
    }

    async fn lease_grant(&self, ttl_seconds: u64) -> Result<LeaseId, Error> {
        let ttl = i64::try_from(ttl_seconds).unwrap_or(i64::MAX);
        let granted = self
            .patiently(
                |meaning| matches!(meaning, Meaning::NotSent),
                || {
                    let mut leases = self.inner.client.lease_client();
                    async move { leases.grant(ttl, None).await }
                },
            )
            .await?;
        granted
            .map(|lease| LeaseId(lease.id()))
            .map_err(|error| store_error("grant a lease", None, error))
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        let kept = self
            .patiently(
                |meaning| matches!(meaning, Meaning::Unavailable | Meaning::NotSent),
                || {
                    let mut leases = self.inner.client.lease_client();
                    // Making the keeper sends the first request and reads its answer; this is all of it.
                    async move { leases.keep_alive(lease.0).await.map(drop) }
                },
            )
            .await?;
        kept.map_err(|error| store_error("keep a lease alive", Some(lease), error))
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let revoked = self
            .patiently(
                |meaning| matches!(meaning, Meaning::NotSent),
                || {
                    let mut leases = self.inner.client.lease_client();
                    async move { leases.revoke(lease.0).await.map(drop) }
                },
            )
            .await?;
        revoked.map_err(|error| store_error("revoke a lease", Some(lease), error))
    }

    async fn leases(&self) -> Result<Vec<(LeaseId, u64)>, Error> {
        let again = |meaning| matches!(meaning, Meaning::Unavailable | Meaning::NotSent);
        let listed = self
            .patiently(again, || {
                let mut leases = self.inner.client.lease_client();
                async move { leases.leases().await }
            })
            .await?
            .map_err(|error| store_error("list leases", None, error))?;
        let mut leases = Vec::with_capacity(listed.leases().len());
        for lease in listed.leases() {
            let id = lease.id();
            let asked = self
                .patiently(again, || {
                    let mut leases = self.inner.client.lease_client();
                    async move { leases.time_to_live(id, None).await }
                })
                .await?
                .map_err(|error| store_error("read a lease", None, error))?;
            // One that ended since it was listed has no time left.
            if asked.ttl() >= 0 {
                leases.push((LeaseId(id), unsigned(asked.granted_ttl())));
            }
        }
        Ok(leases)
    }

    async fn size(&self) -> Result<u64, Error> {
        let status = self
            .patiently(
                |meaning| matches!(meaning, Meaning::Unavailable | Meaning::NotSent),
                || {
                    let mut maintenance = self.inner.client.maintenance_client();
                    async move { maintenance.status().await }
                },
            )
            .await?;
        let status = status.map_err(|error| store_error("read the size", None, error))?;
        Ok(unsigned(status.db_size()))
    }
}

/// The next key after `key`.
fn successor(key: &Bytes) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}
