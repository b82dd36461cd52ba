//! The Common Expression Language as Kubernetes uses it: rules of CustomResourceDefinitions and expressions of
//! admission policies.
//!
//! [`Env`] declares variables, [`Env::compile`] parses, checks types and plans, [`Program::evaluate`] runs over
//! borrowed JSON without copying it. The language is cel-go's as Kubernetes v1.36 configures it: homogeneous
//! aggregate literals, cross-type numeric comparisons, optional types, two-variable comprehensions, and the libraries
//! lists, regex, URLs, quantities, IP, CIDR, format, semver, sets, strings (version 2) and authorizer. Messages,
//! positions and costs follow cel-go, because users read them and because the estimated cost decides which rules a
//! CustomResourceDefinition may carry.
//!
//! Invariants: pure (no I/O, no clock); expressions cannot overflow the stack, run without bound, or make the
//! regular-expression engine backtrack. Left out: protobuf messages, the `image` library, locales in `format`.

mod check;
mod decl;
mod env;
mod error;
mod eval;
mod functions;
pub mod limits;
mod pattern;
mod syntax;
mod value;

pub use check::{CostEstimate, Type};
pub use decl::{Decl, DeclKind, Field, ListType, ObjectType, escape, max_cardinality};
pub use env::{Checked, Env, Program};
pub use error::{EvalError, Issue, Issues};
pub use eval::{Activation, Evaluated, NoVariables, Variables};
pub use functions::authorizer::{Authorizer, Decision, Request};
pub use pattern::compile_pattern;
pub use value::{Key, List, Map, Text, ToJsonError, Value};
