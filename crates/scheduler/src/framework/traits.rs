//! The extension points, in the order of a pod's way: PreEnqueue, QueueSort, PreFilter, Filter, PostFilter, PreScore, Score
//! (with normalization), Reserve, Permit, PreBind, Bind, PostBind.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{ClusterEvent, CycleState, Diagnosis, Framework, Outcome, QueueingHint, Status};
use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::queue::QueuedPod;

/// The best score of a node; the worst is 0.
pub(crate) const MAX_NODE_SCORE: i64 = 100;

/// A rank, then the time since when the pod waits.
pub(crate) type SortKey = (i64, Instant);

/// Names of nodes.
pub(crate) type NodeNames = BTreeSet<Arc<str>>;

/// What all plugins have.
pub(crate) trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Whether `event` may make `pod`, which this plugin refused, schedulable.
    fn queueing_hint(&self, _pod: &PodInfo, _event: &ClusterEvent) -> QueueingHint {
        QueueingHint::Skip
    }
}

/// Decides whether a pod may enter the active queue.
pub(crate) trait PreEnqueuePlugin: Plugin {
    fn pre_enqueue(&self, pod: &PodInfo) -> Outcome;
}

/// The order of the active queue.
pub(crate) trait QueueSortPlugin: Plugin {
    /// Pods with smaller keys go first.
    fn key(&self, pod: &QueuedPod) -> SortKey;
}

/// What a PreFilter plugin knows about the nodes to ask.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PreFilter {
    /// Any node may do.
    All,
    /// Only these.
    Nodes(NodeNames),
}

/// Looks at the pod and the whole cluster once per cycle. `Skip` means that its Filter has nothing to do either.
pub(crate) trait PreFilterPlugin: Plugin {
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<PreFilter, Status>;

    /// Another pod is imagined on `node`.
    fn add_pod(&self, _state: &mut CycleState, _pod: &PodInfo, _added: &PodInfo, _node: &NodeInfo) {}

    /// A pod of `node` is imagined away.
    fn remove_pod(&self, _state: &mut CycleState, _pod: &PodInfo, _removed: &PodInfo, _node: &NodeInfo) {}
}

/// Whether a pod may run on a node.
pub(crate) trait FilterPlugin: Plugin {
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Outcome;
}

/// What PostFilter wants written into `status.nominatedNodeName`: a node or, when empty, that there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PostFilterResult {
    pub(crate) nominated_node: String,
}

/// Tries to make room for a pod that fits nowhere.
pub(crate) trait PostFilterPlugin: Plugin {
    /// The message of the outcome is shown to the user.
    fn post_filter(
        &self,
        framework: &Framework,
        state: &CycleState,
        pod: &Arc<PodInfo>,
        snapshot: &Snapshot,
        diagnosis: &Diagnosis,
    ) -> (Option<PostFilterResult>, Outcome);
}

/// Looks at all feasible nodes once before they are scored. `Skip` means that Score has nothing to do.
pub(crate) trait PreScorePlugin: Plugin {
    fn pre_score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        nodes: &[Arc<NodeInfo>],
        snapshot: &Snapshot,
    ) -> Outcome;
}

/// How well a pod would be placed on a node.
pub(crate) trait ScorePlugin: Plugin {
    fn score(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> i64;

    /// Brings the scores of all nodes into 0 to [`MAX_NODE_SCORE`].
    fn normalize(&self, _state: &CycleState, _nodes: &[Arc<NodeInfo>], _scores: &mut [i64]) {}
}

/// Takes and gives back what belongs to no node.
pub(crate) trait ReservePlugin: Plugin {
    fn reserve(&self, state: &mut CycleState, pod: &PodInfo, node: &Arc<NodeInfo>) -> Outcome;
    /// Must not fail, also when nothing was reserved.
    fn unreserve(&self, state: &CycleState, pod: &PodInfo, node: &str);
}

/// Lets a pod go to binding, at once or later, or refuses.
#[async_trait]
pub(crate) trait PermitPlugin: Plugin {
    async fn permit(&self, state: &CycleState, pod: &PodInfo, node: &str) -> Outcome;
}

/// Work that must be done before a pod is bound.
#[async_trait]
pub(crate) trait PreBindPlugin: Plugin {
    async fn pre_bind(&self, state: &CycleState, pod: &PodInfo, node: &str) -> Outcome;
}

/// Tells the API server where the pod goes. `Skip` leaves it to the next plugin.
#[async_trait]
pub(crate) trait BindPlugin: Plugin {
    async fn bind(&self, state: &CycleState, pod: &PodInfo, node: &str) -> Outcome;
}

/// Learns that a pod was bound.
pub(crate) trait PostBindPlugin: Plugin {
    fn post_bind(&self, state: &CycleState, pod: &PodInfo, node: &str);
}
