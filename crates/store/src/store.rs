//! The contract of every backend: a flat, ordered key space with one revision counter, in etcd's terms.

use std::fmt;
use std::ops::Bound;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::Error;

/// The store's logical clock: one step per committed write, never reused, starting at 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a lease; keys attached to a lease are deleted when it expires or is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// One key at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, e.g. `/registry/pods/default/web-0`.
    pub key: Bytes,
    /// The stored bytes, shared and never copied by the store.
    pub value: Bytes,
    /// Revision of the write that created this key (since its last deletion).
    pub create_revision: Revision,
    /// Revision of the last write to this key.
    pub mod_revision: Revision,
    /// The lease that the key is attached to.
    pub lease: Option<LeaseId>,
}

/// What must be true of the key for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Write in any case.
    None,
    /// The key must not exist.
    Absent,
    /// The key must exist and its `mod_revision` must be this one.
    ModRevision(Revision),
}

/// The outcome of a conditional write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The write is on disk. `previous` is what it replaced or deleted.
    Committed {
        /// Revision of this write.
        revision: Revision,
        /// The key before the write.
        previous: Option<KeyValue>,
    },
    /// The precondition did not hold; nothing was written. `current` is the key as it is at `revision`.
    Conflict {
        /// The store's revision when the precondition was judged.
        revision: Revision,
        /// The key as it is.
        current: Option<KeyValue>,
    },
}

/// A range read: keys in `[start, end)`, in key order.
#[derive(Clone, Debug)]
pub struct RangeRequest {
    /// First key, inclusive.
    pub start: Bytes,
    /// End, exclusive; `Bound::Unbounded` reads to the end of the key space.
    pub end: Bound<Bytes>,
    /// At most this many keys; 0 means all.
    pub limit: usize,
    /// Read as of this revision; `None` is the newest.
    pub revision: Option<Revision>,
    /// Leave `kvs` empty and only count.
    pub count_only: bool,
}

impl RangeRequest {
    /// Everything that starts with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = match prefix_end(&start) {
            Some(end) => Bound::Excluded(end),
            None => Bound::Unbounded,
        };
        Self {
            start,
            end,
            limit: 0,
            revision: None,
            count_only: false,
        }
    }
}

/// The first key after all keys that start with `prefix`; `None` when there is no such key.
pub fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Some(end.into());
        }
    }
    None
}

/// The answer to a range read.
#[derive(Clone, Debug)]
pub struct RangeResponse {
    /// The keys found, in order, at most `limit`.
    pub kvs: Vec<KeyValue>,
    /// How many keys are in the whole range, regardless of `limit`.
    pub count: usize,
    /// The store's revision at the time of the read (not the revision asked for).
    pub revision: Revision,
}

/// One change, delivered to watchers in revision order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Put or delete.
    pub kind: EventKind,
    /// For a put the new key; for a delete the key with an empty value and `mod_revision` of the deletion.
    pub kv: KeyValue,
    /// The key before the change, where it existed.
    pub previous: Option<KeyValue>,
}

/// What an [`Event`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The key was created or changed.
    Put,
    /// The key was deleted.
    Delete,
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchMessage {
    /// All events of one or more whole revisions, in order.
    Events(Vec<Event>),
    /// Everything up to this revision has been delivered.
    Progress(Revision),
    /// The watch is over: its position was compacted or it lagged behind; list again. Always the last message.
    Lagged,
}

/// Where a backend's watch messages come from, one per running watch.
#[async_trait]
pub trait WatchSource: Send {
    /// The next message; `None` when the store has shut down or after [`WatchMessage::Lagged`]. Must be cancel safe.
    async fn next(&mut self) -> Option<WatchMessage>;

    /// See [`WatchStream::request_progress`].
    fn request_progress(&mut self) -> bool;
}

/// A running watch. Dropping it ends it. Cancel safe.
pub struct WatchStream {
    source: Box<dyn WatchSource>,
}

impl WatchStream {
    /// A stream that delivers what arrives at `receiver`, without progress on request; for backends.
    pub fn new(receiver: mpsc::Receiver<WatchMessage>) -> Self {
        Self::from_source(Box::new(receiver))
    }

    /// A stream that delivers what `source` gives; for backends.
    pub fn from_source(source: Box<dyn WatchSource>) -> Self {
        Self { source }
    }

    /// The next message; `None` when the store has shut down.
    pub async fn next(&mut self) -> Option<WatchMessage> {
        self.source.next().await
    }

    /// Asks for a [`WatchMessage::Progress`] once everything committed so far has been delivered; costs no I/O. False when the
    /// backend cannot give one.
    pub fn request_progress(&mut self) -> bool {
        self.source.request_progress()
    }
}

#[async_trait]
impl WatchSource for mpsc::Receiver<WatchMessage> {
    async fn next(&mut self) -> Option<WatchMessage> {
        self.recv().await
    }

    fn request_progress(&mut self) -> bool {
        false
    }
}

/// A versioned key-value store. Every method is cancel safe; a cancelled write may or may not have happened.
///
/// Guarantees, held against every backend by the contract suite: an acknowledged write has been fsynced; revisions are
/// dense and totally ordered; a read that starts after an acknowledged write sees it; a watch from revision R delivers every
/// event with `mod_revision >= R` exactly once and in order, or ends in [`WatchMessage::Lagged`].
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The revision of the newest committed write.
    async fn revision(&self) -> Result<Revision, Error>;

    /// Reads one key. `Error::Compacted` and `Error::FutureRevision` as for `range`.
    async fn get(&self, key: &[u8], revision: Option<Revision>) -> Result<Option<KeyValue>, Error>;

    /// Reads a range. A revision below the compaction mark is `Error::Compacted`, one above the newest `Error::FutureRevision`.
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error>;

    /// Writes a key if the precondition holds.
    async fn put(
        &self,
        key: Bytes,
        value: Bytes,
        precondition: Precondition,
        lease: Option<LeaseId>,
    ) -> Result<WriteOutcome, Error>;

    /// Deletes a key if the precondition holds; deleting an absent key is a `Conflict` with no `current`.
    async fn delete(&self, key: Bytes, precondition: Precondition) -> Result<WriteOutcome, Error>;

    /// Watches all keys under `prefix`. `from` is the first revision wanted (`None`: only what comes next).
    /// A `from` at or below the compaction mark is `Error::Compacted`. With `from`, a [`WatchMessage::Progress`] says when the
    /// watch has caught up.
    async fn watch(&self, prefix: Bytes, from: Option<Revision>) -> Result<WatchStream, Error>;

    /// Forgets history before `revision`: the newest version of each key at or before it stays. A revision at or below the
    /// mark changes nothing; one above the newest is `Error::FutureRevision`.
    async fn compact(&self, revision: Revision) -> Result<(), Error>;

    /// Grants a lease of `ttl_seconds`.
    async fn lease_grant(&self, ttl_seconds: u64) -> Result<LeaseId, Error>;

    /// Extends a lease to its full time again. `Error::LeaseNotFound` when it expired.
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), Error>;

    /// Ends a lease and deletes its keys, one revision for all of them.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), Error>;

    /// Every lease with its full time in seconds, in no order.
    async fn leases(&self) -> Result<Vec<(LeaseId, u64)>, Error>;

    /// Bytes on disk.
    async fn size(&self) -> Result<u64, Error>;
}
