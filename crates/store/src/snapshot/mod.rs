//! The state of a store at one revision, outside of any store: what a backup holds, and how state moves between backends.
//!
//! A snapshot has every key with both its revisions, and every lease with its time. History before its revision is not in
//! it: a store made of it answers like one that was compacted at that revision, and goes on counting from there, so that
//! every `resourceVersion` that a client holds keeps its meaning.

mod file;
mod take;

pub use file::FileError;
pub use take::Snapshot;
