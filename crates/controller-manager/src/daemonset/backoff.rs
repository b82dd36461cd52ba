//! Failed pods are replaced with a growing delay per DaemonSet and node, so that a pod that fails at once does not spin.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Upstream's `failedPodsBackoff`: 1 s to 15 min.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// The delays that run.
#[derive(Default)]
pub(super) struct FailedPods {
    entries: Mutex<HashMap<(String, String), (Instant, Duration)>>,
}

impl FailedPods {
    /// How long the replacement on `node` still has to wait; `None` means now, and starts the next, longer delay.
    pub(super) fn wait(&self, set_uid: &str, node: &str) -> Option<Duration> {
        let mut entries = self.entries.lock();
        let now = Instant::now();
        entries.retain(|_, (since, delay)| now - *since < *delay + 2 * LONGEST);
        let key = (set_uid.to_owned(), node.to_owned());
        let Some((since, delay)) = entries.get_mut(&key) else {
            entries.insert(key, (now, FIRST));
            return None;
        };
        let waited = now - *since;
        if waited < *delay {
            return Some(*delay - waited);
        }
        (*since, *delay) = (now, (*delay * 2).min(LONGEST));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn delays_double() {
        let failed = FailedPods::default();
        assert_eq!(failed.wait("a", "n"), None);
        assert_eq!(failed.wait("a", "n"), Some(FIRST));
        assert_eq!(failed.wait("a", "m"), None);
        tokio::time::advance(FIRST).await;
        assert_eq!(failed.wait("a", "n"), None);
        assert_eq!(failed.wait("a", "n"), Some(2 * FIRST));
        tokio::time::advance(3 * LONGEST).await;
        assert_eq!(failed.wait("a", "n"), None);
        assert_eq!(failed.wait("a", "n"), Some(FIRST), "forgotten after a long rest");
    }
}
