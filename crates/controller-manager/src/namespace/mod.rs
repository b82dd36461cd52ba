//! namespace-controller: empties namespaces that are being deleted and lets them go.
//!
//! Everything that discovery knows is deleted, pods first (KEP-5080). What remains is reported in conditions and watched:
//! the namespace is looked at again when a resource has no objects left in it, not from time to time.

mod conditions;
mod content;
mod sync;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use keelson_client::{NamespacedName, WorkQueue};

use crate::Context;

/// `--concurrent-namespace-syncs`.
const WORKERS: usize = 10;

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let queue = WorkQueue::default();
    let namespaces = context.informer::<Namespace>();
    let sink = queue.clone();
    namespaces.on_change(move |change| {
        let namespace = change.object().as_ref();
        if namespace.metadata.deletion_timestamp.is_some() {
            sink.add(NamespacedName::of(namespace));
        }
    });
    let syncer = Arc::new(sync::Syncer::new(context.clone(), queue.clone()));
    context
        .work(queue, WORKERS, syncer, |syncer, key| async move {
            syncer.sync(&key).await
        })
        .await;
}
