//! InterPodAffinity: pods that must, must not, should or should not share a domain with other pods.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use keelson_client::NamespacedName;

use crate::cache::{AffinityTerm, NodeInfo, PodInfo, Snapshot, WeightedTerm};
use crate::framework::{
    ClusterEvent, CycleState, FilterPlugin, Framework, Handle, Lister, MAX_NODE_SCORE, Outcome, Plugin,
    PreFilter, PreFilterPlugin, PreScorePlugin, QueueingHint, ScorePlugin, Status,
};

/// Weight of the required affinity of running pods for the incoming one.
const HARD_POD_AFFINITY_WEIGHT: i64 = 1;

type Labels = BTreeMap<String, String>;

/// How many pods match in a domain: topology key, then value.
#[derive(Clone, Debug, Default)]
struct Domains(HashMap<String, HashMap<String, i64>>);

impl Domains {
    fn add(&mut self, key: &str, node: &NodeInfo, amount: i64) {
        let Some(value) = node.label(key) else { return };
        let values = match self.0.get_mut(key) {
            Some(values) => values,
            None => self.0.entry(key.to_owned()).or_default(),
        };
        match values.get_mut(value) {
            Some(count) => *count += amount,
            None => {
                values.insert(value.to_owned(), amount);
            }
        }
    }

    fn get(&self, key: &str, value: &str) -> i64 {
        self.0
            .get(key)
            .and_then(|values| values.get(value))
            .copied()
            .unwrap_or_default()
    }

    fn is_zero(&self) -> bool {
        self.0.values().flat_map(HashMap::values).all(|count| *count == 0)
    }
}

/// What PreFilter counts.
#[derive(Clone, Default)]
struct Counts {
    /// Running pods that forbid the incoming one in their domain.
    forbidding: Domains,
    /// Running pods that all required terms ask for.
    wanted: Domains,
    /// Running pods that a required anti-affinity term excludes.
    unwanted: Domains,
    namespace_labels: Arc<Labels>,
}

/// What PreScore counts.
#[derive(Clone, Default)]
struct Preferences(Domains);

struct InterPodAffinity {
    namespaces: Arc<dyn Lister<Namespace>>,
}

pub(super) fn register(framework: &mut Framework, handle: &Handle, weight: i64) {
    let plugin = Arc::new(InterPodAffinity {
        namespaces: handle.listers.namespaces.clone(),
    });
    framework
        .pre_filter(&plugin)
        .filter(&plugin)
        .pre_score(&plugin)
        .score(&plugin, weight);
}

impl InterPodAffinity {
    fn labels_of(&self, namespace: &str) -> Labels {
        let namespace = self.namespaces.get(&NamespacedName::new("", namespace));
        namespace
            .and_then(|namespace| namespace.metadata.labels.clone())
            .unwrap_or_default()
    }

    /// Whether `term` speaks of `pod`; namespaces are looked up only where the term selects them.
    fn speaks_of(&self, term: &AffinityTerm, pod: &PodInfo) -> bool {
        if term.selects_namespaces() {
            term.matches(pod, &self.labels_of(&pod.key.namespace))
        } else {
            term.matches(pod, &Labels::new())
        }
    }

    fn speak_of(&self, terms: &[AffinityTerm], pod: &PodInfo) -> bool {
        !terms.is_empty() && terms.iter().all(|term| self.speaks_of(term, pod))
    }

    fn count(&self, counts: &mut Counts, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, amount: i64) {
        for term in &other.affinities.required_anti {
            if term.matches(pod, &counts.namespace_labels) {
                counts.forbidding.add(&term.topology_key, node, amount);
            }
        }
        self.count_own(counts, pod, other, node, amount);
    }

    fn count_own(&self, counts: &mut Counts, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, amount: i64) {
        if self.speak_of(&pod.affinities.required, other) {
            for term in &pod.affinities.required {
                counts.wanted.add(&term.topology_key, node, amount);
            }
        }
        for term in &pod.affinities.required_anti {
            if self.speaks_of(term, other) {
                counts.unwanted.add(&term.topology_key, node, amount);
            }
        }
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn queueing_hint(&self, pod: &PodInfo, event: &ClusterEvent) -> QueueingHint {
        let affinities = &pod.affinities;
        let wants = |other: &PodInfo| self.speak_of(&affinities.required, other);
        let excludes = |other: &PodInfo| {
            affinities
                .required_anti
                .iter()
                .any(|term| self.speaks_of(term, other))
        };
        let excluded_by = |other: &PodInfo| {
            other
                .affinities
                .required_anti
                .iter()
                .any(|term| self.speaks_of(term, pod))
        };
        QueueingHint::queue_if(match event {
            ClusterEvent::PodUpdated { old, new } => old.labels() != new.labels(),
            ClusterEvent::AssignedPodAdded(other) => wants(other),
            ClusterEvent::AssignedPodUpdated { old, new } => {
                (!wants(old) && wants(new)) || (excludes(old) && !excludes(new))
            }
            ClusterEvent::AssignedPodDeleted(other) => excludes(other) || excluded_by(other),
            ClusterEvent::NodeAdded(_) => true,
            ClusterEvent::NodeUpdated { change, .. } => change.labels,
            ClusterEvent::NamespaceChanged => {
                let terms = affinities.required.iter().chain(&affinities.required_anti);
                terms.into_iter().any(AffinityTerm::selects_namespaces)
            }
            _ => false,
        })
    }
}

impl PreFilterPlugin for InterPodAffinity {
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<PreFilter, Status> {
        if let Some(error) = &pod.affinity_error {
            return Err(Status::unresolvable(format!("parsing pod: {error}")));
        }
        let namespace_labels = Arc::new(self.labels_of(&pod.key.namespace));
        let mut counts = Counts {
            namespace_labels,
            ..Counts::default()
        };
        for node in snapshot.with_required_anti_affinity() {
            for other in node
                .pods
                .iter()
                .filter(|other| !other.affinities.required_anti.is_empty())
            {
                for term in &other.affinities.required_anti {
                    if term.matches(pod, &counts.namespace_labels) {
                        counts.forbidding.add(&term.topology_key, node, 1);
                    }
                }
            }
        }
        let own = &pod.affinities;
        if own.required.is_empty() && own.required_anti.is_empty() {
            if counts.forbidding.0.is_empty() {
                return Err(Status::skip());
            }
        } else {
            for node in &snapshot.nodes {
                for other in &node.pods {
                    self.count_own(&mut counts, pod, other, node, 1);
                }
            }
        }
        state.write(counts);
        Ok(PreFilter::All)
    }

    fn add_pod(&self, state: &mut CycleState, pod: &PodInfo, added: &PodInfo, node: &NodeInfo) {
        if let Some(counts) = state.get_mut() {
            self.count(counts, pod, added, node, 1);
        }
    }

    fn remove_pod(&self, state: &mut CycleState, pod: &PodInfo, removed: &PodInfo, node: &NodeInfo) {
        if let Some(counts) = state.get_mut() {
            self.count(counts, pod, removed, node, -1);
        }
    }
}

impl FilterPlugin for InterPodAffinity {
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Outcome {
        let Some(counts) = state.get::<Counts>() else {
            return Ok(());
        };
        let own = &pod.affinities;
        let all_labels = own
            .required
            .iter()
            .all(|term| node.label(&term.topology_key).is_some());
        let found = |term: &AffinityTerm, domains: &Domains| {
            node.label(&term.topology_key)
                .is_some_and(|value| domains.get(&term.topology_key, value) > 0)
        };
        let satisfied = all_labels && {
            let neighbours = own.required.iter().all(|term| found(term, &counts.wanted));
            // The first pod of a group that wants its own kind has to start somewhere.
            neighbours || (counts.wanted.is_zero() && self.speak_of(&own.required, pod))
        };
        if !satisfied {
            return Err(Status::unresolvable("node(s) didn't match pod affinity rules"));
        }
        if own.required_anti.iter().any(|term| found(term, &counts.unwanted)) {
            return Err(Status::unschedulable(
                "node(s) didn't match pod anti-affinity rules",
            ));
        }
        let forbidden = counts.forbidding.0.iter().any(|(key, values)| {
            node.label(key)
                .and_then(|value| values.get(value))
                .is_some_and(|count| *count > 0)
        });
        if forbidden {
            return Err(Status::unschedulable(
                "node(s) didn't satisfy existing pods anti-affinity rules",
            ));
        }
        Ok(())
    }
}

impl PreScorePlugin for InterPodAffinity {
    fn pre_score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        _nodes: &[Arc<NodeInfo>],
        snapshot: &Snapshot,
    ) -> Outcome {
        let own = &pod.affinities;
        let namespace_labels = self.labels_of(&pod.key.namespace);
        let mut domains = Domains::default();
        let of_others = |domains: &mut Domains, node: &NodeInfo, other: &PodInfo| {
            let theirs = &other.affinities;
            for term in theirs
                .required
                .iter()
                .filter(|term| term.matches(pod, &namespace_labels))
            {
                domains.add(&term.topology_key, node, HARD_POD_AFFINITY_WEIGHT);
            }
            for (terms, sign) in [(&theirs.preferred, 1), (&theirs.preferred_anti, -1)] {
                for WeightedTerm { term, weight } in terms {
                    if term.matches(pod, &namespace_labels) {
                        domains.add(&term.topology_key, node, sign * weight);
                    }
                }
            }
        };
        for node in snapshot.with_affinity() {
            for other in node.pods.iter().filter(|other| !other.affinities.is_empty()) {
                of_others(&mut domains, node, other);
            }
        }
        if !(own.preferred.is_empty() && own.preferred_anti.is_empty()) {
            for node in &snapshot.nodes {
                for other in &node.pods {
                    for (terms, sign) in [(&own.preferred, 1), (&own.preferred_anti, -1)] {
                        for WeightedTerm { term, weight } in terms {
                            if self.speaks_of(term, other) {
                                domains.add(&term.topology_key, node, sign * weight);
                            }
                        }
                    }
                }
            }
        }
        if domains.0.is_empty() {
            return Err(Status::skip());
        }
        state.write(Preferences(domains));
        Ok(())
    }
}

impl ScorePlugin for InterPodAffinity {
    fn score(&self, state: &CycleState, _pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        let Some(Preferences(domains)) = state.get() else {
            return 0;
        };
        let of = |(key, values): (&String, &HashMap<String, i64>)| values.get(node.label(key)?).copied();
        domains.0.iter().filter_map(of).sum()
    }

    fn normalize(&self, _state: &CycleState, _nodes: &[Arc<NodeInfo>], scores: &mut [i64]) {
        let most = scores.iter().copied().max().unwrap_or_default();
        let least = scores.iter().copied().min().unwrap_or_default();
        for score in scores {
            *score = if most > least {
                MAX_NODE_SCORE * (*score - least) / (most - least)
            } else {
                0
            };
        }
    }
}
