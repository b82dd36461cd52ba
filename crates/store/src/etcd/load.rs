//! Making an etcd of a snapshot.
//!
//! etcd gives out revisions itself, one for each transaction, so the snapshot is replayed: at each revision that some key
//! was created or changed, a transaction that writes the key, at all others one that writes a marker. The last one removes
//! the marker. While the marker is there, the load is not complete: no API server takes such an etcd, and the same load
//! goes on where it ended.

use std::collections::BTreeMap;

use bytes::Bytes;
use etcd_client::{LeaseGrantOptions, PutOptions, Txn, TxnOp};
use futures::future::try_join_all;

use super::error::store_error;
use super::store::EtcdStore;
use super::watch::unsigned;
use crate::snapshot::Snapshot;
use crate::{Error, Revision, Store};

/// Present while a load is not complete. Its value names the snapshot.
pub(super) const MARKER: &str = "/keelson/load";
/// Marker writes on their way at a time.
const AT_ONCE: u64 = 64;
/// The revision of an etcd that nobody has written to.
const EMPTY: u64 = 1;

/// One write of the replay.
struct Write {
    key: Bytes,
    value: Bytes,
    lease: i64,
}

impl EtcdStore {
    /// Makes this etcd be `snapshot`: same keys, same revisions, compacted at its revision. `progress` sees the revision
    /// reached.
    ///
    /// etcd must be empty, or hold a part of the same snapshot from an interrupted load: `Error::Unusable` otherwise. What
    /// the snapshot has at revision 1, which is etcd's revision when empty, gets revision 2.
    pub async fn load(
        &self,
        snapshot: &Snapshot,
        progress: &(dyn Fn(Revision) + Send + Sync),
    ) -> Result<(), Error> {
        let plan = plan(snapshot);
        let end = plan
            .keys()
            .next_back()
            .copied()
            .unwrap_or(EMPTY)
            .max(snapshot.revision.0);
        let Some(name) = self.claim(snapshot, end).await? else {
            return self.compact(Revision(end)).await;
        };
        self.load_leases(snapshot).await?;
        let mut at = self.newest().await?;
        let mut steps = plan.range(at + 1..).peekable();
        while at < end {
            let next = steps.peek().map_or(end, |(revision, _)| **revision).min(end);
            if at + 1 < next {
                self.fill(&name, at, next - 1).await?;
                at = next - 1;
            } else {
                let writes = match steps.next_if(|(revision, _)| **revision == next) {
                    Some((_, writes)) => writes.as_slice(),
                    None => &[],
                };
                self.step(writes, next, &name, next == end).await?;
                at = next;
            }
            progress(Revision(at));
        }
        self.compact(Revision(end)).await
    }

    /// Checks that etcd is ours to fill; the marker's value, or `None` when it is filled already.
    async fn claim(&self, snapshot: &Snapshot, end: u64) -> Result<Option<String>, Error> {
        let name = format!(
            "snapshot at revision {} of {} keys, {} leases",
            snapshot.revision,
            snapshot.kvs.len(),
            snapshot.leases.len()
        );
        let unusable = |problem: String| Error::Unusable {
            path: "etcd".to_owned(),
            problem,
        };
        match self.get(MARKER.as_bytes(), None).await? {
            Some(kv) if kv.value == name.as_bytes() => return Ok(Some(name)),
            Some(kv) => {
                let other = String::from_utf8_lossy(&kv.value).into_owned();
                return Err(unusable(format!(
                    "it holds a part of another load ({other}); empty it, or repeat that one"
                )));
            }
            None => {}
        }
        let revision = self.newest().await?;
        if revision == end && Snapshot::take(self).await?.kvs == snapshot.kvs {
            return Ok(None);
        }
        if revision != EMPTY {
            return Err(unusable(format!(
                "it is not empty: its revision is {revision}; a snapshot needs an etcd that nobody has written to"
            )));
        }
        // Revision 2 belongs to the snapshot, so the marker comes with the first step.
        Ok(Some(name))
    }

    async fn load_leases(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let known = self.leases().await?;
        for (lease, ttl) in &snapshot.leases {
            if known.iter().any(|(id, _)| id == lease) {
                continue;
            }
            let ttl = i64::try_from(*ttl).unwrap_or(i64::MAX);
            let options = LeaseGrantOptions::new().with_id(lease.0);
            let granted = self.lease_client().grant(ttl, Some(options)).await;
            granted.map_err(|error| store_error("grant a lease", None, error))?;
        }
        Ok(())
    }

    /// Writes the marker until the revision is `through`. Order among these writes means nothing.
    async fn fill(&self, name: &str, mut at: u64, through: u64) -> Result<(), Error> {
        while at < through {
            let count = AT_ONCE.min(through - at);
            let writes = (0..count).map(|_| {
                let txn = Txn::new().and_then([TxnOp::put(MARKER, name, None)]);
                self.write("load", None, txn)
            });
            try_join_all(writes).await?;
            at += count;
        }
        self.expect(through).await
    }

    /// The transaction of one revision.
    async fn step(&self, writes: &[Write], revision: u64, name: &str, last: bool) -> Result<(), Error> {
        let mut operations: Vec<TxnOp> = writes
            .iter()
            .map(|write| {
                let options = PutOptions::new().with_lease(write.lease);
                TxnOp::put(write.key.as_ref(), write.value.as_ref(), Some(options))
            })
            .collect();
        if !last {
            operations.push(TxnOp::put(MARKER, name, None));
        } else if revision > EMPTY + 1 {
            operations.push(TxnOp::delete(MARKER, None));
        } else if operations.is_empty() {
            // Two writes that left nothing behind: etcd makes no revision of nothing.
            self.write(
                "load",
                None,
                Txn::new().and_then([TxnOp::put(MARKER, name, None)]),
            )
            .await?;
            self.write("load", None, Txn::new().and_then([TxnOp::delete(MARKER, None)]))
                .await?;
            return Ok(());
        }
        let response = self.write("load", None, Txn::new().and_then(operations)).await?;
        let reached = response.header().map_or(0, |header| unsigned(header.revision()));
        check(reached, revision)
    }

    async fn expect(&self, revision: u64) -> Result<(), Error> {
        check(self.newest().await?, revision)
    }

    /// Whether a load into this etcd was begun and not completed.
    pub(super) async fn refuse_partial(&self) -> Result<(), Error> {
        if self.get(MARKER.as_bytes(), None).await?.is_none() {
            return Ok(());
        }
        Err(Error::Unusable {
            path: "etcd".to_owned(),
            problem: "a migration or restore into it was interrupted; repeat the command to complete it"
                .to_owned(),
        })
    }
}

fn check(reached: u64, wanted: u64) -> Result<(), Error> {
    if reached == wanted {
        return Ok(());
    }
    Err(Error::Unusable {
        path: "etcd".to_owned(),
        problem: format!(
            "it is at revision {reached} where the load is at {wanted}: something else writes to it; \
             stop that, empty etcd and begin again"
        ),
    })
}

/// What to write at which revision. A key that changed after its creation is created first, without its value.
fn plan(snapshot: &Snapshot) -> BTreeMap<u64, Vec<Write>> {
    let mut plan: BTreeMap<u64, Vec<Write>> = BTreeMap::new();
    for kv in &snapshot.kvs {
        let created = kv.create_revision.0.max(EMPTY + 1);
        let modified = kv.mod_revision.0.max(EMPTY + 1);
        let lease = kv.lease.map_or(0, |lease| lease.0);
        if created < modified {
            plan.entry(created).or_default().push(Write {
                key: kv.key.clone(),
                value: Bytes::new(),
                lease: 0,
            });
        }
        plan.entry(modified).or_default().push(Write {
            key: kv.key.clone(),
            value: kv.value.clone(),
            lease,
        });
    }
    plan
}
