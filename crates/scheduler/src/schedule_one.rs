//! The scheduling cycle: one pod, one node. Everything up to the binding, which goes on beside the next cycle.

use std::sync::Arc;

use rand::Rng;

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{CycleState, Diagnosis, FitError, Framework, Status};

/// Fewest feasible nodes to look for.
const MIN_FEASIBLE_NODES: usize = 100;
/// Smallest part of the nodes to look for, in percent.
const MIN_FEASIBLE_PERCENTAGE: usize = 5;

/// Why a pod got no node.
pub(crate) enum ScheduleError {
    /// The cluster has no nodes.
    NoNodes,
    /// No node will do; with what the cycle knew, for preemption.
    Fit(FitError, Box<CycleState>),
    /// Something failed.
    Failed(Status),
}

/// Chooses nodes; keeps where the last search ended, so that all nodes get their turn.
#[derive(Default)]
pub(crate) struct Algorithm {
    next_start: usize,
    percentage: u32,
}

impl Algorithm {
    /// `percentage` of the nodes are searched for feasible ones; 0: adaptive.
    pub(crate) fn new(percentage: u32) -> Self {
        Self {
            next_start: 0,
            percentage,
        }
    }

    /// The best node for `pod`.
    pub(crate) fn schedule(
        &mut self,
        framework: &Framework,
        snapshot: &Snapshot,
        pod: &Arc<PodInfo>,
    ) -> Result<(Arc<NodeInfo>, CycleState), ScheduleError> {
        if snapshot.len() == 0 {
            return Err(ScheduleError::NoNodes);
        }
        let mut state = CycleState::default();
        let feasible = self.find_feasible(framework, snapshot, &mut state, pod)?;
        if let [only] = feasible.as_slice() {
            return Ok((only.clone(), state));
        }
        framework
            .run_pre_score(&mut state, pod, &feasible, snapshot)
            .map_err(ScheduleError::Failed)?;
        let scores = framework.run_score(&state, pod, &feasible, snapshot);
        tracing::trace!(pod = %pod.key, ?scores, "nodes scored");
        Ok((feasible[select(&scores)].clone(), state))
    }

    /// The nodes that the pod fits on, or as many as are worth scoring.
    pub(crate) fn find_feasible(
        &mut self,
        framework: &Framework,
        snapshot: &Snapshot,
        state: &mut CycleState,
        pod: &Arc<PodInfo>,
    ) -> Result<Vec<Arc<NodeInfo>>, ScheduleError> {
        let mut diagnosis = Diagnosis::default();
        let restriction = match framework.run_pre_filter(state, pod, snapshot) {
            Ok(restriction) => restriction,
            Err(status) if status.is_rejected() => {
                diagnosis.pre_filter = status.message();
                diagnosis.plugins.insert(status.plugin);
                diagnosis.absent = status;
                return Err(unfit(snapshot, diagnosis, state));
            }
            Err(status) => return Err(ScheduleError::Failed(status)),
        };
        // A pod that preemption made room for looks there first.
        if let Some(node) = framework.nominator.node_of(&pod.uid) {
            let allowed = restriction
                .nodes
                .as_ref()
                .is_none_or(|names| names.contains(&node));
            let fits = |node: &&Arc<NodeInfo>| framework.run_filter_with_nominated(state, pod, node).is_ok();
            if let Some(node) = snapshot.get(&node).filter(|_| allowed).filter(fits) {
                return Ok(vec![node.clone()]);
            }
        }
        let names = &restriction.nodes;
        let feasible = match names {
            Some(names) => {
                diagnosis.absent = restriction.refusal();
                diagnosis.plugins.extend(&restriction.plugins);
                let nodes = names.iter().filter_map(|name| snapshot.get(name));
                let (found, _) = filter(framework, state, pod, nodes, usize::MAX, &mut diagnosis)?;
                found
            }
            None => {
                let wanted = self.feasible_to_find(snapshot.len(), framework.percentage);
                let start = self.next_start % snapshot.len();
                let nodes = snapshot.nodes[start..].iter().chain(&snapshot.nodes[..start]);
                let (found, asked) = filter(framework, state, pod, nodes, wanted, &mut diagnosis)?;
                self.next_start = (start + asked) % snapshot.len();
                found
            }
        };
        if feasible.is_empty() {
            Err(unfit(snapshot, diagnosis, state))
        } else {
            Ok(feasible)
        }
    }

    /// `own`: the percentage of the pod's profile.
    fn feasible_to_find(&self, nodes: usize, own: Option<u32>) -> usize {
        let percentage = own.unwrap_or(self.percentage);
        if nodes < MIN_FEASIBLE_NODES || percentage >= 100 {
            return nodes;
        }
        let percentage = match percentage as usize {
            0 => 50usize.saturating_sub(nodes / 125).max(MIN_FEASIBLE_PERCENTAGE),
            given => given,
        };
        (nodes * percentage / 100).max(MIN_FEASIBLE_NODES)
    }
}

fn unfit(snapshot: &Snapshot, diagnosis: Diagnosis, state: &mut CycleState) -> ScheduleError {
    let state = std::mem::take(state);
    ScheduleError::Fit(
        FitError {
            nodes: snapshot.len(),
            diagnosis,
        },
        Box::new(state),
    )
}

/// The first `wanted` feasible ones of `nodes`, and how many were asked.
fn filter<'a>(
    framework: &Framework,
    state: &CycleState,
    pod: &PodInfo,
    nodes: impl Iterator<Item = &'a Arc<NodeInfo>>,
    wanted: usize,
    diagnosis: &mut Diagnosis,
) -> Result<(Vec<Arc<NodeInfo>>, usize), ScheduleError> {
    let (mut feasible, mut asked) = (Vec::new(), 0);
    for node in nodes {
        asked += 1;
        match framework.run_filter_with_nominated(state, pod, node) {
            Ok(()) => feasible.push(node.clone()),
            Err(status) if status.is_rejected() => diagnosis.refuse(node.shared_name().clone(), status),
            Err(status) => return Err(ScheduleError::Failed(status)),
        }
        if feasible.len() >= wanted {
            break;
        }
    }
    Ok((feasible, asked))
}

/// The place of a highest score, any of them with the same chance.
fn select(scores: &[i64]) -> usize {
    let best = scores.iter().max().copied().unwrap_or_default();
    let ties = scores.iter().filter(|score| **score == best).count().max(1);
    let chosen = rand::rng().random_range(0..ties);
    let mut places = scores
        .iter()
        .enumerate()
        .filter(|(_, score)| **score == best)
        .map(|(at, _)| at);
    places.nth(chosen).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::Algorithm;
    use crate::framework::CycleState;
    use crate::testing::{World, node, pod};

    #[test]
    fn large_clusters_are_searched_in_part() {
        for (nodes, percentage, expected) in [
            (50, 0, 50),
            (100, 0, 100),
            (1000, 0, 420),
            (5000, 0, 500),
            (10000, 0, 500),
            (1000, 30, 300),
            (200, 10, 100),
            (1000, 100, 1000),
        ] {
            assert_eq!(
                Algorithm::new(percentage).feasible_to_find(nodes, None),
                expected,
                "{nodes} at {percentage} %"
            );
        }
    }

    #[tokio::test]
    async fn every_node_gets_its_turn() {
        let nodes: Vec<_> = (0..300).map(|at| node(&format!("n{at}"), "")).collect();
        let world = World::new(&nodes);
        let mut algorithm = Algorithm::new(0);
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let pod = pod(json!({}));
            let mut state = CycleState::default();
            let found = algorithm.find_feasible(&world.framework, &world.snapshot, &mut state, &pod);
            let found = found.unwrap_or_else(|_| panic!("it fits"));
            assert_eq!(found.len(), 144);
            seen.extend(found.iter().map(|node| node.name().to_owned()));
        }
        assert_eq!(seen.len(), 300);
    }
}
