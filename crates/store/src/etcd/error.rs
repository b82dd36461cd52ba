//! etcd's errors in the store's terms.

use std::error::Error as _;

use etcd_client::Error as EtcdError;

use crate::{Error, LeaseId};

/// What an etcd error means for the caller.
pub(super) enum Meaning {
    /// The revision asked for is compacted.
    Compacted,
    /// The revision asked for has not happened.
    Future,
    /// The lease is unknown.
    LeaseNotFound,
    /// Not now, not at this member: a read may be repeated.
    Unavailable,
    /// Not sent at all: a write may be repeated too.
    NotSent,
    /// Anything else.
    Other,
}

/// Judges an error. etcd's messages are part of its protocol: clients know them by text.
pub(super) fn meaning(error: &EtcdError) -> Meaning {
    match error {
        EtcdError::GRpcStatus(status) => {
            let message = status.message();
            if message.contains("required revision has been compacted") {
                return Meaning::Compacted;
            }
            if message.contains("required revision is a future revision") {
                return Meaning::Future;
            }
            if message.contains("requested lease not found") {
                return Meaning::LeaseNotFound;
            }
            match i32::from(status.code()) {
                // UNAVAILABLE; the transport's own errors are UNKNOWN or CANCELLED with a source.
                14 if refused(status) => Meaning::NotSent,
                1 | 14 => Meaning::Unavailable,
                2 if status.source().is_some() => Meaning::Unavailable,
                _ => Meaning::Other,
            }
        }
        EtcdError::LeaseKeepAliveError(text) if text.contains("lease not found") => Meaning::LeaseNotFound,
        EtcdError::TransportError(_) | EtcdError::IoError(_) | EtcdError::WatchError(_) => {
            Meaning::Unavailable
        }
        _ => Meaning::Other,
    }
}

/// Whether no connection could be made.
fn refused(status: &dyn std::error::Error) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::ConnectionRefused;
        }
        cause = error.source();
    }
    false
}

/// The store's error for one that the caller has no further use for.
pub(super) fn store_error(operation: &'static str, lease: Option<LeaseId>, error: EtcdError) -> Error {
    if let (Meaning::LeaseNotFound, Some(lease)) = (meaning(&error), lease) {
        return Error::LeaseNotFound(lease);
    }
    if let EtcdError::GRpcStatus(status) = &error
        && status.message().contains("database space exceeded")
    {
        let what = "etcd's database has reached its quota; compact and defragment it or raise the quota, then disarm the alarm";
        return Error::NoSpace(what.to_owned());
    }
    Error::Backend {
        operation,
        source: Box::new(error),
    }
}
