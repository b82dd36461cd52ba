//! What plugins may use beside the snapshot.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use keelson_client::EventRecorder;
use kube::Client;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::Listers;
use crate::cache::PodInfo;
use crate::config::Config;
use crate::queue::SchedulingQueue;

/// Shared by all plugins of one profile.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(crate) client: Client,
    pub(crate) config: Arc<Config>,
    /// Of the plugins' profile.
    pub(crate) scheduler_name: Arc<str>,
    pub(crate) listers: Listers,
    pub(crate) recorder: EventRecorder,
    pub(crate) nominator: Arc<Nominator>,
    pub(crate) tasks: TaskTracker,
    /// Changes whenever a claim does.
    pub(crate) claim_changes: watch::Sender<()>,
    /// Set once the queue exists; weak, because the queue owns the plugins.
    pub(crate) queue: Arc<OnceLock<Weak<SchedulingQueue>>>,
}

impl Handle {
    /// Lets a waiting pod be tried again without further conditions.
    pub(crate) fn activate(&self, uid: &str) {
        if let Some(queue) = self.queue.get().and_then(Weak::upgrade) {
            queue.activate_pod(uid);
        }
    }
}

#[derive(Default)]
struct Nominated {
    by_node: HashMap<Arc<str>, Vec<Arc<PodInfo>>>,
    node_of: HashMap<Arc<str>, Arc<str>>,
}

/// Pods that wait for room on a node that preemption makes for them.
#[derive(Default)]
pub(crate) struct Nominator {
    state: Mutex<Nominated>,
    count: AtomicUsize,
}

impl Nominator {
    /// Nominates `pod` for `node`, in place of an earlier node.
    pub(crate) fn add(&self, pod: &Arc<PodInfo>, node: &str) {
        let mut state = self.state.lock();
        state.remove(&pod.uid);
        let node: Arc<str> = node.into();
        state.by_node.entry(node.clone()).or_default().push(pod.clone());
        state.node_of.insert(pod.uid.clone(), node);
        self.count.store(state.node_of.len(), Ordering::Release);
    }

    /// The pod is nominated no more.
    pub(crate) fn remove(&self, uid: &str) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut state = self.state.lock();
        state.remove(uid);
        self.count.store(state.node_of.len(), Ordering::Release);
    }

    /// The pods that are nominated for `node`.
    pub(crate) fn on(&self, node: &str) -> Vec<Arc<PodInfo>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        self.state.lock().by_node.get(node).cloned().unwrap_or_default()
    }

    /// The node that the pod is nominated for.
    pub(crate) fn node_of(&self, uid: &str) -> Option<Arc<str>> {
        self.state.lock().node_of.get(uid).cloned()
    }
}

impl Nominated {
    fn remove(&mut self, uid: &str) {
        let Some(node) = self.node_of.remove(uid) else {
            return;
        };
        if let Some(pods) = self.by_node.get_mut(&node) {
            pods.retain(|pod| &*pod.uid != uid);
            if pods.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }
}
