//! Authorization: may this user do this.
//!
//! The union asked per request is, as upstream's default with `--authorization-mode=Node,RBAC`: the group
//! `system:masters`, the [`NodeAuthorizer`], [`Rbac`]. Both are fed from the watch caches and catch up with them when
//! they are asked: no task, no request, nothing listed because one object changed.

mod authorizer;
mod build;
mod covers;
mod escalation;
mod forbidden;
mod index;
mod node;
mod node_graph;
mod rbac;
mod reviews;
mod rules;

pub use authorizer::{Authorizer, Decision};
pub use build::build;
pub(crate) use covers::uncovered;
pub use escalation::RbacEscalation;
pub use forbidden::{forbidden, forbidden_message};
pub use node::{NODES_GROUP, NodeAuthorizer, node_of};
pub use node_graph::{NodeGraph, Vertex};
pub use rbac::{Rbac, RuleSource};
pub use reviews::handlers;
pub use rules::PolicyRule;
