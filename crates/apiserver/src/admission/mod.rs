//! Admission: what may be stored, judged and completed after authorization and before validation.

mod build;
mod plugin;

pub use build::build;
pub use plugin::{Attributes, Chain, MutatingPlugin, Notes, Operation, ValidatingPlugin};
