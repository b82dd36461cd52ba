//! cloud-controller-manager: what a cluster asks of the place it runs in, behind the [`Provider`] trait.
//!
//! Upstream's service controller (load balancers) and cloud node controller (addresses and identity of nodes that started
//! with an external provider). [`BuiltIn`] is the provider of bare machines: addresses from a pool, nodes as they are.
//! Left out: routes (the pod network does them) and volumes (CSI does them).

mod built_in;
mod node;
mod pool;
mod provider;
mod run;
mod service;

pub use built_in::BuiltIn;
pub use pool::Pool;
pub use provider::{InstanceMetadata, Provider, ProviderError};
pub use run::{Config, run};
