//! What a controller has asked for and not yet seen in its cache. Without it a reconciliation on a cache that lags behind
//! the controller's own writes would make pods twice.
//!
//! Kept by the owner's UID, so a new owner of the same name starts clean. Deletions are tracked by the UIDs of the dependents;
//! what is not seen within five minutes is forgotten, as upstream does.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Upstream's `ExpectationsTimeout`. An owner whose expectations are not satisfied must be looked at again after it: what
/// came and went while the watch was interrupted is never seen.
pub const TIMEOUT: Duration = Duration::from_secs(300);

struct Entry {
    creations: usize,
    deletions: HashSet<String>,
    at: Instant,
}

/// The expectations of one controller.
#[derive(Default)]
pub struct Expectations {
    entries: Mutex<HashMap<String, Entry>>,
}

impl Expectations {
    /// Whether the cache shows all that `owner` is waiting for, or nothing is waited for.
    pub fn satisfied(&self, owner: &str) -> bool {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get(owner) else {
            return true;
        };
        let satisfied = entry.creations == 0 && entry.deletions.is_empty();
        if satisfied || entry.at.elapsed() > TIMEOUT {
            entries.remove(owner);
            return true;
        }
        false
    }

    /// `count` creations more will be seen.
    pub fn expect_creations(&self, owner: &str, count: usize) {
        self.change(owner, |entry| entry.creations += count);
    }

    /// The deletion of each of these UIDs will be seen.
    pub fn expect_deletions(&self, owner: &str, uids: impl IntoIterator<Item = String>) {
        self.change(owner, |entry| entry.deletions.extend(uids));
    }

    /// A creation was seen, or it failed.
    pub fn creation_observed(&self, owner: &str) {
        self.creations_skipped(owner, 1);
    }

    /// `count` creations were not even tried.
    pub fn creations_skipped(&self, owner: &str, count: usize) {
        if let Some(entry) = self.entries.lock().get_mut(owner) {
            entry.creations = entry.creations.saturating_sub(count);
        }
    }

    /// The deletion of `uid` was seen, or it failed.
    pub fn deletion_observed(&self, owner: &str, uid: &str) {
        if let Some(entry) = self.entries.lock().get_mut(owner) {
            entry.deletions.remove(uid);
        }
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &str) {
        self.entries.lock().remove(owner);
    }

    fn change(&self, owner: &str, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.entries.lock();
        let entry = entries.entry(owner.to_owned()).or_insert_with(|| Entry {
            creations: 0,
            deletions: HashSet::new(),
            at: Instant::now(),
        });
        entry.at = Instant::now();
        change(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_happens_twice_while_the_cache_lags() {
        let expectations = Expectations::default();
        assert!(expectations.satisfied("a"));
        expectations.expect_creations("a", 2);
        expectations.creation_observed("a");
        assert!(!expectations.satisfied("a"));
        assert!(expectations.satisfied("b"), "each owner for itself");
        expectations.creation_observed("a");
        assert!(expectations.satisfied("a"));
        expectations.creation_observed("a");
        expectations.expect_deletions("a", ["x".into(), "y".into()]);
        expectations.deletion_observed("a", "x");
        expectations.deletion_observed("a", "x");
        assert!(
            !expectations.satisfied("a"),
            "the same deletion seen twice is one"
        );
        tokio::time::advance(TIMEOUT + Duration::from_secs(1)).await;
        assert!(expectations.satisfied("a"), "forgotten after the time-out");
    }
}
