//! Pods on this node: where they come from, the worker that each has, and the pure decisions that the worker follows.

pub(crate) mod actions;
pub(crate) mod admission;
pub(crate) mod allocation;
pub(crate) mod backoff;
pub(crate) mod cgroup;
pub(crate) mod conditions;
pub(crate) mod container_status;
pub(crate) mod handle;
pub(crate) mod manager;
pub(crate) mod pleg;
pub(crate) mod qos;
pub(crate) mod resize;
pub(crate) mod runtime_status;
pub(crate) mod spec;
pub(crate) mod static_pods;
pub(crate) mod status;
pub(crate) mod status_manager;
pub(crate) mod sync;
pub(crate) mod terminate;
pub(crate) mod worker;
