//! The set of pods on this node: one handle and one worker each, fed by the API and by static manifests.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use keelson_client::{Change, EventType};
use parking_lot::Mutex;

use super::allocation::PodResources;
use super::handle::{PodHandle, Stage};
use super::{admission, spec, worker};
use crate::kubelet::Kubelet;

/// All pods by UID.
#[derive(Default)]
pub(crate) struct PodManager {
    handles: Mutex<HashMap<String, Arc<PodHandle>>>,
    /// Held while the resources of the node are given away, so that nothing is given twice.
    allocating: Mutex<()>,
}

impl PodManager {
    /// The pod of that UID.
    pub(crate) fn get(&self, uid: &str) -> Option<Arc<PodHandle>> {
        self.handles.lock().get(uid).cloned()
    }

    /// All pods, in no order.
    pub(crate) fn list(&self) -> Vec<Arc<PodHandle>> {
        self.handles.lock().values().cloned().collect()
    }

    /// The newest pod of that name.
    pub(crate) fn by_name(&self, namespace: &str, name: &str) -> Option<Arc<PodHandle>> {
        let mut found = self.list();
        found.retain(|handle| {
            let pod = handle.pod();
            spec::name(&pod) == name && spec::namespace(&pod) == namespace
        });
        found.into_iter().min_by_key(|handle| handle.stage())
    }

    /// Lets the pod's worker look again; `false` when there is no such pod.
    pub(crate) fn wake(&self, uid: &str) -> bool {
        match self.get(uid) {
            Some(handle) => {
                handle.wake();
                true
            }
            None => false,
        }
    }

    /// The worker has ended.
    pub(crate) fn forget(&self, uid: &str) {
        if let Some(handle) = self.handles.lock().remove(uid) {
            handle.finished.cancel();
        }
        self.retry_deferred();
    }

    /// The right to give resources of the node away.
    pub(crate) fn allocating(&self) -> parking_lot::MutexGuard<'_, ()> {
        self.allocating.lock()
    }

    /// Resources may be free: pods whose resize waits for them look again.
    pub(crate) fn retry_deferred(&self) {
        let all = self.list();
        let waiting = all.iter().filter(|handle| handle.resize_state().is_deferred());
        waiting.for_each(|handle| handle.wake());
    }

    /// Another pod of the same name whose worker has not ended.
    pub(crate) fn predecessor(&self, handle: &PodHandle) -> Option<Arc<PodHandle>> {
        let pod = handle.pod();
        self.list().into_iter().find(|other| {
            let theirs = other.pod();
            other.uid != handle.uid
                && other.stage() != Stage::Syncing
                && spec::name(&theirs) == spec::name(&pod)
                && spec::namespace(&theirs) == spec::namespace(&pod)
        })
    }

    /// Pods that hold resources of the node.
    pub(crate) fn active(&self) -> Vec<Arc<Pod>> {
        let active =
            |handle: &Arc<PodHandle>| handle.stage() != Stage::Terminated && handle.failure().is_none();
        let pods = self.list().into_iter().filter(active).map(|handle| handle.pod());
        pods.filter(|pod| !matches!(spec::phase(pod), "Succeeded" | "Failed"))
            .collect()
    }
}

/// A change of the API's pods on this node. Does not block.
pub(crate) fn apply(kubelet: &Arc<Kubelet>, change: &Change<Pod>) {
    let pod = change.object();
    if spec::is_mirror(pod) {
        if let Some(handle) = kubelet.pods.by_name(spec::namespace(pod), spec::name(pod)) {
            kubelet.status.poke(&handle.uid);
            handle.wake();
        }
        return;
    }
    match change {
        Change::Added(pod) | Change::Updated(_, pod) => add_or_update(kubelet, pod.clone()),
        Change::Deleted(pod) => {
            if let Some(handle) = kubelet.pods.get(spec::uid(pod)) {
                handle.remove();
            }
        }
    }
}

/// A pod that has to be on this node, from any source. Does not block.
pub(crate) fn add_or_update(kubelet: &Arc<Kubelet>, pod: Arc<Pod>) {
    let uid = spec::uid(&pod).to_owned();
    if let Some(handle) = kubelet.pods.get(&uid) {
        handle.update(pod);
        kubelet.status.poke(&uid);
        return;
    }
    let given = PodResources::load(&kubelet.config.pod_dir(&uid));
    let handle = Arc::new(PodHandle::new(pod, given));
    let pod = handle.pod();
    let allocating = kubelet.pods.allocating();
    let ended = matches!(spec::phase(&pod), "Succeeded" | "Failed");
    if !ended && spec::deletion_timestamp(&pod).is_none() && !kubelet.was_running(&uid) {
        let others = kubelet.pods.active();
        if let Err(rejection) = admission::admit(&pod, &others, &kubelet.admission_node()) {
            tracing::info!(pod = %spec::format(&pod), reason = rejection.reason, message = rejection.message, "pod rejected");
            kubelet.pod_event(
                &pod,
                EventType::Warning,
                rejection.reason,
                rejection.message.clone(),
            );
            let message = format!("Pod was rejected: {}", rejection.message);
            handle.end(Some((rejection.reason.to_owned(), message)), None);
        }
    }
    if spec::deletion_timestamp(&pod).is_some() {
        handle.end(None, pod.metadata.deletion_grace_period_seconds);
    }
    kubelet.pods.handles.lock().insert(uid, handle.clone());
    drop(allocating);
    kubelet.tracker.spawn(worker::run(kubelet.clone(), handle));
}
