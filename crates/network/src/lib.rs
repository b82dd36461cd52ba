//! The network of pods: interfaces, addresses and routes on a node, the overlay between nodes, host ports, network policies, CNI plugins
//! in its place, and cluster DNS.
//!
//! [`PodNetwork`] does the work on one node and blocks; [`run`] keeps it in step with Node objects. Everything is made by
//! netlink, without helper programs, in the network namespace that the configuration names.
//!
//! Invariants: no packet for a pod, Service or load-balancer range leaves by the default route (unreachable routes lie
//! beneath); an address is never held by two pods; restarting touches no live pod or connection.

pub mod cni;
mod config;
pub mod dns;
mod error;
mod host;
pub mod ipam;
mod overlay;
mod pod_network;
pub mod policy;
pub mod rtnl;
mod rules;
mod run;

pub use config::{Config, HostPort, NodeInfo, PodRequest, Protocol, Vxlan};
pub use error::Error;
pub use pod_network::PodNetwork;
pub use run::run;
