//! Which node may see which object: node ← pod ← secrets, config maps, claims, volumes, service accounts.
//!
//! Kept as counted references from objects to nodes, brought up to date from the events of the watch caches when it is
//! asked. Only pods that are bound count; mirror pods give access to nothing but themselves.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use crate::resources::Resources;
use crate::watch_cache::{CachedObject, EventType, Follower, Interest, KindCache, PageRequest};

/// A kind that nodes reach through pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vertex {
    /// Pod
    Pod,
    /// Secret
    Secret,
    /// ConfigMap
    ConfigMap,
    /// PersistentVolumeClaim
    Claim,
    /// PersistentVolume
    Volume,
    /// ServiceAccount
    ServiceAccount,
    /// ResourceClaim
    ResourceClaim,
    /// ResourceSlice
    ResourceSlice,
    /// VolumeAttachment
    VolumeAttachment,
}

/// Kind, namespace, name.
type Key = (Vertex, String, String);

/// What one object contributes: edges from keys to a node, or from keys to keys.
#[derive(Debug, Default, PartialEq, Eq)]
struct Contribution {
    node: String,
    reached: Vec<Key>,
    /// For a volume: its claim, and the secrets that whoever reaches the claim may read.
    claim: Option<Key>,
}

/// The graph.
#[derive(Debug, Default)]
pub struct NodeGraph {
    /// By source object (`pods/ns/name`, ...).
    sources: HashMap<Key, Contribution>,
    /// Object → node → number of sources.
    nodes: HashMap<Key, HashMap<String, usize>>,
    /// Secret or volume → claims through which it is reached.
    through: HashMap<Key, HashSet<Key>>,
}

impl NodeGraph {
    /// Whether there is a path from the object to the node.
    pub fn reaches(&self, vertex: Vertex, namespace: &str, name: &str, node: &str) -> bool {
        let key = (vertex, namespace.to_owned(), name.to_owned());
        let direct = |key: &Key| self.nodes.get(key).is_some_and(|nodes| nodes.contains_key(node));
        direct(&key)
            || self
                .through
                .get(&key)
                .is_some_and(|claims| claims.iter().any(direct))
    }

    /// Takes in the current state of an object.
    pub fn put(&mut self, vertex: Vertex, namespace: &str, name: &str, object: &Value) {
        let new = match vertex {
            Vertex::Pod => of_pod(namespace, name, object),
            Vertex::Volume => of_volume(name, object),
            Vertex::VolumeAttachment | Vertex::ResourceSlice => {
                let node = object
                    .pointer("/spec/nodeName")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                let reached = vec![(vertex, String::new(), name.to_owned())];
                Contribution {
                    node: node.to_owned(),
                    reached,
                    claim: None,
                }
            }
            _ => return,
        };
        let source = (vertex, namespace.to_owned(), name.to_owned());
        if self.sources.get(&source) == Some(&new) {
            return;
        }
        self.remove_source(&source);
        if let Some(claim) = &new.claim {
            for key in &new.reached {
                self.through.entry(key.clone()).or_default().insert(claim.clone());
            }
        } else if new.node.is_empty() {
            return;
        } else {
            for key in &new.reached {
                *self
                    .nodes
                    .entry(key.clone())
                    .or_default()
                    .entry(new.node.clone())
                    .or_default() += 1;
            }
        }
        self.sources.insert(source, new);
    }

    /// Forgets an object.
    pub fn remove(&mut self, vertex: Vertex, namespace: &str, name: &str) {
        self.remove_source(&(vertex, namespace.to_owned(), name.to_owned()));
    }

    fn remove_source(&mut self, source: &Key) {
        let Some(old) = self.sources.remove(source) else {
            return;
        };
        for key in old.reached {
            if let Some(claim) = &old.claim {
                // Two volumes of one claim never exist at once: a claim binds one volume, and a secret named by two
                // volumes of different claims has one entry for each.
                let still = self
                    .sources
                    .values()
                    .any(|s| s.claim.as_ref() == Some(claim) && s.reached.contains(&key));
                if !still && let Some(claims) = self.through.get_mut(&key) {
                    claims.remove(claim);
                    if claims.is_empty() {
                        self.through.remove(&key);
                    }
                }
                continue;
            }
            let Some(nodes) = self.nodes.get_mut(&key) else {
                continue;
            };
            if let Some(count) = nodes.get_mut(&old.node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&old.node);
                }
            }
            if nodes.is_empty() {
                self.nodes.remove(&key);
            }
        }
    }
}

fn of_pod(namespace: &str, name: &str, pod: &Value) -> Contribution {
    let text = |v: &Value, pointer: &str| v.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let node = text(pod, "/spec/nodeName").unwrap_or_default();
    let key = |vertex, name: String| (vertex, namespace.to_owned(), name);
    let mut reached = vec![key(Vertex::Pod, name.to_owned())];
    if node.is_empty()
        || pod
            .pointer("/metadata/annotations/kubernetes.io~1config.mirror")
            .is_some()
    {
        return Contribution {
            node,
            reached,
            claim: None,
        };
    }
    if let Some(account) = text(pod, "/spec/serviceAccountName") {
        reached.push(key(Vertex::ServiceAccount, account));
    }
    let list = |pointer: &str| {
        pod.pointer(pointer)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    for reference in list("/spec/imagePullSecrets") {
        reached.extend(text(reference, "/name").map(|n| key(Vertex::Secret, n)));
    }
    for containers in [
        "/spec/initContainers",
        "/spec/containers",
        "/spec/ephemeralContainers",
    ] {
        for container in list(containers) {
            of_container(container, |vertex, name| reached.push(key(vertex, name)));
        }
    }
    for volume in list("/spec/volumes") {
        if volume.get("ephemeral").is_some_and(|e| !e.is_null()) {
            let volume_name = text(volume, "/name").unwrap_or_default();
            reached.push(key(Vertex::Claim, format!("{name}-{volume_name}")));
        }
        of_volume_source(volume, &mut |vertex, name| reached.push(key(vertex, name)));
    }
    for claim in list("/spec/resourceClaims") {
        reached.extend(text(claim, "/resourceClaimName").map(|n| key(Vertex::ResourceClaim, n)));
    }
    for claim in list("/status/resourceClaimStatuses") {
        reached.extend(text(claim, "/resourceClaimName").map(|n| key(Vertex::ResourceClaim, n)));
    }
    reached.extend(
        text(pod, "/status/extendedResourceClaimStatus/resourceClaimName")
            .map(|n| key(Vertex::ResourceClaim, n)),
    );
    reached.sort_by(|a, b| (a.0 as u8, &a.2).cmp(&(b.0 as u8, &b.2)));
    reached.dedup();
    Contribution {
        node,
        reached,
        claim: None,
    }
}

fn of_container(container: &Value, mut add: impl FnMut(Vertex, String)) {
    let list = |field: &str| {
        container
            .get(field)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let pairs = [
        ("env", "/valueFrom/secretKeyRef/name", Vertex::Secret),
        ("env", "/valueFrom/configMapKeyRef/name", Vertex::ConfigMap),
        ("envFrom", "/secretRef/name", Vertex::Secret),
        ("envFrom", "/configMapRef/name", Vertex::ConfigMap),
    ];
    for (field, pointer, vertex) in pairs {
        for item in list(field) {
            if let Some(name) = item.pointer(pointer).and_then(Value::as_str) {
                add(vertex, name.to_owned());
            }
        }
    }
}

fn of_volume_source(volume: &Value, add: &mut dyn FnMut(Vertex, String)) {
    let pairs = [
        ("/secret/secretName", Vertex::Secret),
        ("/configMap/name", Vertex::ConfigMap),
        ("/persistentVolumeClaim/claimName", Vertex::Claim),
        ("/azureFile/secretName", Vertex::Secret),
        ("/cephfs/secretRef/name", Vertex::Secret),
        ("/cinder/secretRef/name", Vertex::Secret),
        ("/flexVolume/secretRef/name", Vertex::Secret),
        ("/iscsi/secretRef/name", Vertex::Secret),
        ("/rbd/secretRef/name", Vertex::Secret),
        ("/scaleIO/secretRef/name", Vertex::Secret),
        ("/storageos/secretRef/name", Vertex::Secret),
        ("/csi/nodePublishSecretRef/name", Vertex::Secret),
    ];
    for (pointer, vertex) in pairs {
        if let Some(name) = volume.pointer(pointer).and_then(Value::as_str) {
            add(vertex, name.to_owned());
        }
    }
    for source in volume
        .pointer("/projected/sources")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        for (pointer, vertex) in [
            ("/secret/name", Vertex::Secret),
            ("/configMap/name", Vertex::ConfigMap),
        ] {
            if let Some(name) = source.pointer(pointer).and_then(Value::as_str) {
                add(vertex, name.to_owned());
            }
        }
    }
}

fn of_volume(name: &str, volume: &Value) -> Contribution {
    let text = |pointer: &str| {
        volume
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (namespace, claim) = (text("/spec/claimRef/namespace"), text("/spec/claimRef/name"));
    if claim.is_empty() {
        return Contribution::default();
    }
    let mut reached = vec![(Vertex::Volume, String::new(), name.to_owned())];
    let secrets = [
        "csi/nodePublishSecretRef",
        "csi/nodeStageSecretRef",
        "csi/nodeExpandSecretRef",
        "csi/controllerPublishSecretRef",
        "csi/controllerExpandSecretRef",
        "cephfs/secretRef",
        "cinder/secretRef",
        "flexVolume/secretRef",
        "iscsi/secretRef",
        "rbd/secretRef",
        "scaleIO/secretRef",
        "storageos/secretRef",
    ];
    for secret in secrets {
        let own = text(&format!("/spec/{secret}/name"));
        if !own.is_empty() {
            let within = text(&format!("/spec/{secret}/namespace"));
            let within = if within.is_empty() { namespace } else { within };
            reached.push((Vertex::Secret, within.to_owned(), own.to_owned()));
        }
    }
    let azure = text("/spec/azureFile/secretName");
    if !azure.is_empty() {
        let within = text("/spec/azureFile/secretNamespace");
        let within = if within.is_empty() { namespace } else { within };
        reached.push((Vertex::Secret, within.to_owned(), azure.to_owned()));
    }
    let claim = (Vertex::Claim, namespace.to_owned(), claim.to_owned());
    Contribution {
        node: String::new(),
        reached,
        claim: Some(claim),
    }
}

/// A graph that follows the watch caches.
pub(super) struct FollowingGraph {
    graph: NodeGraph,
    kinds: Vec<Followed>,
}

struct Followed {
    vertex: Vertex,
    cache: Arc<KindCache>,
    /// Place in the events; `None` before the first listing and after it was overrun.
    follower: Option<Follower>,
}

impl FollowingGraph {
    pub(super) fn new(resources: &Resources) -> Self {
        let kind = |vertex, group: &str, resource: &str| Followed {
            vertex,
            cache: resources.caches().kind(group, resource),
            follower: None,
        };
        Self {
            graph: NodeGraph::default(),
            kinds: vec![
                kind(Vertex::Pod, "", "pods"),
                kind(Vertex::Volume, "", "persistentvolumes"),
                kind(Vertex::VolumeAttachment, "storage.k8s.io", "volumeattachments"),
                kind(Vertex::ResourceSlice, "resource.k8s.io", "resourceslices"),
            ],
        }
    }

    /// Takes in what has happened since the last call.
    pub(super) fn catch_up(&mut self) -> &NodeGraph {
        for followed in &mut self.kinds {
            followed.catch_up(&mut self.graph);
        }
        &self.graph
    }
}

impl Followed {
    fn catch_up(&mut self, graph: &mut NodeGraph) {
        while let Some(mut follower) = self.follower.take() {
            let Ok(batch) = follower.read(256) else { break };
            self.follower = Some(follower);
            for event in &batch.events {
                match event.kind {
                    EventType::Deleted => {
                        graph.remove(self.vertex, event.object.namespace(), event.object.name());
                    }
                    _ => self.put(graph, &event.object),
                }
            }
            if batch.drained {
                return;
            }
        }
        let Ok(page) = self.cache.page(&PageRequest::default(), |_| true) else {
            return;
        };
        let alive: HashSet<(&str, &str)> = page.objects.iter().map(|o| (o.namespace(), o.name())).collect();
        let gone: Vec<Key> = graph
            .sources
            .keys()
            .filter(|(v, ns, name)| *v == self.vertex && !alive.contains(&(ns.as_str(), name.as_str())))
            .cloned()
            .collect();
        gone.iter().for_each(|key| graph.remove_source(key));
        for object in &page.objects {
            self.put(graph, object);
        }
        self.follower = Follower::new(self.cache.clone(), Interest::All, page.revision).ok();
    }

    fn put(&self, graph: &mut NodeGraph, object: &CachedObject) {
        graph.put(self.vertex, object.namespace(), object.name(), &object.parse());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(node: &str) -> Value {
        json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {
            "nodeName": node, "serviceAccountName": "sa", "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env"}}}],
                "envFrom": [{"configMapRef": {"name": "from"}}]}],
            "volumes": [
                {"name": "a", "projected": {"sources": [{"secret": {"name": "proj"}}]}},
                {"name": "b", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}}],
        }})
    }

    #[test]
    fn paths_come_and_go() {
        let mut graph = NodeGraph::default();
        let volume = json!({"spec": {"claimRef": {"namespace": "ns", "name": "data"},
            "csi": {"nodePublishSecretRef": {"namespace": "other", "name": "csi"}}}});
        graph.put(Vertex::Pod, "ns", "p", &pod("n1"));
        graph.put(Vertex::Volume, "", "pv", &volume);
        let reachable = [
            (Vertex::Pod, "ns", "p"),
            (Vertex::ServiceAccount, "ns", "sa"),
            (Vertex::Secret, "ns", "pull"),
            (Vertex::Secret, "ns", "env"),
            (Vertex::Secret, "ns", "proj"),
            (Vertex::ConfigMap, "ns", "from"),
            (Vertex::Claim, "ns", "data"),
            (Vertex::Claim, "ns", "p-scratch"),
            (Vertex::Volume, "", "pv"),
            (Vertex::Secret, "other", "csi"),
        ];
        for (vertex, namespace, name) in reachable {
            assert!(graph.reaches(vertex, namespace, name, "n1"), "{vertex:?} {name}");
            assert!(!graph.reaches(vertex, namespace, name, "n2"), "{vertex:?} {name}");
        }
        assert!(!graph.reaches(Vertex::Secret, "other", "pull", "n1"));
        // A second pod keeps what it shares with the first.
        graph.put(Vertex::Pod, "ns", "q", &pod("n1"));
        graph.remove(Vertex::Pod, "ns", "p");
        assert!(graph.reaches(Vertex::Secret, "ns", "env", "n1"));
        assert!(!graph.reaches(Vertex::Claim, "ns", "p-scratch", "n1"));
        graph.remove(Vertex::Pod, "ns", "q");
        for (vertex, namespace, name) in reachable {
            assert!(!graph.reaches(vertex, namespace, name, "n1"), "{vertex:?} {name}");
        }
        graph.remove(Vertex::Volume, "", "pv");
        assert!(graph.nodes.is_empty() && graph.through.is_empty() && graph.sources.is_empty());
    }

    #[test]
    fn mirror_pods_reach_only_themselves() {
        let mut graph = NodeGraph::default();
        let mut mirror = pod("n1");
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        graph.put(Vertex::Pod, "ns", "p", &mirror);
        assert!(graph.reaches(Vertex::Pod, "ns", "p", "n1"));
        assert!(!graph.reaches(Vertex::Secret, "ns", "env", "n1"));
        graph.put(Vertex::Pod, "ns", "u", &pod(""));
        assert!(!graph.reaches(Vertex::Secret, "ns", "env", ""));
    }
}
