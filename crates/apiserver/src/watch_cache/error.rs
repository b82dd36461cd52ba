//! What can go wrong in the watch cache.

/// Reading through the cache failed.
#[derive(Debug, thiserror::Error)]
pub enum WatchCacheError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] keelson_store::Error),
    /// A stored value is not a JSON object with metadata.
    #[error("stored object {key} cannot be read: {problem}")]
    Corrupt {
        /// Its key.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// The cache did not reach the revision in time.
    #[error("Too large resource version: {requested}, current: {current}")]
    TooLargeResourceVersion {
        /// What was asked for.
        requested: u64,
        /// Where the cache is.
        current: u64,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Closed,
}
