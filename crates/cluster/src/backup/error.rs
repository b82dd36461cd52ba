//! What can go wrong with backups.

use std::io;
use std::path::{Path, PathBuf};

use keelson_store::snapshot::FileError;

use crate::backend::Backend;
use crate::{control, lock, preflight, settings};

/// A backup, restore or migration failed. Unless it says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This machine or user is not fit.
    #[error(transparent)]
    Preflight(#[from] preflight::Error),
    /// The data directory does not fit.
    #[error(transparent)]
    Settings(#[from] settings::Error),
    /// Somebody else works on it.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// The running cluster did not answer.
    #[error(transparent)]
    Control(#[from] control::Error),
    /// There is nothing.
    #[error(
        "there is no cluster in {0}; start one with `keelson up`, or get one back with `keelson restore FILE`"
    )]
    NoCluster(PathBuf),
    /// It runs.
    #[error("the cluster in {0} is running: stop it with `keelson down` first")]
    Running(PathBuf),
    /// The data directory is in use.
    #[error(
        "there is a cluster in {0} already, which a restore would replace: use another --data-dir, or --force"
    )]
    Occupied(PathBuf),
    /// The file to write is there.
    #[error("{0} exists already: use another name, or --force")]
    Exists(PathBuf),
    /// A file.
    #[error("cannot {operation} {path}", path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is something else.
    #[error("{0} is not a backup that `keelson backup` made")]
    NotABackup(PathBuf),
    /// The file's format is unknown.
    #[error("{path} was made by a newer keelson (format {found}, this one knows {known}): use that version", path = path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The file ends too early.
    #[error("{0} is truncated: copy it again, or use another backup")]
    Truncated(PathBuf),
    /// The file's content is not what it was.
    #[error("{path} is damaged ({what}): copy it again, or use another backup", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which part of it, and how.
        what: String,
    },
    /// What the store gave cannot be used.
    #[error("what the store gave is not whole; try again")]
    Snapshot(#[from] FileError),
    /// The store.
    #[error("{backend} cannot be used")]
    Store {
        /// Which.
        backend: Backend,
        /// The cause.
        #[source]
        source: keelson_store::Error,
    },
    /// The objects are there already.
    #[error("the cluster has its objects in {0} already")]
    SamePlace(Backend),
    /// No etcd is named.
    #[error("--etcd-servers is needed: the URLs of the etcd that shall have the objects")]
    NoEtcd,
    /// The rest of an interrupted restore is damaged.
    #[error("{path} is damaged; delete it and restore the backup again with --force", path = path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// A blocking task ended by panic.
    #[error("an internal task failed")]
    Task(#[from] tokio::task::JoinError),
}

/// An error of a file operation.
pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        operation,
        path,
        source,
    }
}

/// An error of a store.
pub(super) fn store(backend: &Backend) -> impl FnOnce(keelson_store::Error) -> Error {
    let backend = backend.clone();
    move |source| Error::Store { backend, source }
}
