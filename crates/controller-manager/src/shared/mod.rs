//! What several controllers need: expectations, ownership, pods, hashes, revisions.

pub mod api_error;
mod error;
pub mod expectations;
pub mod hash;
pub mod history;
mod object;
pub mod owner;
pub mod pod;
pub mod pod_control;
pub mod pod_rank;
pub mod selector;
pub mod watch_owned;

pub use error::ReconcileError;
pub use object::Object;
