//! What several controllers need: expectations, ownership, pods, hashes, revisions.

pub mod api_error;
mod error;
pub(crate) mod every_namespace;
pub mod expectations;
pub(crate) mod expiry;
pub mod hash;
pub mod history;
mod object;
pub mod owner;
pub mod pod;
pub mod pod_control;
pub mod pod_rank;
pub mod selector;
pub(crate) mod trim;
pub mod watch_owned;

pub use error::ReconcileError;
pub use object::Object;
