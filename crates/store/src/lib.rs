//! Versioned key-value store behind one trait: `embedded` (default) and, later, `etcd`.

#[cfg(feature = "contract")]
pub mod contract;
pub mod embedded;
mod error;
mod store;

pub use error::Error;
pub use store::*;
