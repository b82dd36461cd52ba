//! Custom resources: a CustomResourceDefinition becomes rows of the kind table, a schema and a cache.
//!
//! Structural schemas prune, default and validate (required, enum, bounds, lengths, item counts, uniqueness of list keys is
//! left to apply). `pattern`, `format` and `x-kubernetes-validations` are not evaluated: creating a definition that uses them
//! answers with a warning. With `conversion.strategy: Webhook` only the storage version is served.

mod controller;
mod rows;
mod schema;
mod validate;

pub(crate) use controller::{reconcile, run};
pub(crate) use rows::unsupported;
pub(crate) use validate::validate;
