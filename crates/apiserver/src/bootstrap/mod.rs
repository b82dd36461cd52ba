//! What the server creates at start: namespaces, default RBAC objects, priority classes and the like.

mod defaults;
mod policy;
mod run;

pub(crate) use policy::node_rules;
pub use run::run;
