//! Evaluation: a plan made once per expression, and a machine that walks it and counts what it costs.

mod activation;
mod cost;
mod machine;
mod plan;

pub use activation::{Activation, Evaluated, NoVariables, Variables};
pub(crate) use plan::Plan;
