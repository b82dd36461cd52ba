//! Static knowledge: types, signatures of functions, the type checker, the validators of literals, the estimator of
//! costs.

mod checker;
mod cost;
mod literals;
mod signatures;
mod types;
mod unify;

pub(crate) use checker::{Scope, Typed, check};
pub use cost::CostEstimate;
pub(crate) use cost::{estimate, scale};
pub(crate) use literals::check_literals;
pub use types::Type;
