//! kube-controller-manager: the controllers that make the cluster's objects come true.
//!
//! [`run`] elects a leader, then starts every controller of the [`registration`] list with a [`Context`]: shared informers
//! (one per kind), a client with the controller's own identity and an event recorder. Each controller is a
//! level-triggered reconciler in its own module; what several of them need stands once, in [`shared`].
//!
//! To add a controller: write `<name>/mod.rs` with a `start(Context)` and add one line to `registration.rs`.

mod config;
mod context;
mod registration;
mod run;
pub mod shared;

mod bootstrap_signer;
mod clusterrole_aggregation;
mod cronjob;
mod csr;
mod daemonset;
mod deployment;
mod disruption;
mod disruption_target;
mod endpoints;
mod endpointslice;
mod endpointslice_mirroring;
mod ephemeral_volume;
mod garbage_collector;
mod job;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod persistent_volume;
mod pod_gc;
mod podautoscaler;
mod replicaset;
mod resource_quota;
mod root_ca;
mod served;
mod service_account_token;
mod service_cidrs;
mod serviceaccount;
mod statefulset;
mod storage_protection;
mod token_cleaner;
mod ttl;
mod ttl_after_finished;

pub use config::{ClientFactory, Config, LeaderElection};
pub use context::Context;
pub use registration::{CONTROLLERS, Controller};
pub use run::{Error, run};
