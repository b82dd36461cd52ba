//! Versioned key-value store behind one trait: `embedded` (default) and, later, `etcd`.

mod error;
mod store;

pub use error::Error;
pub use store::*;
