//! The limits that Kubernetes sets, in cel-go's units of cost (about 50 ns each).

/// The most that one evaluation of one expression may cost.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// What all rules together may cost for one object or one policy.
pub const RUNTIME_COST_BUDGET: i64 = 10_000_000;
/// What all match conditions of one policy or webhook may cost.
pub const MATCH_CONDITIONS_COST_BUDGET: i64 = 2_500_000;
/// The most that one rule of a CustomResourceDefinition may be estimated to cost.
pub const STATIC_ESTIMATED_COST_LIMIT: u64 = 10_000_000;
/// The most that all rules of one CustomResourceDefinition may be estimated to cost together.
pub const STATIC_ESTIMATED_CRD_COST_LIMIT: u64 = 100_000_000;
/// The longest message that a messageExpression may produce, in bytes.
pub const MAX_EVALUATED_MESSAGE_BYTES: usize = 5 * 1024;
/// The largest request, from which sizes without a limit in the schema are estimated.
pub const MAX_REQUEST_BYTES: i64 = 3 * 1024 * 1024;

/// The longest expression, in code points.
pub(crate) const MAX_EXPRESSION_CHARS: usize = 100_000;
/// How deep expressions may be nested in the source.
pub(crate) const MAX_RECURSION: usize = 250;
/// How deep the parsed tree may be, which bounds the stack of everything that walks it.
pub(crate) const MAX_DEPTH: usize = 320;
/// How many steps of unification one check may take; types can grow exponentially in short expressions.
pub(crate) const MAX_TYPE_STEPS: usize = 2_000_000;
/// How many nodes one comparison or one conversion of values may visit; values can share parts exponentially often.
pub(crate) const MAX_VALUE_STEPS: usize = 2_000_000;
