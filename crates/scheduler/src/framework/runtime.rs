//! Runs the plugins at their extension points.

use std::sync::Arc;

use super::{
    BindPlugin, ClusterEvent, CycleState, Diagnosis, FilterPlugin, NodeNames, Nominator, Outcome,
    PermitPlugin, Plugin, PostBindPlugin, PostFilterPlugin, PostFilterResult, PreBindPlugin,
    PreEnqueuePlugin, PreFilter, PreFilterPlugin, PreScorePlugin, QueueSortPlugin, QueueingHint,
    ReservePlugin, ScorePlugin, SortKey, Status,
};
use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::queue::QueuedPod;

/// Stands for a plugin where there was no node that one could have refused.
pub(crate) const NO_NODES: &str = "";

/// Which nodes PreFilter leaves.
pub(crate) struct Restriction {
    /// None: all of them.
    pub(crate) nodes: Option<NodeNames>,
    /// The plugins that named them.
    pub(crate) plugins: Vec<&'static str>,
}

impl Restriction {
    /// Why all other nodes will not do.
    pub(crate) fn refusal(&self) -> Status {
        Status::unresolvable(format!(
            "node(s) didn't satisfy plugin(s) [{}]",
            self.plugins.join(" ")
        ))
    }
}

/// The plugins of a profile by extension point, each list in the order of registration.
#[derive(Default)]
pub(crate) struct Framework {
    pub(super) plugins: Vec<Arc<dyn Plugin>>,
    pub(super) queue_sort: Option<Arc<dyn QueueSortPlugin>>,
    pub(super) pre_enqueue: Vec<Arc<dyn PreEnqueuePlugin>>,
    pub(super) pre_filter: Vec<Arc<dyn PreFilterPlugin>>,
    pub(super) filter: Vec<Arc<dyn FilterPlugin>>,
    pub(super) post_filter: Vec<Arc<dyn PostFilterPlugin>>,
    pub(super) pre_score: Vec<Arc<dyn PreScorePlugin>>,
    pub(super) score: Vec<(Arc<dyn ScorePlugin>, i64)>,
    pub(super) reserve: Vec<Arc<dyn ReservePlugin>>,
    pub(super) permit: Vec<Arc<dyn PermitPlugin>>,
    pub(super) pre_bind: Vec<Arc<dyn PreBindPlugin>>,
    pub(super) bind: Vec<Arc<dyn BindPlugin>>,
    pub(super) post_bind: Vec<Arc<dyn PostBindPlugin>>,
    /// Part of the nodes to search, where the profile has a number of its own.
    pub(crate) percentage: Option<u32>,
    pub(crate) nominator: Arc<Nominator>,
}

macro_rules! registrations {
    ($($method:ident: $trait:ident),* $(,)?) => {
        $(pub(crate) fn $method<P: $trait + 'static>(&mut self, plugin: &Arc<P>) -> &mut Self {
            self.known(plugin.clone());
            self.$method.push(plugin.clone());
            self
        })*
    };
}

/// Registration: one method per extension point.
impl Framework {
    pub(crate) fn new(nominator: Arc<Nominator>) -> Self {
        Self {
            nominator,
            ..Self::default()
        }
    }

    registrations! {
        pre_enqueue: PreEnqueuePlugin,
        pre_filter: PreFilterPlugin,
        filter: FilterPlugin,
        post_filter: PostFilterPlugin,
        pre_score: PreScorePlugin,
        reserve: ReservePlugin,
        pre_bind: PreBindPlugin,
        bind: BindPlugin,
    }

    pub(crate) fn score<P: ScorePlugin + 'static>(&mut self, plugin: &Arc<P>, weight: i64) -> &mut Self {
        self.known(plugin.clone());
        self.score.push((plugin.clone(), weight));
        self
    }

    pub(crate) fn queue_sort<P: QueueSortPlugin + 'static>(&mut self, plugin: &Arc<P>) {
        self.known(plugin.clone());
        self.queue_sort = Some(plugin.clone());
    }

    fn known<P: Plugin + 'static>(&mut self, plugin: Arc<P>) {
        if !self.plugins.iter().any(|known| known.name() == plugin.name()) {
            self.plugins.push(plugin);
        }
    }

    fn filter_bit(&self, name: &str) -> u64 {
        self.filter
            .iter()
            .position(|plugin| plugin.name() == name)
            .map_or(0, |at| 1 << at)
    }

    fn score_bit(&self, name: &str) -> u64 {
        self.score
            .iter()
            .position(|(plugin, _)| plugin.name() == name)
            .map_or(0, |at| 1 << at)
    }
}

/// The queue's questions.
impl Framework {
    /// The pod's place in the active queue.
    pub(crate) fn sort_key(&self, pod: &QueuedPod) -> SortKey {
        self.queue_sort
            .as_ref()
            .map_or((0, pod.timestamp), |plugin| plugin.key(pod))
    }

    pub(crate) fn run_pre_enqueue(&self, pod: &PodInfo) -> Outcome {
        self.pre_enqueue
            .iter()
            .try_for_each(|p| p.pre_enqueue(pod).map_err(|status| status.by(p.name())))
    }

    /// Whether the event helps a pod that this plugin refused.
    pub(crate) fn queueing_hint(&self, plugin: &str, pod: &PodInfo, event: &ClusterEvent) -> QueueingHint {
        if plugin == NO_NODES {
            return QueueingHint::queue_if(matches!(event, ClusterEvent::NodeAdded(_)));
        }
        let plugin = self.plugins.iter().find(|known| known.name() == plugin);
        plugin.map_or(QueueingHint::Queue, |plugin| plugin.queueing_hint(pod, event))
    }
}

/// The scheduling cycle.
impl Framework {
    /// Runs PreFilter; the nodes that all plugins agree on, where any of them names some.
    pub(crate) fn run_pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<Restriction, Status> {
        let mut names: Option<NodeNames> = None;
        let mut by: Vec<&'static str> = Vec::new();
        for plugin in &self.pre_filter {
            match plugin.pre_filter(state, pod, snapshot) {
                Ok(PreFilter::All) => {}
                Ok(PreFilter::Nodes(nodes)) => {
                    by.push(plugin.name());
                    let agreed = match names.take() {
                        Some(known) => known.intersection(&nodes).cloned().collect(),
                        None => nodes,
                    };
                    if agreed.is_empty() {
                        let text = match by.as_slice() {
                            [one] => format!("node(s) didn't satisfy plugin {one}"),
                            all => format!(
                                "node(s) didn't satisfy plugin(s) [{}] simultaneously",
                                all.join(" ")
                            ),
                        };
                        return Err(Status::unresolvable(text).by(plugin.name()));
                    }
                    names = Some(agreed);
                }
                Err(status) if status.is_skip() => state.skip_filter |= self.filter_bit(plugin.name()),
                Err(status) => return Err(status.at("PreFilter", plugin.name())),
            }
        }
        Ok(Restriction {
            nodes: names,
            plugins: by,
        })
    }

    fn runs_filter(&self, state: &CycleState, name: &str) -> bool {
        let bit = self.filter_bit(name);
        bit == 0 || state.skip_filter & bit == 0
    }

    /// Tells PreFilter plugins of a pod that is imagined on `node`.
    pub(crate) fn imagine_added(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        added: &PodInfo,
        node: &NodeInfo,
    ) {
        for plugin in &self.pre_filter {
            if self.runs_filter(state, plugin.name()) {
                plugin.add_pod(state, pod, added, node);
            }
        }
    }

    /// Tells PreFilter plugins of a pod that is imagined away from `node`.
    pub(crate) fn imagine_removed(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        removed: &PodInfo,
        node: &NodeInfo,
    ) {
        for plugin in &self.pre_filter {
            if self.runs_filter(state, plugin.name()) {
                plugin.remove_pod(state, pod, removed, node);
            }
        }
    }

    /// The first refusal of the Filter plugins.
    pub(crate) fn run_filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Outcome {
        for (at, plugin) in self.filter.iter().enumerate() {
            if state.skip_filter & (1 << at) == 0 {
                plugin
                    .filter(state, pod, node)
                    .map_err(|status| status.at("Filter", plugin.name()))?;
            }
        }
        Ok(())
    }

    /// As [`Self::run_filter`], also with the pods of the same or higher priority that are nominated for the node: the pod must
    /// fit whether they come or not.
    pub(crate) fn run_filter_with_nominated(
        &self,
        state: &CycleState,
        pod: &PodInfo,
        node: &Arc<NodeInfo>,
    ) -> Outcome {
        let mut nominated = self.nominator.on(node.name());
        nominated.retain(|other| other.priority >= pod.priority && other.uid != pod.uid);
        if !nominated.is_empty() {
            let mut crowded_state = state.clone();
            let mut crowded = NodeInfo::clone(node);
            for other in nominated {
                self.imagine_added(&mut crowded_state, pod, &other, &crowded);
                crowded.add_pod(other);
            }
            self.run_filter(&crowded_state, pod, &crowded)?;
        }
        self.run_filter(state, pod, node)
    }

    /// Runs PostFilter until a plugin succeeds or fails; what the refusals say is put together.
    pub(crate) fn run_post_filter(
        &self,
        state: &CycleState,
        pod: &Arc<PodInfo>,
        snapshot: &Snapshot,
        diagnosis: &Diagnosis,
    ) -> (Option<PostFilterResult>, Outcome) {
        let mut result = None;
        let mut refusal: Option<Status> = None;
        for plugin in &self.post_filter {
            let (of_plugin, outcome) = plugin.post_filter(self, state, pod, snapshot, diagnosis);
            result = of_plugin.or(result);
            match outcome {
                Err(status) if status.is_rejected() => match &mut refusal {
                    Some(refusal) => refusal.reasons.extend(status.reasons),
                    None => refusal = Some(status.by(plugin.name())),
                },
                other => return (result, other.map_err(|status| status.by(plugin.name()))),
            }
        }
        (result, refusal.map_or(Ok(()), Err))
    }

    pub(crate) fn run_pre_score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        nodes: &[Arc<NodeInfo>],
        snapshot: &Snapshot,
    ) -> Outcome {
        for plugin in &self.pre_score {
            match plugin.pre_score(state, pod, nodes, snapshot) {
                Err(status) if status.is_skip() => state.skip_score |= self.score_bit(plugin.name()),
                other => other.map_err(|status| status.at("PreScore", plugin.name()))?,
            }
        }
        Ok(())
    }

    /// The weighted sum of all scores per node.
    pub(crate) fn run_score(
        &self,
        state: &CycleState,
        pod: &PodInfo,
        nodes: &[Arc<NodeInfo>],
        snapshot: &Snapshot,
    ) -> Vec<i64> {
        let mut totals = vec![0; nodes.len()];
        let mut scores = vec![0; nodes.len()];
        for (at, (plugin, weight)) in self.score.iter().enumerate() {
            if state.skip_score & (1 << at) != 0 {
                continue;
            }
            for (score, node) in scores.iter_mut().zip(nodes) {
                *score = plugin.score(state, pod, node, snapshot);
            }
            plugin.normalize(state, nodes, &mut scores);
            for (total, score) in totals.iter_mut().zip(&scores) {
                *total += score * weight;
            }
        }
        totals
    }

    pub(crate) fn run_reserve(&self, state: &mut CycleState, pod: &PodInfo, node: &Arc<NodeInfo>) -> Outcome {
        self.reserve.iter().try_for_each(|p| {
            p.reserve(state, pod, node)
                .map_err(|status| status.at("Reserve", p.name()))
        })
    }

    /// In reverse order, so that what was taken last goes first.
    pub(crate) fn run_unreserve(&self, state: &CycleState, pod: &PodInfo, node: &str) {
        self.reserve
            .iter()
            .rev()
            .for_each(|plugin| plugin.unreserve(state, pod, node));
    }
}

/// The binding cycle.
impl Framework {
    pub(crate) async fn run_permit(&self, state: &CycleState, pod: &PodInfo, node: &str) -> Outcome {
        for plugin in &self.permit {
            plugin
                .permit(state, pod, node)
                .await
                .map_err(|status| status.at("Permit", plugin.name()))?;
        }
        Ok(())
    }

    pub(crate) async fn run_pre_bind(&self, state: &CycleState, pod: &PodInfo, node: &str) -> Outcome {
        for plugin in &self.pre_bind {
            plugin
                .pre_bind(state, pod, node)
                .await
                .map_err(|status| status.at("PreBind", plugin.name()))?;
        }
        Ok(())
    }

    pub(crate) async fn run_bind(&self, state: &CycleState, pod: &PodInfo, node: &str) -> Outcome {
        for plugin in &self.bind {
            match plugin.bind(state, pod, node).await {
                Err(status) if status.is_skip() => {}
                other => return other.map_err(|status| status.at("Bind", plugin.name())),
            }
        }
        Err(Status::error("no plugin has bound the pod"))
    }

    pub(crate) fn run_post_bind(&self, state: &CycleState, pod: &PodInfo, node: &str) {
        self.post_bind
            .iter()
            .for_each(|plugin| plugin.post_bind(state, pod, node));
    }
}
