//! What every part of Keelson needs to be a Kubernetes API client: shared informers with indexes, work queues with
//! rate limits, a worker loop, event recording and leader election, over the `kube` crate.
//!
//! Invariants: a cache only moves forward in the order of the server's events; a handler sees every change of the cache
//! exactly once and runs while the cache already shows it; nothing here sleeps to wait for something that can be awaited.

mod events;
mod informer;
mod leader_election;
mod name;
mod transport;
mod worker;
mod workqueue;

pub use events::{EventRecorder, EventSource, EventType, object_reference};
pub use informer::{Change, Index, Informer, InformerOptions, InformerTask};
pub use leader_election::{LeaderElectionConfig, run_as_leader};
pub use name::NamespacedName;
pub use transport::{
    Error as TransportError, client_from_kubeconfig, client_from_service, component_client, user_agent_layer,
};
pub use worker::{Reconciled, run_workers};
pub use workqueue::{RateLimit, WorkQueue};
