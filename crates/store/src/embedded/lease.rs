//! Leases: their keys, their deadlines, and the thread that tells the committer when one has run out.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::{Error, LeaseId};

/// How long an expiry that could not be written (disk full) waits before it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The longest time that a lease may have; more is shortened to this (etcd's limit).
const MAX_TTL: u64 = 9_000_000_000;

struct Lease {
    ttl: u64,
    deadline: Instant,
    keys: BTreeSet<Bytes>,
}

#[derive(Default)]
struct Table {
    leases: HashMap<i64, Lease>,
    deadlines: BTreeSet<(Instant, i64)>,
    closed: bool,
}

/// All leases.
#[derive(Default)]
pub(super) struct Leases {
    table: Mutex<Table>,
    changed: Condvar,
}

impl Leases {
    /// An id that no lease has.
    pub(super) fn new_id(&self) -> i64 {
        let table = self.table.lock();
        loop {
            let id = (RandomState::new().build_hasher().finish() >> 1).cast_signed();
            if id != 0 && !table.leases.contains_key(&id) {
                return id;
            }
        }
    }

    /// Starts a lease with its full time.
    pub(super) fn insert(&self, id: i64, ttl: u64) {
        let mut table = self.table.lock();
        let deadline = deadline(ttl);
        table.leases.insert(
            id,
            Lease {
                ttl,
                deadline,
                keys: BTreeSet::new(),
            },
        );
        table.deadlines.insert((deadline, id));
        self.changed.notify_one();
    }

    /// Gives a lease its full time again.
    pub(super) fn keep_alive(&self, id: i64) -> Result<(), Error> {
        let mut table = self.table.lock();
        let table = &mut *table;
        let lease = table
            .leases
            .get_mut(&id)
            .ok_or(Error::LeaseNotFound(LeaseId(id)))?;
        if lease.deadline <= Instant::now() {
            return Err(Error::LeaseNotFound(LeaseId(id)));
        }
        let old = lease.deadline;
        lease.deadline = deadline(lease.ttl);
        table.deadlines.remove(&(old, id));
        table.deadlines.insert((lease.deadline, id));
        Ok(())
    }

    /// Whether the lease exists; one whose time is up exists until its expiry is committed.
    pub(super) fn exists(&self, id: i64) -> bool {
        self.table.lock().leases.contains_key(&id)
    }

    pub(super) fn expired(&self, id: i64) -> bool {
        self.table
            .lock()
            .leases
            .get(&id)
            .is_some_and(|l| l.deadline <= Instant::now())
    }

    /// The keys attached to a lease, in order.
    pub(super) fn keys(&self, id: i64) -> Vec<Bytes> {
        self.table
            .lock()
            .leases
            .get(&id)
            .map(|l| l.keys.iter().cloned().collect())
            .unwrap_or_default()
    }

    pub(super) fn remove(&self, id: i64) {
        let mut table = self.table.lock();
        if let Some(lease) = table.leases.remove(&id) {
            table.deadlines.remove(&(lease.deadline, id));
        }
    }

    /// Moves a key from one lease to another; 0 is none.
    pub(super) fn attach(&self, key: &Bytes, from: i64, to: i64) {
        if from == to {
            return;
        }
        let mut table = self.table.lock();
        if let Some(lease) = table.leases.get_mut(&from) {
            lease.keys.remove(key);
        }
        if let Some(lease) = table.leases.get_mut(&to) {
            lease.keys.insert(key.clone());
        }
    }

    /// Id and time of every lease.
    pub(super) fn list(&self) -> Vec<(i64, u64)> {
        self.table
            .lock()
            .leases
            .iter()
            .map(|(id, lease)| (*id, lease.ttl))
            .collect()
    }

    /// An expiry could not be committed: it comes again a little later.
    pub(super) fn retry_expiry(&self, id: i64) {
        let mut table = self.table.lock();
        if table.leases.contains_key(&id) {
            table.deadlines.insert((Instant::now() + RETRY, id));
            self.changed.notify_one();
        }
    }

    /// Waits for leases to run out and calls `expire` for each, until closed.
    pub(super) fn run_timer(&self, mut expire: impl FnMut(i64)) {
        let mut table = self.table.lock();
        while !table.closed {
            match table.deadlines.first().copied() {
                None => self.changed.wait(&mut table),
                Some((deadline, id)) if deadline <= Instant::now() => {
                    table.deadlines.remove(&(deadline, id));
                    parking_lot::MutexGuard::unlocked(&mut table, || expire(id));
                }
                Some((deadline, _)) => {
                    let _ = self.changed.wait_until(&mut table, deadline); // why it woke shows in the table
                }
            }
        }
    }

    pub(super) fn close(&self) {
        self.table.lock().closed = true;
        self.changed.notify_all();
    }
}

fn deadline(ttl: u64) -> Instant {
    Instant::now() + Duration::from_secs(ttl.clamp(1, MAX_TTL))
}
