//! Store leases of objects that vanish by themselves (Events), shared by all objects of a minute.

use std::time::{Duration, Instant};

use keelson_store::{Error, LeaseId, Store};
use tokio::sync::Mutex;

/// A lease serves objects for this long before the next one is granted, as upstream's `--lease-reuse-duration-seconds`.
const REUSE: Duration = Duration::from_secs(60);

/// Gives out leases.
pub(super) struct EventLeases {
    ttl: Duration,
    last: Mutex<Option<(LeaseId, Instant)>>,
}

impl EventLeases {
    /// Leases of objects that live for `ttl`.
    pub(super) fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            last: Mutex::new(None),
        }
    }

    /// A lease that lives for at least the TTL from now on.
    pub(super) async fn lease(&self, store: &dyn Store) -> Result<LeaseId, Error> {
        let mut last = self.last.lock().await;
        if let Some((lease, granted)) = *last
            && granted.elapsed() < REUSE
        {
            return Ok(lease);
        }
        let lease = store.lease_grant(self.ttl.as_secs() + REUSE.as_secs()).await?;
        *last = Some((lease, Instant::now()));
        Ok(lease)
    }
}
