//! A bounded share of the runtime's blocking threads.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Runs blocking closures, at most as many at once as it was made for.
#[derive(Debug, Clone)]
pub(crate) struct BlockingPool {
    permits: Arc<Semaphore>,
}

impl BlockingPool {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(size.max(1))),
        }
    }

    /// Runs `work` on a blocking thread. When the returned future is dropped after the start, `work` still runs to
    /// its end and keeps its place in the pool until then.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .expect("invariant: the semaphore is never closed");
        let task = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        match task.await {
            Ok(result) => result,
            Err(e) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down and never started the closure: nothing may continue after this.
                Err(_) => std::future::pending().await,
            },
        }
    }
}
