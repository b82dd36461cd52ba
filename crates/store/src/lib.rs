//! Versioned key-value store behind one trait: `embedded` (default) and `etcd`.

#[cfg(feature = "contract")]
pub mod contract;
pub mod embedded;
mod error;
pub mod etcd;
pub mod snapshot;
mod store;

pub use error::Error;
pub use store::*;
