//! CNI plugins in place of the built-in pod network: the runtime's side of the CNI specification 0.3.1 to 1.1.0.
//!
//! The first configuration in the directory (by name) counts: a `.conflist`, or a `.conf`/`.json` of one plugin. Plugins run in the
//! node's network namespace with the exec protocol; results are chained; what ADD was given and answered is kept on disk, so
//! that DEL and CHECK get the same configuration even when the file in the directory has changed.
//!
//! Left out: the GC and STATUS operations of 1.1.0, and capabilities other than `portMappings`.

mod config;
mod exec;

pub use config::ConfigList;
pub use exec::{Cni, Error};
