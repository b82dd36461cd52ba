//! The worker loop of a controller: take a key, reconcile, requeue with backoff on failure.

use std::fmt::Display;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::WorkQueue;

/// What comes after a successful reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconciled {
    /// Nothing until the next change.
    Done,
    /// Look again after this time.
    After(Duration),
}

/// Runs `workers` workers on `queue` until `shutdown`; returns when all of them have ended.
///
/// `reconcile` is level-triggered: it gets a key and nothing else. An error is logged and the key comes again with
/// backoff; a panic counts as an error.
pub async fn run_workers<T, F, Fut, E>(
    name: &'static str,
    queue: WorkQueue<T>,
    workers: usize,
    shutdown: CancellationToken,
    reconcile: F,
) where
    T: Eq + Hash + Clone + Display + Send + Sync + 'static,
    F: Fn(T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Reconciled, E>> + Send,
    E: Display,
{
    let tracker = TaskTracker::new();
    let reconcile = Arc::new(reconcile);
    for _ in 0..workers {
        let (queue, reconcile) = (queue.clone(), reconcile.clone());
        tracker.spawn(async move {
            while let Some(key) = queue.get().await {
                let attempt = std::panic::AssertUnwindSafe(reconcile(key.clone())).catch_unwind().await;
                match attempt {
                    Ok(Ok(Reconciled::Done)) => queue.forget(&key),
                    Ok(Ok(Reconciled::After(delay))) => {
                        queue.forget(&key);
                        queue.add_after(key.clone(), delay);
                    }
                    Ok(Err(error)) => {
                        tracing::warn!(controller = name, %key, %error, "reconciliation failed; trying again");
                        queue.add_rate_limited(key.clone());
                    }
                    Err(_) => {
                        tracing::error!(controller = name, %key, "reconciliation panicked; trying again");
                        queue.add_rate_limited(key.clone());
                    }
                }
                queue.done(&key);
            }
        });
    }
    tracker.close();
    shutdown.cancelled().await;
    queue.shut_down();
    tracker.wait().await;
}
