//! Expressions of admission: what they see, how they are compiled, and how they are run.
//!
//! The variables, types, budgets and texts are those of upstream's `admission/plugin/cel`. An [`Expression`] is compiled
//! once, when its webhook configuration or policy changes. Running it needs an [`Evaluator`], which borrows the request's
//! objects, computes `variables` when they are first used, and counts what everything costs. Questions to the authorizer
//! that cannot be answered at once are collected ([`Authority::settle`]), answered, and the evaluation is repeated: an
//! expression waits for nobody while it runs.

mod authority;
mod conditions;
mod environment;
mod evaluation;
mod expression;

pub(super) use authority::Authority;
pub(super) use conditions::{Conditions, Judgement};
pub(super) use environment::{Surroundings, environment};
pub(super) use evaluation::{Evaluator, Inputs};
pub(super) use expression::{Compiler, Expression, Returns, VariableSet};
