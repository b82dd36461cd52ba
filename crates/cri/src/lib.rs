//! The Container Runtime Interface, version v1 as of Kubernetes v1.36: message types, client stubs and server traits.
//!
//! Generated at build time from `schema.tsv`, a table of names, tags and types. The kubelet talks to every runtime
//! through these; the built-in runtime implements the server traits and is called in process.

/// Package `runtime.v1`.
#[allow(
    missing_docs,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}
