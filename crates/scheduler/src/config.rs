//! What the scheduler can be told.

use std::time::Duration;

/// Configuration of one scheduler.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods with this `spec.schedulerName` are ours.
    pub scheduler_name: String,
    /// Identity of this candidate when several schedulers share a cluster; none: no leader election.
    pub leader_election_identity: Option<String>,
    /// How many percent of the nodes must be found feasible before the search ends; 0: adaptive, as upstream.
    pub percentage_of_nodes_to_score: u32,
    /// Wait after the first failed attempt of a pod.
    pub pod_initial_backoff: Duration,
    /// Longest wait between attempts of a pod.
    pub pod_max_backoff: Duration,
    /// An unschedulable pod is tried again after this time even if nothing happened that would help it.
    pub pod_max_in_unschedulable: Duration,
    /// Bindings on their way at the same time; the scheduling of further pods waits beyond that.
    pub max_concurrent_bindings: usize,
    /// How long a pod may wait for its volumes to be provisioned and bound.
    pub bind_timeout: Duration,
}

impl Default for Config {
    /// Upstream's defaults, without leader election.
    fn default() -> Self {
        Self {
            scheduler_name: "default-scheduler".to_owned(),
            leader_election_identity: None,
            percentage_of_nodes_to_score: 0,
            pod_initial_backoff: Duration::from_secs(1),
            pod_max_backoff: Duration::from_secs(10),
            pod_max_in_unschedulable: Duration::from_secs(300),
            max_concurrent_bindings: 64,
            bind_timeout: Duration::from_secs(600),
        }
    }
}

/// Why a scheduler ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another candidate holds the lease now.
    #[error("leader election lost")]
    LeaderElectionLost,
}
