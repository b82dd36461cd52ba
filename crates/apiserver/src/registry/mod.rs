//! The registry: one generic engine that creates, reads, changes and deletes objects of every kind.
//!
//! The order of a write is upstream's: decode, normalize, default, mutating admission, strategy, allocation, validation,
//! validating admission, compare-and-swap, and again from the read when somebody else was faster.

mod context;
pub mod continue_token;
mod convert;
mod create;
mod delete;
mod engine;
mod hooks;
mod kind;
mod leases;
mod managed_fields;
pub mod metadata;
pub mod model;
pub mod options;
pub mod patches;
mod select;
mod selectable;
mod service;
mod update;

pub use context::Context;
pub use convert::Conversion;
pub use delete::Deleted;
pub use engine::{Registry, served, status_of, store_status};
pub use kind::{Kind, KindSchema, KindSource, KindTable, Traits, builtin_specs};
pub use select::Selection;
pub use service::ServiceAllocator;
pub use update::{Update, Updated};
