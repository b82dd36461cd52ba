//! TaintToleration: no pod goes to a node with a taint of effect NoSchedule or NoExecute that it does not tolerate; nodes with
//! fewer intolerable PreferNoSchedule taints are better.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

use super::normalize::default_normalize;
use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{
    ClusterEvent, CycleState, FilterPlugin, Framework, Outcome, Plugin, PreScorePlugin, QueueingHint,
    ScorePlugin, Status,
};

struct TaintToleration;

pub(super) fn register(framework: &mut Framework, weight: i64) {
    let plugin = Arc::new(TaintToleration);
    framework
        .filter(&plugin)
        .pre_score(&plugin)
        .score(&plugin, weight);
}

/// Whether `toleration` tolerates `taint`.
pub(super) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        "Exists" => true,
        _ => false,
    }
}

/// The first taint that keeps pods away and that none of `tolerations` tolerates.
pub(super) fn untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration]) -> Option<&'a Taint> {
    let mut hard = taints
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    hard.find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn queueing_hint(&self, pod: &PodInfo, event: &ClusterEvent) -> QueueingHint {
        let welcome = |node: &Node| {
            let taints = node
                .spec
                .as_ref()
                .and_then(|spec| spec.taints.as_deref())
                .unwrap_or_default();
            untolerated(taints, pod.tolerations()).is_none()
        };
        QueueingHint::queue_if(match event {
            ClusterEvent::NodeAdded(node) => welcome(node),
            ClusterEvent::NodeUpdated { old, new, .. } => !welcome(old) && welcome(new),
            ClusterEvent::PodUpdated { old, new } => old.tolerations() != new.tolerations(),
            _ => false,
        })
    }
}

impl FilterPlugin for TaintToleration {
    fn filter(&self, _state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Outcome {
        match untolerated(node.taints(), pod.tolerations()) {
            // The taints themselves are not told: a pod's owner need not know them.
            Some(_) => Err(Status::unresolvable("node(s) had untolerated taint(s)")),
            None => Ok(()),
        }
    }
}

fn is_preference(taint: &Taint) -> bool {
    taint.effect == "PreferNoSchedule"
}

impl PreScorePlugin for TaintToleration {
    fn pre_score(
        &self,
        _state: &mut CycleState,
        _pod: &PodInfo,
        nodes: &[Arc<NodeInfo>],
        _snapshot: &Snapshot,
    ) -> Outcome {
        if nodes.iter().any(|node| node.taints().iter().any(is_preference)) {
            Ok(())
        } else {
            Err(Status::skip())
        }
    }
}

impl ScorePlugin for TaintToleration {
    fn score(&self, _state: &CycleState, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        let relevant = |toleration: &&Toleration| {
            matches!(
                toleration.effect.as_deref().unwrap_or_default(),
                "" | "PreferNoSchedule"
            )
        };
        let tolerations: Vec<_> = pod.tolerations().iter().filter(relevant).collect();
        let disliked = node.taints().iter().filter(|taint| is_preference(taint));
        let count = disliked
            .filter(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
            .count();
        i64::try_from(count).unwrap_or(i64::MAX)
    }

    fn normalize(&self, _state: &CycleState, _nodes: &[Arc<NodeInfo>], scores: &mut [i64]) {
        default_normalize(scores, true);
    }
}
