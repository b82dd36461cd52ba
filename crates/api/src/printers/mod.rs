//! Tables as `kubectl get` shows them: the columns of every kind and the cells of every object, as upstream's printers have them.
//!
//! - `columns`: the columns, from a table of facts
//! - `rows`: which function fills a kind's cells
//! - `format`: durations, labels, lists
//! - the others: cells of kinds

mod autoscaler;
mod columns;
mod core;
mod format;
mod networking;
mod others;
mod pod;
mod rows;
mod storage;
#[cfg(test)]
mod tests;
mod workloads;

pub use columns::{Column, columns};
pub use format::{age, human_duration};
pub use rows::{row, row_conditions};
