//! `/metrics` under upstream's names, labels and buckets.
//!
//! Each part registers what it counts with one [`Registry`] per server; what can be read when it is asked for (objects,
//! the store's size) is only read then. Not there: `apiserver_request_sli_duration_seconds` and everything of etcd's
//! client that has no meaning for the embedded store.

mod requests;
mod server;

pub(crate) use requests::Observed;
pub(crate) use server::Metrics;

/// Where a server's parts register their metrics.
pub(crate) type Registry = prometheus::Registry;

/// Registers a collector; names and labels are constants.
pub(crate) fn register<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> C {
    registry
        .register(Box::new(collector.clone()))
        .expect("invariant: every name is registered once");
    collector
}
