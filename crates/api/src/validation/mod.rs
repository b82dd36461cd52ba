//! Validation: upstream's field paths, error types and texts, kind by kind.
//!
//! Values are normalized and defaulted. Enumerations are checked from the schema, everything else by code.
//! The text of a refused change of a pod's spec leaves out upstream's dump of Go structs.
//!
//! - `apply`: the table of kinds
//! - `metadata`, `enums`, `rules`: what kinds share
//! - `pod`, `container`, `volume`, `scheduling`: pods and pod templates; `pod_update`: what may change
//! - the others: the API groups

mod apply;
mod autoscaling;
mod batch;
mod container;
mod core;
mod enums;
mod metadata;
mod networking;
mod pod;
mod pod_update;
mod rbac;
mod registration;
mod rules;
mod scheduling;
mod service;
mod storage;
#[cfg(test)]
mod tests;
mod volume;
mod workloads;

pub use apply::{validate_create, validate_status_update, validate_update};
pub use metadata::{validate_metadata, validate_metadata_update};
