//! The contract of a CRI runtime, checked over its socket. It runs against the built-in runtime; everything that a test
//! does through [`fixture::Node`]'s clients holds for any other runtime too.
//!
//! Needs root. Every test has directories, a cgroup and sandboxes of its own and leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod figures;
mod fixture;
mod lifecycle;
mod processes;
mod recovery;
mod resources;
mod settings;
mod streaming;
