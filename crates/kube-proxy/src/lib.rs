//! kube-proxy: Services by nf_tables.
//!
//! Watches become models ([`model`], pure), models become chains, maps and elements ([`render`], pure), and [`table`] keeps what
//! the kernel has and makes one transaction of the difference: one endpoint that changes is one element replaced, however
//! many Services there are. The structure follows upstream's nftables mode. [`Proxier`] speaks to the kernel, [`run`] ties it to
//! the API.
//!
//! Left out: NetworkPolicy (not a proxy's), DSR, and `--conntrack-*` settings.

mod config;
mod health;
mod http;
pub mod model;
mod proxier;
pub mod render;
mod run;
pub mod table;

pub use config::Config;
pub use proxier::{Error as ProxierError, Models, Proxier, Synced};
pub use run::{Error, run};
