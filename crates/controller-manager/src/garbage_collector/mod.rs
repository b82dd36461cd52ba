//! garbage-collector-controller: deletes what is owned only by objects that are gone, and carries out the finalizers
//! `foregroundDeletion` and `orphan`.
//!
//! [`graph`] is the pure graph of references over all objects, fed by [`monitor`]'s metadata watches; [`collect`] acts on
//! it, and only after asking the server itself: a cache that lags deletes nothing. It differs from upstream's in keeping
//! dependents by the UID of their owner, known or not, in place of virtual nodes.

mod collect;
mod graph;
mod monitor;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::Context;

/// `--concurrent-gc-syncs`.
const WORKERS: usize = 20;

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let monitors = Arc::new(monitor::Monitors::new(context.client()));
    context.spawn(monitors.clone().run(context.shutdown()));
    if !context.before_shutdown(monitors.complete()).await {
        return;
    }
    let collector = Arc::new(collect::Collector::new(
        monitors.clone(),
        context.recorder("garbage-collector-controller"),
    ));
    context
        .work(
            monitors.queue.clone(),
            WORKERS,
            collector,
            |collector, task| async move { collector.carry_out(task).await },
        )
        .await;
}
