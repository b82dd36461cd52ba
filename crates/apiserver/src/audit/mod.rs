//! Audit: who did what, by a policy, into a log file or to a webhook.
//!
//! As upstream's: `audit.k8s.io/v1` Policy decides for each request how much is recorded (the first rule that matches
//! counts; nothing is recorded without one), events have the stages RequestReceived, ResponseStarted (of requests that run
//! long) and ResponseComplete, and say what authorization and admission noted. An event is handed to the backend before
//! the request goes on: a backend that is slow slows requests down, and none is lost but by a backend that fails.
//!
//! Left out: the stage Panic, `omitManagedFields` of lists' items in tables, truncation.

mod backend;
mod policy;
mod record;

pub(crate) use backend::Audit;
pub use backend::{AuditConfig, AuditError, AuditLog, AuditWebhook};
pub use policy::{AuditPolicy, AuditPolicyError};
pub(crate) use record::Recorder;
