//! From changes of the informers to the cache and the queues. Handlers run on the informers' tasks: they only update memory.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use keelson_client::{Change, Informer};
use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::cache::{Cache, PodInfo};
use crate::framework::{ClusterEvent, NodeChange, Nominator, Profiles};
use crate::queue::SchedulingQueue;

/// What the handlers update.
#[derive(Clone)]
pub(crate) struct EventHandlers {
    pub(crate) cache: Arc<Mutex<Cache>>,
    pub(crate) queue: Arc<SchedulingQueue>,
    pub(crate) nominator: Arc<Nominator>,
    pub(crate) profiles: Arc<Profiles>,
    /// Told whenever a claim changes.
    pub(crate) claim_changes: watch::Sender<()>,
}

fn node_of(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

impl EventHandlers {
    /// Registers for everything that a plugin's queueing hint asks about.
    pub(crate) fn register(
        &self,
        pods: &Informer<Pod>,
        nodes: &Informer<Node>,
        namespaces: &Informer<Namespace>,
        claims: &Informer<PersistentVolumeClaim>,
        volumes: &Informer<PersistentVolume>,
        classes: &Informer<StorageClass>,
    ) {
        let this = self.clone();
        pods.on_change(move |change| this.on_pod(change));
        let this = self.clone();
        nodes.on_change(move |change| this.on_node(change));
        let queue = self.queue.clone();
        namespaces.on_change(move |change| match change {
            Change::Updated(old, new) if old.labels() == new.labels() => {}
            Change::Deleted(_) => {}
            _ => queue.on_event(ClusterEvent::NamespaceChanged),
        });
        let queue = self.queue.clone();
        let claim_changes = self.claim_changes.clone();
        claims.on_change(move |change| {
            claim_changes.send_replace(());
            if !matches!(change, Change::Deleted(_)) {
                queue.on_event(ClusterEvent::ClaimChanged(change.object().clone()));
            }
        });
        let queue = self.queue.clone();
        volumes.on_change(move |_| queue.on_event(ClusterEvent::VolumeChanged));
        let queue = self.queue.clone();
        classes.on_change(move |change| {
            if !matches!(change, Change::Deleted(_)) {
                queue.on_event(ClusterEvent::StorageClassChanged);
            }
        });
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        let spec = pod.spec.as_ref();
        spec.and_then(|spec| spec.scheduler_name.as_deref())
            .is_some_and(|name| self.profiles.has(name))
    }

    fn on_pod(&self, change: &Change<Pod>) {
        match change {
            Change::Added(pod) if !node_of(pod).is_empty() => self.assigned(pod),
            Change::Added(pod) => self.waiting(pod),
            Change::Updated(old, new) => match (node_of(old).is_empty(), node_of(new).is_empty()) {
                (_, true) => self.waiting(new),
                (true, false) => {
                    self.queue.delete(&old.uid().unwrap_or_default());
                    self.assigned(new);
                }
                (false, false) => self.reassigned(old, new),
            },
            Change::Deleted(pod) => {
                let info = Arc::new(PodInfo::new(pod.clone()));
                self.nominator.remove(&info.uid);
                self.queue.delete(&info.uid);
                // Also one that was only assumed, or whose assignment we were not told of.
                if self.cache.lock().remove_pod(&info.uid) {
                    self.queue.on_event(ClusterEvent::AssignedPodDeleted(info));
                }
            }
        }
    }

    fn waiting(&self, pod: &Arc<Pod>) {
        if !self.is_ours(pod) || self.cache.lock().is_assumed(&pod.uid().unwrap_or_default()) {
            return;
        }
        let info = Arc::new(PodInfo::new(pod.clone()));
        match info.nominated_node() {
            "" => {}
            node => self.nominator.add(&info, node),
        }
        self.queue.add(info);
    }

    fn assigned(&self, pod: &Arc<Pod>) {
        let info = Arc::new(PodInfo::new(pod.clone()));
        self.nominator.remove(&info.uid);
        self.cache.lock().set_pod(info.clone());
        self.queue.on_event(ClusterEvent::AssignedPodAdded(info));
    }

    fn reassigned(&self, old: &Arc<Pod>, new: &Arc<Pod>) {
        let (old, new) = (
            Arc::new(PodInfo::new(old.clone())),
            Arc::new(PodInfo::new(new.clone())),
        );
        self.cache.lock().set_pod(new.clone());
        if old.labels() != new.labels() || old.requests != new.requests {
            self.queue.on_event(ClusterEvent::AssignedPodUpdated { old, new });
        }
    }

    fn on_node(&self, change: &Change<Node>) {
        match change {
            Change::Added(node) => {
                self.cache.lock().set_node(node);
                self.queue.on_event(ClusterEvent::NodeAdded(node.clone()));
            }
            Change::Updated(old, new) => {
                let images = |node: &Node| node.status.as_ref().and_then(|status| status.images.clone());
                let change = NodeChange::between(old, new);
                // A heartbeat changes nothing that matters here.
                if change.any() || images(old) != images(new) {
                    self.cache.lock().set_node(new);
                }
                if change.any() {
                    let event = ClusterEvent::NodeUpdated {
                        old: old.clone(),
                        new: new.clone(),
                        change,
                    };
                    self.queue.on_event(event);
                }
            }
            Change::Deleted(node) => {
                self.cache.lock().remove_node(&node.name_any());
                self.queue.on_event(ClusterEvent::NodeDeleted);
            }
        }
    }
}
