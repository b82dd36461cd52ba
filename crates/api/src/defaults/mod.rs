//! Defaulting: what upstream's `SetDefaults_*` functions and API conversions fill in, kind by kind.
//!
//! Values are expected to be normalized. Nothing is allocated where nothing is missing.
//!
//! - `apply`: the table of kinds
//! - `pod`, `volume`: pods and pod templates
//! - `core`, `workloads`, `networking`, `registration`, `others`: the API groups

mod apply;
mod core;
mod networking;
mod others;
mod pod;
mod registration;
#[cfg(test)]
mod tests;
mod volume;
mod workloads;

pub use apply::{apply, apply_kind};
