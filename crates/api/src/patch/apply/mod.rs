//! Server-side apply (KEP-555): who owns which field, and what applying or updating does to that.
//!
//! Pure functions on objects; the caller decodes, normalizes, defaults, validates and stores. Rules and texts are those
//! of upstream's field manager on structured-merge-diff, driven by our schemas. Left out on purpose: conversion of
//! field sets between API versions (the sets of managers of another version are kept as they are).

mod configuration;
mod field_set;
mod managed;
mod manager;
mod merge;
mod track;
mod typed;

pub use configuration::merge_configuration;
pub use field_set::{FieldSet, ParseError, PathElement};
pub use managed::{Managed, ManagedEntry, Operation};
pub use manager::{Applied, Request, apply, reset_fields};
pub use track::track_update;
