//! The node in the API: its registration, status and lease.

pub(crate) mod capacity;
pub(crate) mod lease;
mod register;
mod run;
mod status;

pub(crate) use run::{RuntimeState, run};
pub(crate) use status::VERSION as KUBELET_VERSION;
