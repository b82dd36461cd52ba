//! The cache: nodes and their pods as the API server has them, plus the pods that are assumed to be on nodes until their
//! binding is confirmed. Changes copy only the nodes that a snapshot still shares.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use super::{NodeInfo, PodInfo, Snapshot};

struct Known {
    info: Arc<PodInfo>,
    assumed: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Cache {
    nodes: HashMap<Arc<str>, Arc<NodeInfo>>,
    pods: HashMap<Arc<str>, Known>,
    /// Nodes that changed since the last snapshot.
    dirty: HashSet<Arc<str>>,
    /// Whether nodes came, went or moved to another zone since then.
    reordered: bool,
    image_nodes: Arc<HashMap<String, usize>>,
}

impl Cache {
    pub(crate) fn set_node(&mut self, node: &Arc<Node>) {
        let name: Arc<str> = node.metadata.name.as_deref().unwrap_or_default().into();
        let entry = self.entry(&name);
        let (known, zone, images) = (entry.node().is_some(), entry.zone(), entry.images.clone());
        let entry = Arc::make_mut(entry);
        entry.set_node(Some(node.clone()));
        let (new_zone, new_images) = (entry.zone(), entry.images.clone());
        self.reordered |= !known || zone != new_zone;
        self.count_images(&images, &new_images);
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        let Some(entry) = self.nodes.get_mut(name) else {
            return;
        };
        let images = entry.images.clone();
        if entry.pods.is_empty() {
            self.nodes.remove(name);
        } else {
            Arc::make_mut(entry).set_node(None);
        }
        self.reordered = true;
        self.count_images(&images, &HashMap::new());
    }

    fn count_images(&mut self, old: &HashMap<String, i64>, new: &HashMap<String, i64>) {
        let mut changes = old
            .keys()
            .filter(|name| !new.contains_key(*name))
            .map(|name| (name, false))
            .peekable();
        let mut news = new
            .keys()
            .filter(|name| !old.contains_key(*name))
            .map(|name| (name, true))
            .peekable();
        if changes.peek().is_none() && news.peek().is_none() {
            return;
        }
        let counts = Arc::make_mut(&mut self.image_nodes);
        for (name, added) in changes.chain(news) {
            let count = counts.entry(name.clone()).or_default();
            *count = if added {
                *count + 1
            } else {
                count.saturating_sub(1)
            };
            if *count == 0 {
                counts.remove(name);
            }
        }
    }

    /// The pod is on its node, as the API server says. Replaces what was known or assumed of it.
    pub(crate) fn set_pod(&mut self, pod: Arc<PodInfo>) {
        self.remove_pod(&pod.uid);
        self.insert(pod, false);
    }

    /// The pod is on its node as far as further cycles are concerned; false if it is there already.
    pub(crate) fn assume(&mut self, pod: Arc<PodInfo>) -> bool {
        if self.pods.contains_key(&pod.uid) {
            return false;
        }
        self.insert(pod, true);
        true
    }

    /// Takes an assumption back, unless it was confirmed; whether there was one.
    pub(crate) fn forget(&mut self, uid: &str) -> bool {
        self.is_assumed(uid) && self.remove_pod(uid)
    }

    pub(crate) fn is_assumed(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|known| known.assumed)
    }

    /// Whether the pod was known.
    pub(crate) fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(known) = self.pods.remove(uid) else {
            return false;
        };
        let name = known.info.node_name.clone();
        let entry = self.entry(&name);
        Arc::make_mut(entry).remove_pod(uid);
        if entry.node().is_none() && entry.pods.is_empty() {
            self.nodes.remove(&name);
        }
        true
    }

    fn insert(&mut self, pod: Arc<PodInfo>, assumed: bool) {
        Arc::make_mut(self.entry(&pod.node_name.clone())).add_pod(pod.clone());
        self.pods.insert(pod.uid.clone(), Known { info: pod, assumed });
    }

    fn entry(&mut self, name: &Arc<str>) -> &mut Arc<NodeInfo> {
        self.dirty.insert(name.clone());
        self.nodes
            .entry(name.clone())
            .or_insert_with(|| Arc::new(NodeInfo::new(name.clone())))
    }

    /// Brings `snapshot` up to date; the work is in proportion to what changed.
    pub(crate) fn update(&mut self, snapshot: &mut Snapshot) {
        snapshot.image_nodes = self.image_nodes.clone();
        if self.reordered {
            self.reordered = false;
            self.dirty.clear();
            snapshot.rebuild(self.nodes.values().filter(|node| node.node().is_some()).cloned());
            return;
        }
        for name in self.dirty.drain() {
            if let Some(node) = self.nodes.get(&name).filter(|node| node.node().is_some()) {
                let known = snapshot.replace(node);
                debug_assert!(known, "a new node sets `reordered`");
            }
        }
    }
}
