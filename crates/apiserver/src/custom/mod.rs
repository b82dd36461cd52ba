//! Custom resources: a CustomResourceDefinition becomes rows of the kind table, a schema and a cache.
//!
//! Structural schemas prune, default and validate. Rules of `x-kubernetes-validations` are compiled with the row and run on
//! objects that are otherwise valid; errors about what an update does not change do not refuse it. With
//! `conversion.strategy: Webhook` only the storage version is served.

mod controller;
mod definition;
mod evaluate;
mod formats;
mod rows;
mod rules;
mod schema;
mod validate;

pub(crate) use controller::{reconcile, run};
pub(crate) use definition::validate_definition;
pub(crate) use rows::unsupported;
pub(crate) use rules::RuleNode;
pub(crate) use validate::validate;
