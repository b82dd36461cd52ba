//! Taking a snapshot of a running store.

use std::collections::HashSet;

use bytes::Bytes;

use crate::{Error, KeyValue, LeaseId, RangeRequest, Revision, Store};

/// How often a snapshot is taken again because leases changed meanwhile.
const ATTEMPTS: usize = 5;

/// The state of a store at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision.
    pub revision: Revision,
    /// Leases and their full time in seconds, by id.
    pub leases: Vec<(LeaseId, u64)>,
    /// All keys, in key order.
    pub kvs: Vec<KeyValue>,
}

impl Snapshot {
    /// Takes a snapshot. Values are shared with the store where it holds them in memory.
    pub async fn take(store: &dyn Store) -> Result<Self, Error> {
        for _ in 0..ATTEMPTS {
            let range = store.range(RangeRequest::prefix(Bytes::new())).await?;
            let mut leases = store.leases().await?;
            leases.sort();
            let known: HashSet<LeaseId> = leases.iter().map(|(lease, _)| *lease).collect();
            // A lease that ended since the read takes its keys along: they are read again without them.
            if range
                .kvs
                .iter()
                .all(|kv| kv.lease.is_none_or(|lease| known.contains(&lease)))
            {
                return Ok(Self {
                    revision: range.revision,
                    leases,
                    kvs: range.kvs,
                });
            }
        }
        Err(Error::Backend {
            operation: "snapshot",
            source: "leases end faster than the store can be read; try again".into(),
        })
    }
}
