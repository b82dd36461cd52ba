//! NodeResourcesBalancedAllocation: nodes whose CPU and memory would be used to like parts are better.

use std::sync::Arc;

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{
    CycleState, Framework, MAX_NODE_SCORE, Outcome, Plugin, PreScorePlugin, ScorePlugin, Status,
};

struct BalancedAllocation;

pub(super) fn register(framework: &mut Framework, weight: i64) {
    let plugin = Arc::new(BalancedAllocation);
    framework.pre_score(&plugin).score(&plugin, weight);
}

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }
}

impl PreScorePlugin for BalancedAllocation {
    /// A pod that requests nothing changes no balance.
    fn pre_score(
        &self,
        _state: &mut CycleState,
        pod: &PodInfo,
        _nodes: &[Arc<NodeInfo>],
        _snapshot: &Snapshot,
    ) -> Outcome {
        if pod.requests.milli_cpu == 0 && pod.requests.memory == 0 {
            Err(Status::skip())
        } else {
            Ok(())
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a score, as upstream computes it"
)]
fn balance(used: [(i64, i64); 2]) -> i64 {
    let part = |(used, all): (i64, i64)| (all > 0).then(|| (used as f64 / all as f64).min(1.0));
    let deviation = match (part(used[0]), part(used[1])) {
        (Some(a), Some(b)) => ((a - b) / 2.0).abs(),
        _ => 0.0,
    };
    ((1.0 - deviation) * MAX_NODE_SCORE as f64) as i64
}

impl ScorePlugin for BalancedAllocation {
    fn score(&self, _state: &CycleState, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        let (used, all) = (&node.requested, &node.allocatable);
        balance([
            (used.milli_cpu + pod.requests.milli_cpu, all.milli_cpu),
            (used.memory + pod.requests.memory, all.memory),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::balance;

    #[test]
    fn balance_is_the_distance_from_the_diagonal() {
        for (cpu, memory, expected) in [
            ((5, 10), (5, 10), 100),
            ((10, 10), (0, 10), 50),
            ((20, 10), (5, 10), 75),
            ((3, 10), (0, 0), 100),
        ] {
            assert_eq!(balance([cpu, memory]), expected, "{cpu:?} {memory:?}");
        }
    }
}
