//! Patches: JSON patch, JSON merge patch, strategic merge patch and server-side apply, as functions on values.

pub mod apply;
mod json;
mod strategic;

pub use json::{MAX_OPERATIONS, json_patch, merge_patch};
pub use strategic::strategic_merge_patch;
