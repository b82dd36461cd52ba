//! What tests of whole clusters stand on: machines that are namespaces without a way out, images made of Debian's own
//! packages, a registry on loopback, and the real clients.

pub mod clients;
pub mod images;
pub mod machine;
pub mod registry;
