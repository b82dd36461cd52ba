//! Settings of the embedded store.

/// Settings of the embedded store; the defaults are for production, the fields for tests and unusual machines.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Size at which a journal segment is checkpointed and removed, in bytes. Bounds replay time and the memory for superseded
    /// values. Default 8 MiB.
    pub segment_bytes: u64,
    /// The checkpoint engine's cache, in bytes. Default 2 MiB.
    pub checkpoint_cache_bytes: usize,
    /// Writes that may wait for the committer; more wait in their callers. Default 4096.
    pub queue: usize,
    /// Commits that may wait in a watch before it falls back to reading history. Default 128.
    pub watch_buffer: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 8 << 20,
            checkpoint_cache_bytes: 2 << 20,
            queue: 4096,
            watch_buffer: 128,
        }
    }
}
