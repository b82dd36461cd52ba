//! PodTopologySpread: pods of a kind are spread over domains, strictly (DoNotSchedule) or as well as possible (ScheduleAnyway).
//! Pods without constraints are spread over nodes and zones with the others that their service or controller selects.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use keelson_api::selector::{LabelSelector, Operator, Requirement};
use keelson_client::NamespacedName;

use super::taint_toleration::untolerated;
use crate::cache::{NodeInfo, PodInfo, Snapshot, label_selector};
use crate::framework::{
    ClusterEvent, CycleState, FilterPlugin, Framework, Handle, Listers, MAX_NODE_SCORE, Outcome, Plugin,
    PreFilter, PreFilterPlugin, PreScorePlugin, QueueingHint, ScorePlugin, Status,
};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Score of a node that lacks a topology key.
const INVALID: i64 = -1;

#[derive(Clone, Debug)]
struct Constraint {
    max_skew: i64,
    key: String,
    selector: LabelSelector,
    min_domains: usize,
    honor_affinity: bool,
    honor_taints: bool,
}

impl Constraint {
    fn parse(constraint: &TopologySpreadConstraint, pod: &PodInfo) -> Result<Self, String> {
        let mut extra = Vec::new();
        for key in constraint.match_label_keys.iter().flatten() {
            if let Some(value) = pod.labels().get(key) {
                let requirement = Requirement::new(key, Operator::In, vec![value.clone()]);
                extra.push(requirement.map_err(|error| error.to_string())?);
            }
        }
        let honors = |policy: &Option<String>, default: &str| policy.as_deref().unwrap_or(default) == "Honor";
        Ok(Self {
            max_skew: i64::from(constraint.max_skew),
            key: constraint.topology_key.clone(),
            selector: label_selector(constraint.label_selector.as_ref(), extra)?,
            min_domains: usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1),
            honor_affinity: honors(&constraint.node_affinity_policy, "Honor"),
            honor_taints: honors(&constraint.node_taints_policy, "Ignore"),
        })
    }

    /// Whether the node counts for this constraint.
    fn includes(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        (!self.honor_affinity || pod.node_affinity.matches(node.name(), node.labels()))
            && (!self.honor_taints || untolerated(node.taints(), pod.tolerations()).is_none())
    }

    fn selects(&self, pod: &PodInfo) -> bool {
        self.selector
            .matches_by(|key| pod.labels().get(key).map(String::as_str))
    }

    /// The pods of a namespace on the node that the constraint counts.
    fn count(&self, node: &NodeInfo, namespace: &str) -> i64 {
        let counted = |other: &&Arc<PodInfo>| {
            *other.key.namespace == *namespace && !other.is_terminating() && self.selects(other)
        };
        i64::try_from(node.pods.iter().filter(counted).count()).unwrap_or(i64::MAX)
    }
}

fn constraints_of(pod: &PodInfo, action: &str) -> Result<Vec<Constraint>, Status> {
    let all = pod
        .spec()
        .and_then(|spec| spec.topology_spread_constraints.as_deref())
        .unwrap_or_default();
    let wanted = all
        .iter()
        .filter(|constraint| constraint.when_unsatisfiable == action);
    wanted
        .map(|constraint| Constraint::parse(constraint, pod).map_err(Status::error))
        .collect()
}

fn has_all_keys(node: &NodeInfo, constraints: &[Constraint]) -> bool {
    constraints
        .iter()
        .all(|constraint| node.label(&constraint.key).is_some())
}

/// Pods per domain for each strict constraint.
#[derive(Clone)]
struct Counts {
    constraints: Arc<[Constraint]>,
    domains: Vec<HashMap<String, i64>>,
    least: Vec<i64>,
}

impl Counts {
    fn find_least(&mut self) {
        let least = |(constraint, domains): (&Constraint, &HashMap<String, i64>)| {
            if domains.len() < constraint.min_domains {
                0
            } else {
                domains.values().copied().min().unwrap_or_default()
            }
        };
        self.least = self.constraints.iter().zip(&self.domains).map(least).collect();
    }

    fn imagine(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, amount: i64) {
        let constraints = self.constraints.clone();
        if other.key.namespace != pod.key.namespace || !has_all_keys(node, &constraints) {
            return;
        }
        for (constraint, domains) in constraints.iter().zip(&mut self.domains) {
            if constraint.selects(other) && constraint.includes(pod, node) {
                let value = node.label(&constraint.key).unwrap_or_default();
                *domains.entry(value.to_owned()).or_default() += amount;
            }
        }
        self.find_least();
    }
}

/// What Score needs for the soft constraints.
#[derive(Clone)]
struct Preferences {
    constraints: Arc<[Constraint]>,
    /// Empty for the host name, which is counted node by node.
    domains: Vec<HashMap<String, i64>>,
    weights: Vec<f64>,
    require_all: bool,
}

impl Preferences {
    fn ignores(&self, node: &NodeInfo) -> bool {
        self.require_all && !has_all_keys(node, &self.constraints)
    }
}

struct PodTopologySpread {
    listers: Listers,
}

pub(super) fn register(framework: &mut Framework, handle: &Handle, weight: i64) {
    let plugin = Arc::new(PodTopologySpread {
        listers: handle.listers.clone(),
    });
    framework
        .pre_filter(&plugin)
        .filter(&plugin)
        .pre_score(&plugin)
        .score(&plugin, weight);
}

impl PodTopologySpread {
    /// The constraints of a cluster's pods that say nothing themselves: loosely by node and more loosely by zone.
    fn default_constraints(&self, pod: &PodInfo) -> Vec<Constraint> {
        let selector = self.default_selector(pod);
        if selector.is_nothing() || selector.is_everything() {
            return Vec::new();
        }
        let constraint = |key: &str, max_skew| Constraint {
            max_skew,
            key: key.to_owned(),
            selector: selector.clone(),
            min_domains: 1,
            honor_affinity: true,
            honor_taints: false,
        };
        vec![constraint(HOSTNAME, 3), constraint(ZONE, 5)]
    }

    /// What all services of the pod and its controller select, together.
    fn default_selector(&self, pod: &PodInfo) -> LabelSelector {
        let namespace = &*pod.key.namespace;
        let mut requirements = Vec::new();
        let mut add = |labels: &std::collections::BTreeMap<String, String>| {
            for (key, value) in labels {
                requirements.extend(Requirement::new(key, Operator::Equals, vec![value.clone()]));
            }
        };
        for service in self.listers.services.list_in(namespace) {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let selects = |selector: &&std::collections::BTreeMap<String, String>| {
                !selector.is_empty()
                    && selector
                        .iter()
                        .all(|(key, value)| pod.labels().get(key) == Some(value))
            };
            if let Some(selector) = selector.filter(selects) {
                add(selector);
            }
        }
        let owners = pod.pod.metadata.owner_references.iter().flatten();
        let Some(owner) = owners.into_iter().find(|owner| owner.controller == Some(true)) else {
            return LabelSelector::new(requirements);
        };
        let key = NamespacedName::new(namespace, &owner.name);
        let group = owner.api_version.split('/').next().unwrap_or_default();
        let selector = match (owner.kind.as_str(), group) {
            ("ReplicationController", "v1") => {
                let controller = self.listers.replication_controllers.get(&key);
                if let Some(labels) = controller.and_then(|c| c.spec.as_ref()?.selector.clone()) {
                    add(&labels);
                }
                None
            }
            ("ReplicaSet", "apps") => self
                .listers
                .replica_sets
                .get(&key)
                .and_then(|set| set.spec.clone())
                .map(|s| s.selector),
            ("StatefulSet", "apps") => self
                .listers
                .stateful_sets
                .get(&key)
                .and_then(|set| set.spec.clone())
                .map(|s| s.selector),
            _ => None,
        };
        if let Some(selector) = selector.and_then(|selector| label_selector(Some(&selector), Vec::new()).ok())
        {
            requirements.extend(selector.requirements().iter().cloned());
        }
        LabelSelector::new(requirements)
    }
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn queueing_hint(&self, pod: &PodInfo, event: &ClusterEvent) -> QueueingHint {
        let Ok(constraints) = constraints_of(pod, "DoNotSchedule") else {
            return QueueingHint::Queue;
        };
        let counts = |other: &PodInfo| {
            other.key.namespace == pod.key.namespace
                && constraints.iter().any(|constraint| constraint.selects(other))
        };
        QueueingHint::queue_if(match event {
            ClusterEvent::AssignedPodAdded(other) | ClusterEvent::AssignedPodDeleted(other) => counts(other),
            ClusterEvent::AssignedPodUpdated { old, new } => counts(old) != counts(new),
            ClusterEvent::NodeAdded(_) | ClusterEvent::NodeDeleted => true,
            ClusterEvent::PodUpdated { old, new } => {
                old.labels() != new.labels() || old.tolerations() != new.tolerations()
            }
            ClusterEvent::NodeUpdated { change, .. } => change.labels || change.taints,
            _ => false,
        })
    }
}

impl PreFilterPlugin for PodTopologySpread {
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<PreFilter, Status> {
        let constraints = constraints_of(pod, "DoNotSchedule")?;
        if constraints.is_empty() {
            return Err(Status::skip());
        }
        let mut domains = vec![HashMap::new(); constraints.len()];
        for node in snapshot
            .nodes
            .iter()
            .filter(|node| has_all_keys(node, &constraints))
        {
            for (constraint, domains) in constraints.iter().zip(&mut domains) {
                if constraint.includes(pod, node) {
                    let value = node.label(&constraint.key).unwrap_or_default();
                    *domains.entry(value.to_owned()).or_default() +=
                        constraint.count(node, &pod.key.namespace);
                }
            }
        }
        let mut counts = Counts {
            constraints: constraints.into(),
            domains,
            least: Vec::new(),
        };
        counts.find_least();
        state.write(counts);
        Ok(PreFilter::All)
    }

    fn add_pod(&self, state: &mut CycleState, pod: &PodInfo, added: &PodInfo, node: &NodeInfo) {
        if let Some(counts) = state.get_mut::<Counts>() {
            counts.imagine(pod, added, node, 1);
        }
    }

    fn remove_pod(&self, state: &mut CycleState, pod: &PodInfo, removed: &PodInfo, node: &NodeInfo) {
        if let Some(counts) = state.get_mut::<Counts>() {
            counts.imagine(pod, removed, node, -1);
        }
    }
}

impl FilterPlugin for PodTopologySpread {
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Outcome {
        let Some(counts) = state.get::<Counts>() else {
            return Ok(());
        };
        for (at, constraint) in counts.constraints.iter().enumerate() {
            let Some(value) = node.label(&constraint.key) else {
                let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Status::unresolvable(reason));
            };
            let there = counts.domains[at].get(value).copied().unwrap_or_default();
            if there + i64::from(constraint.selects(pod)) - counts.least[at] > constraint.max_skew {
                return Err(Status::unschedulable(
                    "node(s) didn't match pod topology spread constraints",
                ));
            }
        }
        Ok(())
    }
}

impl PreScorePlugin for PodTopologySpread {
    #[expect(clippy::cast_precision_loss, reason = "a count of nodes")]
    fn pre_score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        nodes: &[Arc<NodeInfo>],
        snapshot: &Snapshot,
    ) -> Outcome {
        let own = pod
            .spec()
            .and_then(|spec| spec.topology_spread_constraints.as_deref())
            .unwrap_or_default();
        let require_all = !own.is_empty();
        let constraints = if require_all {
            constraints_of(pod, "ScheduleAnyway")?
        } else {
            self.default_constraints(pod)
        };
        if constraints.is_empty() {
            return Err(Status::skip());
        }
        let count = constraints.len();
        let mut preferences = Preferences {
            constraints: constraints.into(),
            domains: vec![HashMap::new(); count],
            weights: Vec::new(),
            require_all,
        };
        let constraints = preferences.constraints.clone();
        let scored: Vec<_> = nodes.iter().filter(|node| !preferences.ignores(node)).collect();
        for (constraint, domains) in constraints.iter().zip(&mut preferences.domains) {
            let size = if constraint.key == HOSTNAME {
                scored.len()
            } else {
                for node in &scored {
                    domains.insert(node.label(&constraint.key).unwrap_or_default().to_owned(), 0);
                }
                domains.len()
            };
            // Domains of a small topology weigh no less than those of a large one.
            preferences.weights.push(((size + 2) as f64).ln());
        }
        for node in &snapshot.nodes {
            if preferences.ignores(node) {
                continue;
            }
            for (constraint, domains) in constraints.iter().zip(&mut preferences.domains) {
                if domains.is_empty() || !constraint.includes(pod, node) {
                    continue;
                }
                if let Some(sum) = domains.get_mut(node.label(&constraint.key).unwrap_or_default()) {
                    *sum += constraint.count(node, &pod.key.namespace);
                }
            }
        }
        state.write(preferences);
        Ok(())
    }
}

impl ScorePlugin for PodTopologySpread {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a score, as upstream computes it"
    )]
    fn score(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        let Some(preferences) = state.get::<Preferences>() else {
            return 0;
        };
        if preferences.ignores(node) {
            return INVALID;
        }
        let mut score = 0.0;
        for (at, constraint) in preferences.constraints.iter().enumerate() {
            let Some(value) = node.label(&constraint.key) else {
                continue;
            };
            let count = if constraint.key == HOSTNAME {
                constraint.count(node, &pod.key.namespace)
            } else {
                preferences.domains[at].get(value).copied().unwrap_or_default()
            };
            score += count as f64 * preferences.weights[at] + (constraint.max_skew - 1) as f64;
        }
        score.round() as i64
    }

    fn normalize(&self, _state: &CycleState, _nodes: &[Arc<NodeInfo>], scores: &mut [i64]) {
        let valid = || scores.iter().copied().filter(|score| *score != INVALID);
        let (most, least) = (
            valid().max().unwrap_or_default(),
            valid().min().unwrap_or_default(),
        );
        for score in scores {
            *score = match *score {
                INVALID => 0,
                _ if most == 0 => MAX_NODE_SCORE,
                score => MAX_NODE_SCORE * (most + least - score) / most,
            };
        }
    }
}
