//! NodeAffinity: `nodeSelector` and node affinity, required and preferred.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use super::normalize::default_normalize;
use crate::cache::{NodeInfo, PodInfo, PreferredTerm, Snapshot};
use crate::framework::{
    ClusterEvent, CycleState, FilterPlugin, Framework, Outcome, Plugin, PreFilter, PreFilterPlugin,
    PreScorePlugin, QueueingHint, ScorePlugin, Status,
};

struct NodeAffinity;

/// The preferred terms of the pod.
#[derive(Clone)]
struct Preferred(Arc<[PreferredTerm]>);

pub(super) fn register(framework: &mut Framework, weight: i64) {
    let plugin = Arc::new(NodeAffinity);
    framework
        .pre_filter(&plugin)
        .filter(&plugin)
        .pre_score(&plugin)
        .score(&plugin, weight);
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn queueing_hint(&self, pod: &PodInfo, event: &ClusterEvent) -> QueueingHint {
        let none = BTreeMap::new();
        let matches = |node: &Node| {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            pod.node_affinity
                .matches(name, node.metadata.labels.as_ref().unwrap_or(&none))
        };
        QueueingHint::queue_if(match event {
            ClusterEvent::NodeAdded(node) => matches(node),
            ClusterEvent::NodeUpdated { old, new, .. } => !matches(old) && matches(new),
            ClusterEvent::PodUpdated { .. } => true,
            _ => false,
        })
    }
}

impl PreFilterPlugin for NodeAffinity {
    fn pre_filter(
        &self,
        _state: &mut CycleState,
        pod: &PodInfo,
        _snapshot: &Snapshot,
    ) -> Result<PreFilter, Status> {
        if pod.node_affinity.is_empty() {
            return Err(Status::skip());
        }
        match &pod.node_affinity.affinity {
            Some(Err(error)) => Err(Status::unresolvable(error.clone())),
            Some(Ok(selector)) => match selector.node_names() {
                Some(names) if names.is_empty() => Err(Status::unresolvable("pod affinity terms conflict")),
                Some(names) => Ok(PreFilter::Nodes(names.into_iter().map(Arc::from).collect())),
                None => Ok(PreFilter::All),
            },
            None => Ok(PreFilter::All),
        }
    }
}

impl FilterPlugin for NodeAffinity {
    fn filter(&self, _state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Outcome {
        if pod.node_affinity.matches(node.name(), node.labels()) {
            return Ok(());
        }
        Err(Status::unresolvable(
            "node(s) didn't match Pod's node affinity/selector",
        ))
    }
}

impl PreScorePlugin for NodeAffinity {
    fn pre_score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        _nodes: &[Arc<NodeInfo>],
        _snapshot: &Snapshot,
    ) -> Outcome {
        let affinity = pod
            .spec()
            .and_then(|spec| spec.affinity.as_ref())
            .and_then(|a| a.node_affinity.as_ref());
        let terms = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
        let terms = terms
            .unwrap_or_default()
            .iter()
            .map(PreferredTerm::parse)
            .collect::<Result<Vec<_>, _>>();
        let terms = terms.map_err(Status::error)?;
        if terms.is_empty() {
            return Err(Status::skip());
        }
        state.write(Preferred(terms.into()));
        Ok(())
    }
}

impl ScorePlugin for NodeAffinity {
    fn score(&self, state: &CycleState, _pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        let Some(Preferred(terms)) = state.get() else {
            return 0;
        };
        terms
            .iter()
            .filter(|term| term.matches(node))
            .map(|term| term.weight)
            .sum()
    }

    fn normalize(&self, _state: &CycleState, _nodes: &[Arc<NodeInfo>], scores: &mut [i64]) {
        default_normalize(scores, false);
    }
}
