//! What the scheduler can be told.

use std::collections::BTreeMap;
use std::time::Duration;

/// Where plugins take part, as `KubeSchedulerConfiguration` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExtensionPoint {
    /// All points of a plugin at once.
    MultiPoint,
    /// Order of the queue.
    QueueSort,
    /// Before a pod enters the queue.
    PreEnqueue,
    /// Once per pod before filtering.
    PreFilter,
    /// Whether a node will do.
    Filter,
    /// When no node will do.
    PostFilter,
    /// Once per pod before scoring.
    PreScore,
    /// How good a node is.
    Score,
    /// Takes and gives back what a pod needs.
    Reserve,
    /// Before binding, may wait.
    Permit,
    /// Prepares the binding.
    PreBind,
    /// Binds.
    Bind,
    /// After the binding.
    PostBind,
}

/// What a profile changes of the default plugins at one extension point.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginSet {
    /// Plugins with their weights (0: the default), before all others, also where `disabled` names them.
    pub enabled: Vec<(String, i64)>,
    /// Default plugins that do not take part; `*` is all of them.
    pub disabled: Vec<String>,
}

impl PluginSet {
    /// Whether the set takes the plugin out.
    pub(crate) fn disables(&self, name: &str) -> bool {
        self.disabled
            .iter()
            .any(|disabled| disabled == "*" || disabled == name)
    }

    /// The weight of a plugin that the set enables.
    pub(crate) fn weight(&self, name: &str) -> Option<i64> {
        let mut enabled = self.enabled.iter();
        enabled
            .find(|(enabled, _)| enabled == name)
            .map(|(_, weight)| *weight)
    }
}

/// How pods of one `spec.schedulerName` are scheduled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Pods with this `spec.schedulerName` are ours.
    pub scheduler_name: String,
    /// In place of [`Config::percentage_of_nodes_to_score`].
    pub percentage_of_nodes_to_score: Option<u32>,
    /// Changes of the default plugins.
    pub plugins: BTreeMap<ExtensionPoint, PluginSet>,
}

impl Profile {
    /// The default plugins for pods of this scheduler name.
    pub fn named(scheduler_name: impl Into<String>) -> Self {
        Self {
            scheduler_name: scheduler_name.into(),
            percentage_of_nodes_to_score: None,
            plugins: BTreeMap::new(),
        }
    }
}

/// Configuration of one scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// At least one; all share the queue and the view of the cluster.
    pub profiles: Vec<Profile>,
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
            profiles: vec![Profile::named("default-scheduler")],
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
    /// A profile cannot work.
    #[error("profile {profile:?}: {problem}")]
    Profile {
        /// Its scheduler name.
        profile: String,
        /// What is wrong with it.
        problem: String,
    },
}
