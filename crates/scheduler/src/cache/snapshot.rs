//! The nodes as one scheduling cycle sees them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::NodeInfo;

/// Nodes in an order that alternates between zones. Owned by the scheduling loop; the cache brings it up to date.
#[derive(Default)]
pub(crate) struct Snapshot {
    pub(crate) nodes: Vec<Arc<NodeInfo>>,
    at: HashMap<Arc<str>, usize>,
    with_affinity: BTreeSet<usize>,
    with_required_anti_affinity: BTreeSet<usize>,
    /// On how many nodes each image is.
    pub(crate) image_nodes: Arc<HashMap<String, usize>>,
}

impl Snapshot {
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.at.get(name).map(|at| &self.nodes[*at])
    }

    /// Nodes with pods that have any term of affinity.
    pub(crate) fn with_affinity(&self) -> impl Iterator<Item = &Arc<NodeInfo>> {
        self.with_affinity.iter().map(|at| &self.nodes[*at])
    }

    /// Nodes with pods that require others to be away.
    pub(crate) fn with_required_anti_affinity(&self) -> impl Iterator<Item = &Arc<NodeInfo>> {
        self.with_required_anti_affinity.iter().map(|at| &self.nodes[*at])
    }

    /// Replaces one node that is in the snapshot already; false if it is not.
    pub(super) fn replace(&mut self, node: &Arc<NodeInfo>) -> bool {
        let Some(at) = self.at.get(node.name()).copied() else {
            return false;
        };
        self.nodes[at] = node.clone();
        self.classify(at);
        true
    }

    /// Starts over with all nodes.
    pub(crate) fn rebuild(&mut self, nodes: impl Iterator<Item = Arc<NodeInfo>>) {
        let mut zones: BTreeMap<String, Vec<Arc<NodeInfo>>> = BTreeMap::new();
        for node in nodes {
            zones.entry(node.zone()).or_default().push(node);
        }
        let mut lists: Vec<_> = zones.into_values().collect();
        for list in &mut lists {
            list.sort_by(|a, b| b.name().cmp(a.name()));
        }
        self.nodes.clear();
        while !lists.is_empty() {
            lists.retain_mut(|list| {
                self.nodes.extend(list.pop());
                !list.is_empty()
            });
        }
        self.at = self
            .nodes
            .iter()
            .enumerate()
            .map(|(at, node)| (node.shared_name().clone(), at))
            .collect();
        self.with_affinity.clear();
        self.with_required_anti_affinity.clear();
        (0..self.nodes.len()).for_each(|at| self.classify(at));
    }

    fn classify(&mut self, at: usize) {
        let put = |set: &mut BTreeSet<usize>, belongs| if belongs { set.insert(at) } else { set.remove(&at) };
        let node = &self.nodes[at];
        put(&mut self.with_affinity, node.has_pods_with_affinity());
        put(
            &mut self.with_required_anti_affinity,
            node.has_pods_with_required_anti_affinity(),
        );
    }
}
