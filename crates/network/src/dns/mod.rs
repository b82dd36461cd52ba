//! Cluster DNS: the names of Services, endpoints and pods from informers (the Kubernetes DNS specification 1.1.0, with the
//! answers that CoreDNS' kubernetes plugin gives), everything else from the node's own resolvers.
//!
//! [`Zone::answer`] is pure over [`Records`]; [`run`] serves it on UDP and TCP on every node, on an address that is put on `lo`.
//!
//! Left out: DNSSEC of the cluster zone, zone transfers, wildcards.

mod forward;
mod records;
mod resolv_conf;
mod run;
mod server;
mod zone;

pub use forward::Forwarder;
pub use records::{InformerRecords, Records};
pub use resolv_conf::ResolvConf;
pub use run::{Config, Error, run};
pub use server::Server;
pub use zone::{Answer, Zone};
