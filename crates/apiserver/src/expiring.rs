//! Answers that are remembered for a while, by the hash of what was asked.

use std::time::{Duration, Instant};

use dashmap::DashMap;
use sha2::{Digest, Sha256};

/// So many answers are remembered, as upstream's caches of webhooks.
const MOST: usize = 8192;

/// Remembers values until they expire. Keys are hashed, so that no secret stays in memory.
pub(crate) struct Expiring<V> {
    entries: DashMap<[u8; 32], (Instant, V)>,
}

impl<V> Default for Expiring<V> {
    fn default() -> Self {
        Self {
            entries: DashMap::new(),
        }
    }
}

impl<V: Clone> Expiring<V> {
    /// The key of a question in parts.
    pub(crate) fn key(parts: &[&str]) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    /// What was remembered and has not expired.
    pub(crate) fn get(&self, key: &[u8; 32]) -> Option<V> {
        let entry = self.entries.get(key)?;
        (Instant::now() < entry.0).then(|| entry.1.clone())
    }

    /// Remembers a value for this long; nothing when that is zero.
    pub(crate) fn insert(&self, key: [u8; 32], value: V, lifetime: Duration) {
        let now = Instant::now();
        let Some(until) = now.checked_add(lifetime).filter(|until| *until > now) else {
            return;
        };
        if self.entries.len() >= MOST {
            self.entries.retain(|_, (until, _)| *until > now);
            if self.entries.len() >= MOST {
                self.entries.clear();
            }
        }
        self.entries.insert(key, (until, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_and_forgotten() {
        let cache: Expiring<u32> = Expiring::default();
        let key = Expiring::<u32>::key(&["a", "b"]);
        assert_ne!(key, Expiring::<u32>::key(&["ab", ""]));
        assert_eq!(cache.get(&key), None);
        cache.insert(key, 1, Duration::from_secs(60));
        assert_eq!(cache.get(&key), Some(1));
        cache.insert(key, 2, Duration::ZERO);
        assert_eq!(cache.get(&key), Some(1));
        for n in 0..MOST {
            let number = n.to_string();
            cache.insert(Expiring::<u32>::key(&[&number]), 0, Duration::from_secs(60));
        }
        assert!(cache.entries.len() <= MOST);
    }
}
