//! Which victims preemption prefers: the pure part.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::cache::{PodInfo, label_selector};

/// A node and the pods that would have to go, the most important first; never empty when chosen from.
pub(super) struct Candidate {
    pub(super) node: Arc<str>,
    pub(super) victims: Vec<Arc<PodInfo>>,
    /// Victims whose disruption budget would be violated.
    pub(super) violations: usize,
}

/// Splits pods into those whose disruption budgets would be violated, taken in this order, and the others.
pub(super) fn split_by_budgets(
    pods: &[Arc<PodInfo>],
    budgets: &[Arc<PodDisruptionBudget>],
) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let selector = |budget: &PodDisruptionBudget| {
        let selector = label_selector(budget.spec.as_ref()?.selector.as_ref(), Vec::new()).ok()?;
        (!selector.is_everything()).then_some(selector)
    };
    let allowed = |budget: &PodDisruptionBudget| {
        budget
            .status
            .as_ref()
            .and_then(|status| status.disruptions_allowed)
            .unwrap_or_default()
    };
    let mut known: Vec<_> = budgets
        .iter()
        .filter_map(|b| Some((b, selector(b)?, allowed(b))))
        .collect();
    pods.iter().cloned().partition(|pod| {
        let mut violated = false;
        for (budget, selector, allowed) in &mut known {
            let concerned = !pod.labels().is_empty()
                && budget.metadata.namespace.as_deref() == Some(&*pod.key.namespace)
                && selector.matches_by(|key| pod.labels().get(key).map(String::as_str));
            let disrupted = || {
                let disrupted = budget
                    .status
                    .as_ref()
                    .and_then(|status| status.disrupted_pods.as_ref());
                disrupted.is_some_and(|pods| pods.contains_key(&*pod.key.name))
            };
            if concerned && !disrupted() {
                *allowed -= 1;
                violated |= *allowed < 0;
            }
        }
        violated
    })
}

/// The candidate with the fewest violations, then the least important first victim, the smallest sum of priorities, the fewest
/// victims, the latest start of its most important victims.
pub(super) fn select_candidate(candidates: Vec<Candidate>) -> Candidate {
    let cost = |candidate: &Candidate| {
        let highest = candidate
            .victims
            .iter()
            .map(|victim| victim.priority)
            .max()
            .unwrap_or(i32::MIN);
        let sum: i64 = candidate
            .victims
            .iter()
            .map(|v| i64::from(v.priority) + i64::from(i32::MAX) + 1)
            .sum();
        let important = candidate
            .victims
            .iter()
            .filter(|victim| victim.priority == highest);
        let earliest = important.map(|victim| victim.start_time()).min();
        (
            candidate.violations,
            highest,
            sum,
            candidate.victims.len(),
            Reverse(earliest),
        )
    };
    let best = candidates.into_iter().min_by_key(cost);
    best.expect("invariant: there is at least one candidate")
}
