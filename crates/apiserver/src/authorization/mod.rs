//! Authorization: may this user do this.
//!
//! Asked per request are the group `system:masters`, which may do everything, and then the authorizers that are configured
//! ([`AuthorizationConfig`]): the [`NodeAuthorizer`] and [`Rbac`] unless flags or a file say otherwise. These two are fed from
//! the watch caches and catch up with them when they are asked: no task, no request, nothing listed because one object
//! changed. Webhooks are others that decide; a file of authorizers is followed. Left out: ABAC.

mod authorizer;
mod authorizers;
mod configuration;
mod covers;
mod escalation;
mod forbidden;
mod index;
mod match_conditions;
mod node;
mod node_graph;
mod options;
mod rbac;
mod reviews;
mod rules;
mod webhook;

pub use authorizer::{Authorizer, Decision, Verdict};
pub(crate) use authorizers::{Authorizers, Plan};
pub(crate) use covers::uncovered;
pub use escalation::RbacEscalation;
pub use forbidden::{forbidden, forbidden_message};
pub use node::{NODES_GROUP, NodeAuthorizer, node_of};
pub use node_graph::{NodeGraph, Vertex};
pub use options::{
    AuthorizationConfig, AuthorizationConfigError, AuthorizationMode, AuthorizationWebhookConfig,
};
pub use rbac::{Rbac, RuleSource};
pub(crate) use reviews::handlers;
pub use rules::PolicyRule;
