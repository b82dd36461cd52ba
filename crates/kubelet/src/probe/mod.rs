//! Startup, liveness and readiness probes by exec, HTTP, TCP and gRPC: one task per probe of a running container.

mod exec;
mod grpc;
pub(crate) mod http;
mod manager;
mod tcp;
mod worker;

pub(crate) use manager::{Kind, Outcome, ProbeManager, resolve_port};
