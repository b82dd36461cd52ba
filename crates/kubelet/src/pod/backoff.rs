//! Exponential back-off per key on the wall clock, as client-go's flowcontrol has it.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

#[derive(Clone, Debug)]
struct Entry {
    backoff: Duration,
    updated: Timestamp,
}

/// Delays that double with every failure of a key, and are forgotten after twice the longest delay.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    initial: Duration,
    max: Duration,
    entries: HashMap<String, Entry>,
}

impl Default for Backoff {
    /// Crash loops and image pulls: 10 s to 5 min.
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(10),
            max: Duration::from_secs(300),
            entries: HashMap::new(),
        }
    }
}

impl Backoff {
    /// The current delay of `key`, and how much of it remains when it counts from `event`; `None` when it is over.
    pub(crate) fn remaining(
        &self,
        key: &str,
        event: Timestamp,
        now: Timestamp,
    ) -> Option<(Duration, Duration)> {
        let entry = self.entries.get(key)?;
        if self.expired(entry, event) {
            return None;
        }
        let elapsed = Duration::try_from(now.duration_since(event)).unwrap_or_default();
        let left = entry
            .backoff
            .checked_sub(elapsed)
            .filter(|left| !left.is_zero())?;
        Some((entry.backoff, left))
    }

    /// As [`Self::remaining`], counted from the last failure.
    pub(crate) fn remaining_since_update(&self, key: &str, now: Timestamp) -> Option<(Duration, Duration)> {
        let updated = self.entries.get(key)?.updated;
        self.remaining(key, updated, now)
    }

    /// Counts a failure of `key`; `event` is when what failed ended.
    pub(crate) fn next(&mut self, key: &str, event: Timestamp, now: Timestamp) {
        let known = self.entries.get(key).filter(|entry| !self.expired(entry, event));
        let backoff = known.map_or(self.initial, |entry| (entry.backoff * 2).min(self.max));
        self.entries.insert(
            key.to_owned(),
            Entry {
                backoff,
                updated: now,
            },
        );
    }

    /// Forgets `key`.
    pub(crate) fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }

    fn expired(&self, entry: &Entry, event: Timestamp) -> bool {
        let age = event.duration_since(entry.updated);
        age > SignedDuration::try_from(self.max * 2).unwrap_or(SignedDuration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn delays_double_to_the_limit_and_are_forgotten_after_a_long_good_run() {
        let mut backoff = Backoff::default();
        assert_eq!(
            backoff.remaining("a", at(0), at(0)),
            None,
            "the first restart is immediate"
        );
        let mut now = 0;
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            backoff.next("a", at(now), at(now));
            let (delay, left) = backoff.remaining("a", at(now + 1), at(now + 3)).unwrap();
            assert_eq!((delay.as_secs(), left.as_secs()), (expected, expected - 2));
            assert_eq!(
                backoff.remaining("a", at(now), at(now + expected as i64)),
                None,
                "it ends on time"
            );
            now += 400;
        }
        assert_eq!(backoff.remaining("a", at(now + 601), at(now + 601)), None);
        backoff.next("a", at(now + 601), at(now + 601));
        assert_eq!(
            backoff
                .remaining("a", at(now + 601), at(now + 601))
                .unwrap()
                .0
                .as_secs(),
            10
        );
    }
}
