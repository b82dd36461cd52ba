//! Which outdated pods go next, or which nodes get the new pod beside the old one.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keelson_api::int_or_string::IntOrString as Scalable;

use super::manage::{PodsByNode, Rules, is_updated};
use crate::shared::owner::is_deleting;
use crate::shared::pod::is_available;

/// How many nodes may be without a pod, or have two, during an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) surge: usize,
    pub(super) unavailable: usize,
}

/// The limits for `nodes` nodes; both are rounded up, and never both 0.
pub(super) fn limits(set: &DaemonSet, nodes: usize) -> Limits {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let total = i32::try_from(nodes).unwrap_or(i32::MAX);
    let scaled = |value: Option<&IntOrString>, default: i32| {
        let value = match value {
            Some(IntOrString::Int(number)) => Scalable::Int(*number),
            Some(IntOrString::String(text)) => Scalable::String(text.clone()),
            None => Scalable::Int(default),
        };
        // Validation admits numbers and percentages only.
        usize::try_from(value.scaled(total, true).unwrap_or(default)).unwrap_or(0)
    };
    let surge = scaled(rolling.and_then(|rolling| rolling.max_surge.as_ref()), 0);
    let unavailable = scaled(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), 1);
    Limits {
        surge,
        unavailable: if surge == 0 && unavailable == 0 {
            1
        } else {
            unavailable
        },
    }
}

/// What the next step of the update is.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) delete: Vec<Arc<Pod>>,
    pub(super) create_on: Vec<String>,
}

/// The new and the old pod of a node.
type Pair = (Option<Arc<Pod>>, Option<Arc<Pod>>);

/// The pair of a node; `None` if there are several of one kind, which is not the update's business.
fn pair(pods: &[Arc<Pod>], hash: &str) -> Option<Pair> {
    let (mut new, mut old) = (None, None);
    for pod in pods.iter().filter(|pod| !is_deleting(pod.as_ref())) {
        let slot = if is_updated(pod, hash) { &mut new } else { &mut old };
        if slot.replace(pod.clone()).is_some() {
            return None;
        }
    }
    Some((new, old))
}

/// Decides the next step. `nodes` has every node that should run a pod, also one without any.
pub(super) fn step(nodes: &PodsByNode, limits: Limits, rules: &Rules<'_>) -> Step {
    if limits.surge == 0 {
        replace(nodes, limits.unavailable, rules)
    } else {
        surge(nodes, limits.surge, rules)
    }
}

/// Old pods are deleted, those that are down already first; the missing pods come by the ordinary way.
fn replace(nodes: &PodsByNode, most: usize, rules: &Rules<'_>) -> Step {
    let available = |pod: &Pod| is_available(pod, rules.min_ready_seconds, rules.now);
    let (mut unavailable, mut down, mut candidates) = (0_usize, Vec::new(), Vec::new());
    for pods in nodes.values() {
        match pair(pods, rules.hash) {
            Some((None, Some(old))) if available(&old) => candidates.push(old),
            Some((None, Some(old))) => {
                unavailable += 1;
                down.push(old);
            }
            Some((Some(new), None)) if available(&new) => {}
            // Nothing there, not yet available, or a mess that is being cleaned up.
            _ => unavailable += 1,
        }
    }
    candidates.truncate(most.saturating_sub(unavailable));
    down.extend(candidates);
    Step {
        delete: down,
        create_on: Vec::new(),
    }
}

/// New pods are created beside the old ones, which go when the new ones are available.
fn surge(nodes: &PodsByNode, most: usize, rules: &Rules<'_>) -> Step {
    let available = |pod: &Pod| is_available(pod, rules.min_ready_seconds, rules.now);
    let mut step = Step::default();
    let (mut surging, mut candidates) = (0_usize, Vec::new());
    for (node, pods) in nodes {
        match pair(pods, rules.hash) {
            None => surging += 1,
            Some((_, None)) => {}
            Some((None, Some(old))) if available(&old) => candidates.push(node.clone()),
            Some((None, Some(_))) => step.create_on.push(node.clone()),
            Some((Some(new), Some(old))) if available(&new) => step.delete.push(old),
            Some((Some(_), Some(_))) => surging += 1,
        }
    }
    candidates.truncate(most.saturating_sub(surging));
    step.create_on.extend(candidates);
    step
}

#[cfg(test)]
mod tests {
    use super::super::manage::tests::pod;
    use super::*;
    use crate::shared::owner::name;

    #[test]
    fn steps() {
        let check = |surge, unavailable, nodes: &[&[&str]], delete: &[&str], create_on: &[&str]| {
            let nodes: PodsByNode = nodes
                .iter()
                .enumerate()
                .map(|(i, pods)| (format!("n{i}"), pods.iter().map(|text| pod(text)).collect()))
                .collect();
            let rules = Rules {
                hash: "new",
                surge: surge > 0,
                min_ready_seconds: 0,
                now: "2026-01-01T00:01:00Z".parse().unwrap(),
            };
            let step = step(&nodes, Limits { surge, unavailable }, &rules);
            let deleted: Vec<_> = step.delete.iter().map(|pod| name(pod.as_ref())).collect();
            assert_eq!(deleted, delete, "{nodes:?}");
            assert_eq!(step.create_on, create_on, "{nodes:?}");
        };
        check(0, 1, &[&["a:old:r"], &["b:old:r"]], &["a"], &[]);
        check(0, 1, &[&["a:old:r"], &["b:old:u"]], &["b"], &[]);
        check(0, 1, &[&["a:old:r"], &["b:new:u"]], &[], &[]);
        check(0, 1, &[&["a:old:r"], &[]], &[], &[]);
        check(0, 1, &[&["a:old:r"], &["b:new:r"]], &["a"], &[]);
        check(0, 2, &[&["a:old:r"], &["b:old:t"], &["c:old:r"]], &["a"], &[]);
        check(1, 0, &[&["a:old:r"], &["b:old:r"]], &[], &["n0"]);
        check(1, 0, &[&["a:old:r"], &[]], &[], &["n0"]);
        check(1, 0, &[&["a:old:r", "x:new:u"], &["b:old:r"]], &[], &[]);
        check(1, 0, &[&["a:old:r", "x:new:r"], &["b:old:r"]], &["a"], &["n1"]);
        check(1, 0, &[&["a:old:u"], &["b:old:r"]], &[], &["n0", "n1"]);
    }
}
