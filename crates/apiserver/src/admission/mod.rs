//! Admission: what may be stored, judged and completed after authorization and before validation.
//!
//! One file per plugin (small ones of one subject share one), registered in `build`. Plugins read the cluster from the
//! watch caches and never write.

mod build;
mod certificates;
mod expressions;
mod ingress_class;
mod limit_ranger;
mod matching;
mod namespace_lifecycle;
mod node_restriction;
mod object;
mod plugin;
mod pod_security;
mod pod_security_checks;
mod policy;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage;
mod tolerations;
mod webhook;

pub(crate) use build::build;
pub use plugin::{Attributes, Chain, MutatingPlugin, Notes, Operation, Round, ValidatingPlugin};
pub(crate) use policy::{validate_registration, watch_policies};
pub(crate) use webhook::Connections;
