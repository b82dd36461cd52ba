//! Pressure on the node: measures memory and disk against the hard thresholds, reclaims, and evicts one pod at a time, the
//! ones first that use more than they asked for, then by priority.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use keelson_client::EventType;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::container::gc;
use crate::kubelet::Kubelet;
use crate::pod::handle::{PodHandle, Stage};
use crate::pod::{qos, spec};
use crate::{machine, stats};

/// How often signals are measured; upstream's period.
const PERIOD: Duration = Duration::from_secs(10);
/// Pressure is reported at least that long after it was last seen; upstream's transition period.
const TRANSITION: Duration = Duration::from_secs(300);

/// What is short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PressureState {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    pub(crate) pid: bool,
}

/// The last measurement.
#[derive(Default)]
pub(crate) struct Pressure {
    state: Mutex<PressureState>,
    changed: Notify,
}

impl Pressure {
    pub(crate) fn state(&self) -> PressureState {
        *self.state.lock()
    }

    /// Returns when the state has changed since the last call.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn set(&self, state: PressureState) {
        if std::mem::replace(&mut *self.state.lock(), state) != state {
            self.changed.notify_one();
        }
    }
}

/// A resource that is short: name for messages, threshold and what is there, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shortage {
    resource: &'static str,
    threshold: u64,
    available: u64,
}

/// Looks at the node again and again.
pub(crate) struct Monitor {
    kubelet: Arc<Kubelet>,
    /// When each resource was last short.
    last: HashMap<&'static str, Instant>,
}

impl Monitor {
    /// Measures once, so that the first status that the node reports tells the truth.
    pub(crate) fn new(kubelet: Arc<Kubelet>) -> Self {
        let mut this = Self {
            kubelet,
            last: HashMap::new(),
        };
        this.observe();
        this
    }

    /// Measures, and keeps the state that follows from it.
    fn observe(&mut self) -> Vec<Shortage> {
        let shortages = measure(&self.kubelet);
        for shortage in &shortages {
            self.last.insert(shortage.resource, Instant::now());
        }
        self.last.retain(|_, seen| seen.elapsed() < TRANSITION);
        let short = |resource| self.last.contains_key(resource);
        self.kubelet.pressure.set(PressureState {
            memory: short("memory"),
            disk: short("ephemeral-storage") || short("inodes"),
            pid: false,
        });
        shortages
    }

    /// Measures and relieves until shutdown.
    pub(crate) async fn run(mut self) {
        let mut images = HashMap::new();
        loop {
            tokio::select! {
                () = self.kubelet.shutdown.cancelled() => return,
                () = sleep(PERIOD) => {}
            }
            if let Some(shortage) = self.observe().first() {
                relieve(&self.kubelet, *shortage, &mut images).await;
            }
        }
    }
}

async fn relieve(kubelet: &Arc<Kubelet>, shortage: Shortage, images: &mut HashMap<String, Instant>) {
    tracing::warn!(?shortage, "the node is short of a resource");
    if shortage.resource != "memory" {
        match gc::collect_images(kubelet, images, true).await {
            Ok(freed) if freed > 0 && measure(kubelet).is_empty() => return,
            Ok(_) => {}
            Err(error) => tracing::warn!(error, "unused images not removed under disk pressure"),
        }
    }
    evict(kubelet, shortage).await;
}

fn measure(kubelet: &Kubelet) -> Vec<Shortage> {
    let hard = &kubelet.config.eviction_hard;
    let mut found = Vec::new();
    let mut check = |resource, threshold, available| {
        if available < threshold {
            found.push(Shortage {
                resource,
                threshold,
                available,
            });
        }
    };
    if let Some(available) = stats::memory_available(kubelet) {
        check(
            "memory",
            hard.memory_available.of(kubelet.machine.memory),
            available,
        );
    }
    if let Ok(fs) = machine::file_system(&kubelet.config.root_dir) {
        check(
            "ephemeral-storage",
            hard.nodefs_available.of(fs.capacity),
            fs.available,
        );
        // Some file systems do not count inodes.
        if fs.inodes > 0 {
            check("inodes", hard.nodefs_inodes_free.of(fs.inodes), fs.inodes_free);
        }
    }
    found
}

/// What a pod uses and asked for of the resource that is short, with what decides between pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) uid: String,
    pub(crate) priority: i32,
    pub(crate) usage: u64,
    pub(crate) request: u64,
}

/// The order in which pods are evicted: above their request first, then by priority, then by how far above.
pub(crate) fn rank(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by_key(|candidate| {
        let exceeds = candidate.usage > candidate.request;
        let over = i128::from(candidate.usage) - i128::from(candidate.request);
        (!exceeds, candidate.priority, std::cmp::Reverse(over))
    });
    candidates
}

async fn evict(kubelet: &Arc<Kubelet>, shortage: Shortage) {
    let usages = stats::pod_usages(kubelet).await;
    let resource = if shortage.resource == "memory" {
        "memory"
    } else {
        "ephemeral-storage"
    };
    let handles: Vec<Arc<PodHandle>> = kubelet
        .pods
        .list()
        .into_iter()
        .filter(|handle| handle.stage() == Stage::Syncing && !spec::is_critical(&handle.pod()))
        .collect();
    let candidate = |handle: &Arc<PodHandle>| {
        let pod = handle.pod();
        let usage = usages.get(&handle.uid).map(|usage| {
            if resource == "memory" {
                usage.memory
            } else {
                usage.storage
            }
        });
        Candidate {
            uid: handle.uid.clone(),
            priority: spec::spec(&pod).priority.unwrap_or_default(),
            usage: usage.unwrap_or_default(),
            request: u64::try_from(qos::pod_request(&pod, resource)).unwrap_or_default(),
        }
    };
    let ranked = rank(handles.iter().map(candidate).collect());
    let Some(first) = ranked.first() else {
        tracing::warn!("no pod to evict");
        return;
    };
    let Some(handle) = handles.iter().find(|handle| handle.uid == first.uid) else {
        return;
    };
    let pod = handle.pod();
    let message = message(&pod, shortage, resource, first);
    tracing::warn!(pod = %spec::format(&pod), message, "evicting pod");
    kubelet.pod_event(&pod, EventType::Warning, "Evicted", message.clone());
    let grace = if resource == "memory" { Some(1) } else { None };
    handle.end(Some(("Evicted".into(), message)), grace);
}

fn message(pod: &Pod, shortage: Shortage, resource: &str, candidate: &Candidate) -> String {
    let mut text = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        shortage.resource, shortage.threshold, shortage.available
    );
    if candidate.usage > candidate.request {
        for container in spec::containers(pod) {
            let request = qos::request(container, resource);
            text.push_str(&format!(
                "Container {} was using {}, request is {request}, has larger consumption of {resource}. ",
                container.name, candidate.usage
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_above_their_request_go_first_then_the_least_important() {
        let candidate = |uid: &str, priority, usage, request| Candidate {
            uid: uid.into(),
            priority,
            usage,
            request,
        };
        let ranked = rank(vec![
            candidate("within-low", 0, 10, 20),
            candidate("over-high", 100, 90, 20),
            candidate("over-low-little", 0, 25, 20),
            candidate("over-low-much", 0, 80, 20),
            candidate("within-high", 100, 10, 20),
        ]);
        let order: Vec<&str> = ranked.iter().map(|c| c.uid.as_str()).collect();
        assert_eq!(
            order,
            [
                "over-low-much",
                "over-low-little",
                "over-high",
                "within-low",
                "within-high"
            ]
        );
    }
}
