//! Selectors of objects by labels and by fields, in upstream's syntax and with its error texts.

mod field;
mod label;
mod parser;

pub use field::{FieldRequirement, FieldSelector, FieldSelectorError};
pub use label::{LabelSelector, LabelSelectorError, Operator, Requirement};
