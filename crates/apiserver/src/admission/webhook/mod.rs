//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: people outside judge and change requests.
//!
//! As upstream: hooks are called in the order of their configurations' names, mutating ones one after another, validating
//! ones together; nothing is asked about objects of `admissionregistration.k8s.io`; a hook that cannot be called counts as
//! its `failurePolicy` says; with `matchPolicy: Equivalent` a hook gets the object in the version that its rules name; what a
//! mutating hook returns is pruned and defaulted like a client's object; hooks with `reinvocationPolicy: IfNeeded` are called
//! once more when somebody changed the object after them; `matchConditions` are compiled when the configuration changes and
//! asked last.
//!
//! Left out: AdmissionReview v1beta1.

mod call;
mod hook;
mod plugin;
mod review;

pub(crate) use hook::Connections;
pub(super) use plugin::{MutatingWebhook, Parts, ValidatingWebhook};
pub(super) use review::describe;
