//! What can go wrong in a store.

use crate::{LeaseId, Revision};

/// An operation on the store failed; the message names the operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The revision asked for has been compacted away.
    #[error("revision {requested} has been compacted; the oldest is {compacted}")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The compaction mark.
        compacted: Revision,
    },
    /// The revision asked for has not happened yet.
    #[error("revision {requested} is in the future; the newest is {current}")]
    FutureRevision {
        /// What was asked for.
        requested: Revision,
        /// The newest revision.
        current: Revision,
    },
    /// The lease does not exist or has expired.
    #[error("lease {0:?} not found")]
    LeaseNotFound(LeaseId),
    /// The disk is full: reads go on, writes are refused until there is room.
    #[error("the store's disk is full: {0}")]
    NoSpace(String),
    /// The data directory is of a newer version, or damaged.
    #[error("the data directory {path} cannot be used: {problem}")]
    Unusable {
        /// The directory.
        path: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The backend failed.
    #[error("store {operation} failed")]
    Backend {
        /// The operation, e.g. `commit`.
        operation: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store has been shut down.
    #[error("the store is closed")]
    Closed,
}
