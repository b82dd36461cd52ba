//! The plugins, one per file, and the one list of them.

mod default_binder;
mod default_preemption;
mod dynamic_resources;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod normalize;
mod pod_topology_spread;
mod preemption_candidates;
mod priority_sort;
mod scheduling_gates;
mod taint_toleration;
#[cfg(test)]
mod tests;
mod volume_binding;
mod volume_matching;
mod volume_restrictions;

use crate::framework::{Framework, Handle};

/// Registers every plugin of the default profile, in upstream's order and with its weights. The order of filters decides which
/// reason a node gives.
pub(crate) fn register_all(framework: &mut Framework, handle: &Handle) {
    scheduling_gates::register(framework);
    priority_sort::register(framework);
    node_unschedulable::register(framework);
    node_name::register(framework);
    taint_toleration::register(framework, 3);
    node_affinity::register(framework, 2);
    node_ports::register(framework);
    node_resources_fit::register(framework, 1);
    volume_restrictions::register(framework, handle);
    volume_binding::register(framework, handle);
    pod_topology_spread::register(framework, handle, 2);
    inter_pod_affinity::register(framework, handle, 2);
    dynamic_resources::register(framework);
    default_preemption::register(framework, handle);
    node_resources_balanced_allocation::register(framework, 1);
    image_locality::register(framework, 1);
    default_binder::register(framework, handle);
}
