//! What the scheduler knows of nodes and of the pods on them.

mod affinity;
mod node_info;
mod node_selector;
mod pod_info;
mod resource;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use affinity::{AffinityTerm, WeightedTerm, label_selector};
pub(crate) use node_info::NodeInfo;
pub(crate) use node_selector::{NodeSelector, PreferredTerm, RequiredNodeAffinity};
pub(crate) use pod_info::PodInfo;
pub(crate) use resource::{Resource, quantity};
pub(crate) use snapshot::Snapshot;
pub(crate) use state::Cache;
