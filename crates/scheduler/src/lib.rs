//! kube-scheduler: finds a node for every pod that has none and binds it.
//!
//! Follows upstream's scheduling framework: one plugin per file in `plugins`, one explicit list of them
//! (`plugins::register_all`), three queues (active, backoff, unschedulable) with queueing hints, a cache with assumed pods and a
//! snapshot that shares unchanged nodes. A scheduling cycle is a function of the snapshot; binding runs beside it.
//!
//! Invariants: a pod is in at most one place (a queue, in flight, or the cache); what is assumed is either confirmed by the
//! API server or forgotten; nothing polls, every wait is for an event or a deadline.

mod binding;
mod cache;
mod config;
mod configuration;
mod events;
mod failure;
mod framework;
mod plugins;
mod queue;
mod schedule_one;
mod scheduler;
#[cfg(test)]
mod testing;

pub use config::{Config, Error, ExtensionPoint, PluginSet, Profile};
pub use configuration::{Configuration, ConfigurationError};
pub use scheduler::run;
