//! Backup, restore, and moving the objects to another store.
//!
//! A backup is one file: a tar archive of the store at one revision, the keys, the settings and the sandboxed nodes'
//! identities, with the SHA-256 of each (`archive`). It is taken from a running cluster through its control socket or from
//! the files of a stopped one (`take`). What it does not hold: images, logs, volumes of pods, and history before its
//! revision.
//!
//! Restoring and migrating never leave a mixture: what a data directory shall have is made beside it, complete and on
//! disk, then a rename decides, then it is moved into its places (`staging`). Whoever is interrupted before the rename has
//! changed nothing; after it, the next command that uses the directory completes the move. An etcd that was filled half is
//! refused by the store until the same command has filled it.

mod archive;
mod error;
mod migrate;
mod restore;
pub(crate) mod staging;
pub(crate) mod stream;
mod take;

pub use archive::Manifest;
pub use error::Error;
pub use migrate::{Migrated, migrate};
pub use restore::{RestoreOptions, Restored, Target, restore};
pub use staging::resume;
pub use take::{BackupOptions, Taken, backup};
