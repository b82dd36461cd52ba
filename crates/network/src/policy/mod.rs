//! NetworkPolicy on a node: what may reach the node's pods, and what they may reach.
//!
//! [`Snapshot`] is what the API says; `compile` makes of it, purely, what the kernel is to have; [`PolicyTable`] keeps what it has
//! and commits the difference. Rules stand at the forward hook, which pods on the bridge pass, too (br_netfilter):
//!
//! ```text
//! forward   established or related                    -> accept
//!           address of the pod itself, both ends      -> accept
//!           source address -> chain of its egress     (only pods of this node that a policy isolates)
//!           destination address -> chain of its ingress
//! chain     one rule for each way that a policy allows -> return, then drop
//! ```
//!
//! Chains are named by their content, so pods under the same policies share them, and a policy that changes replaces them in
//! one transaction. Addresses of peers are set elements: a pod that comes or goes changes an element and no rule.
//!
//! A pod's own node always reaches it, and it the node: that is the API's rule, and it lets the kubelet's probes and cluster
//! DNS pass. Connections that exist when a policy comes go on. Left out: policies do not apply to pods on the node's network,
//! and under a CNI configuration the plugins enforce them.

mod compile;
mod run;
mod snapshot;
mod table;

pub use run::run;
pub use snapshot::{LocalAddresses, PodFacts, Snapshot};
pub use table::PolicyTable;
