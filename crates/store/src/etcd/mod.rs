//! The etcd backend: any etcd 3.4 or newer, one member or several, over its public gRPC protocol.
//!
//! The store's terms are etcd's own, so each call is one etcd request:
//! - A write is a transaction whose comparison is the precondition; the other branch reads the key, so that a conflict
//!   costs no second request. etcd acknowledges when a majority has written it to disk.
//! - Reads are linearizable. [`Store::revision`](crate::Store::revision) is what every consistent read of an API server
//!   asks; those that come while one is on its way share the next one.
//! - A watch is one etcd watch over the whole key space, narrowed here. Each etcd revision changes at least one key, so
//!   such a watch sees every revision, and "delivered up to R" needs no progress requests, which etcd before 3.4.25
//!   answers too early.
//!
//! Members come and go: requests go to those that answer, reads are repeated for a while, a watch goes on at another
//! member from where it was. A write is repeated only when it certainly was not sent.

mod error;
mod load;
mod options;
mod store;
mod watch;

pub use options::{EtcdOptions, EtcdTls};
pub use store::EtcdStore;
