//! The worker loop of a controller: take a key, reconcile, requeue with backoff on failure.

use std::error::Error;
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

/// How many conflicts of a key in a row are nothing to worry about.
const PATIENCE: u32 = 5;

/// Whether the API server refused a write because the object changed or was made meanwhile.
fn is_conflict(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    std::iter::from_fn(|| {
        let error = next?;
        next = error.source();
        Some(error)
    })
    .filter_map(|error| error.downcast_ref::<kube::Error>())
    .any(|error| matches!(error, kube::Error::Api(status) if status.code == 409))
}

/// Runs `workers` workers on `queue` until `shutdown`; returns when all of them have ended.
///
/// `reconcile` is level-triggered: it gets a key and nothing else. An error is logged and the key comes again with
/// backoff; a panic counts as an error. A lost race with another writer (409) is normal, and is no warning before it
/// happens [`PATIENCE`] times in a row.
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
    E: Error + 'static,
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
                        if is_conflict(&error) && queue.num_requeues(&key) < PATIENCE {
                            tracing::debug!(controller = name, %key, %error, "another writer was faster; trying again");
                        } else {
                            tracing::warn!(controller = name, %key, %error, "reconciliation failed; trying again");
                        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failure {
        #[error("cannot write")]
        Write(#[source] kube::Error),
        #[error("conflict")]
        Other,
    }

    #[test]
    fn conflicts_are_found_below_other_errors() {
        let refusal = |code: u16| {
            let status = kube::core::Status::failure("no", "Conflict").with_code(code);
            kube::Error::Api(Box::new(status))
        };
        assert!(is_conflict(&refusal(409)));
        assert!(is_conflict(&Failure::Write(refusal(409))));
        assert!(!is_conflict(&Failure::Write(refusal(403))));
        assert!(!is_conflict(&Failure::Other));
    }
}
