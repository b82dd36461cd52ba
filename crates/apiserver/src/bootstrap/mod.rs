//! What the server creates at start: default RBAC rules, priority classes and the like.

mod run;

pub use run::run;
