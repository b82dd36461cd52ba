//! Links, addresses, routes and neighbours by rtnetlink, in the network namespace where the connection was opened.
//!
//! Every operation is idempotent: making what is there and removing what is gone succeed.

mod connection;
mod types;
mod wire;

pub use connection::Rtnl;
pub use types::{Error, Link, Mac, Peer, Route, VxlanSpec};
