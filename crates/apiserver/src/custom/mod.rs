//! Custom resources: a CustomResourceDefinition becomes rows of the kind table, a schema and a cache.
//!
//! Structural schemas prune, default and validate, what clients send and what is read from the store, with the schema of the
//! moment. Rules of `x-kubernetes-validations` are compiled with the row and run on objects that are otherwise valid; errors
//! about what an update does not change do not refuse it. Objects are stored in the storage version and converted to others
//! by changing `apiVersion` or by a webhook.

mod approval;
mod columns;
mod conditions;
mod controller;
mod crossing;
mod declared;
mod definition;
mod evaluate;
mod formats;
mod jsonpath;
mod names;
mod row;
mod rows;
mod rules;
mod schema;
mod shape;
mod stored;
mod validate;
mod webhook;

pub(crate) use columns::{cells, definitions};
pub(crate) use conditions::marked_for_deletion;
pub(crate) use controller::Definitions;
pub(crate) use crossing::Crossing;
pub(crate) use definition::validate_definition;
pub(crate) use row::{CustomRow, ScalePaths};
pub(crate) use rules::RuleNode;
pub(crate) use shape::{apply_defaults, is_custom, prune_request};
pub(crate) use stored::{note_storage_version, validate_stored_versions};
pub(crate) use validate::validate;
