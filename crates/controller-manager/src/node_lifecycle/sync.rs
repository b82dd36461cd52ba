//! One node.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use keelson_client::{
    Change, EventRecorder, EventType, Index, Informer, NamespacedName, Reconciled, WorkQueue,
    object_reference,
};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use super::health::{Rates, ZoneState, condition, interval, ready, taints, unknown_conditions, zone_state};
use crate::Context;
use crate::shared::owner::{name, namespace};
use crate::shared::pod::{is_ready, label};
use crate::shared::{ReconcileError, api_error};

struct Heard {
    /// When something new came from the kubelet.
    last: Instant,
    /// What Ready was when the node was looked at last.
    ready: Option<String>,
}

#[derive(Default)]
struct Zones {
    states: HashMap<String, ZoneState>,
    /// Before that no further node of the zone is evicted.
    next: HashMap<String, Instant>,
}

pub(super) struct Syncer {
    client: Client,
    nodes: Informer<Node>,
    pods_by_node: Index<String, Pod>,
    queue: WorkQueue<NamespacedName>,
    recorder: EventRecorder,
    heard: Mutex<HashMap<String, Heard>>,
    zones: Mutex<Zones>,
    grace: Duration,
    startup_grace: Duration,
    rates: Rates,
    unhealthy_threshold: f32,
}

fn zone(node: &Node) -> String {
    let part = |key: &str| label(node, key).unwrap_or_default().to_owned();
    format!(
        "{}:{}",
        part("topology.kubernetes.io/region"),
        part("topology.kubernetes.io/zone")
    )
}

impl Syncer {
    pub(super) fn new(
        context: &Context,
        nodes: Informer<Node>,
        pods_by_node: Index<String, Pod>,
        queue: WorkQueue<NamespacedName>,
    ) -> Self {
        let config = context.config();
        Self {
            client: context.client(),
            nodes,
            pods_by_node,
            queue,
            recorder: context.recorder("node-controller"),
            heard: Mutex::default(),
            zones: Mutex::default(),
            grace: config.node_monitor_grace_period,
            startup_grace: config.node_startup_grace_period,
            rates: Rates {
                normal: config.node_eviction_rate,
                secondary: config.secondary_node_eviction_rate,
                large_cluster: usize::try_from(config.large_cluster_size_threshold).unwrap_or(0),
            },
            unhealthy_threshold: config.unhealthy_zone_threshold,
        }
    }

    /// The kubelet of `node` gave a sign of life.
    pub(super) fn heard(&self, node: &str) {
        let now = Instant::now();
        let mut heard = self.heard.lock();
        heard
            .entry(node.to_owned())
            .or_insert(Heard {
                last: now,
                ready: None,
            })
            .last = now;
    }

    /// Takes in what happened to a node.
    pub(super) fn observe(&self, change: &Change<Node>) {
        let node = change.object().as_ref();
        let heartbeat =
            |node: &Node| condition(node, "Ready").and_then(|ready| ready.last_heartbeat_time.clone());
        match change {
            Change::Updated(old, new) if heartbeat(old) == heartbeat(new) => {}
            Change::Updated(..) => self.heard(name(node)),
            Change::Added(_) => {
                self.heard(name(node));
                let message = format!("Node {0} event: Registered Node {0} in Controller", name(node));
                self.recorder.event(
                    &object_reference(node),
                    EventType::Normal,
                    "RegisteredNode",
                    message,
                );
            }
            Change::Deleted(_) => {
                self.heard.lock().remove(name(node));
                let message = format!("Node {0} event: Removing Node {0} from Controller", name(node));
                self.recorder.event(
                    &object_reference(node),
                    EventType::Normal,
                    "RemovingNode",
                    message,
                );
            }
        }
    }

    pub(super) async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let Some(node) = self.nodes.get(key) else {
            self.judge_zones();
            return Ok(Reconciled::Done);
        };
        let (last, before) = {
            let mut heard = self.heard.lock();
            let entry = heard.entry(key.name.to_string()).or_insert(Heard {
                last: Instant::now(),
                ready: None,
            });
            let now = ready(&node).map(str::to_owned);
            (entry.last, std::mem::replace(&mut entry.ready, now))
        };
        let grace = if ready(&node).is_some() {
            self.grace
        } else {
            self.startup_grace
        };
        let silent = last.elapsed();
        if silent >= grace && self.make_unknown(&node).await? {
            // The change comes back as an event.
            return Ok(Reconciled::Done);
        }
        if before.as_deref() != ready(&node) {
            self.judge_zones();
        }
        let was_ready = before.as_deref() == Some("True");
        let is_not_ready = matches!(ready(&node), Some("False" | "Unknown"));
        if is_not_ready && was_ready {
            let message = format!("Node {} status is now: NodeNotReady", key.name);
            self.recorder.event(
                &object_reference(node.as_ref()),
                EventType::Normal,
                "NodeNotReady",
                message,
            );
        }
        if ready(&node) == Some("Unknown") || (is_not_ready && was_ready) {
            self.mark_pods_not_ready(&key.name).await?;
        }
        let wait = self.taint(&node).await?;
        let deadline = grace.checked_sub(silent).filter(|rest| !rest.is_zero());
        Ok(wait
            .into_iter()
            .chain(deadline)
            .min()
            .map_or(Reconciled::Done, Reconciled::After))
    }

    /// Whether there was something to change.
    async fn make_unknown(&self, node: &Node) -> Result<bool, ReconcileError> {
        let conditions = unknown_conditions(node, Timestamp::now());
        if conditions.is_empty() {
            return Ok(false);
        }
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "status": {"conditions": conditions}
        });
        let api: Api<Node> = Api::all(self.client.clone());
        let patched = api
            .patch_status(name(node), &PatchParams::default(), &Patch::Strategic(patch))
            .await;
        api_error::ignore_not_found(patched)?;
        Ok(true)
    }

    /// Sets the node's taints; how long to wait where the zone's rate does not allow the one that evicts now.
    async fn taint(&self, node: &Node) -> Result<Option<Duration>, ReconcileError> {
        let mut wait = None;
        let may_evict = || match self.may_evict(&zone(node)) {
            Ok(()) => true,
            Err(until) => {
                wait = until;
                false
            }
        };
        if let Some(taints) = taints(node, Timestamp::now(), may_evict) {
            let patch = json!({
                "metadata": {"resourceVersion": node.metadata.resource_version},
                "spec": {"taints": taints}
            });
            let api: Api<Node> = Api::all(self.client.clone());
            let patched = api
                .patch(name(node), &PatchParams::default(), &Patch::Merge(patch))
                .await;
            api_error::ignore_not_found(patched)?;
        }
        Ok(wait)
    }

    /// Takes a turn in the zone. `Err(None)`: the zone must not be evicted; its nodes are queued when that changes.
    fn may_evict(&self, zone: &str) -> Result<(), Option<Duration>> {
        let size = self.nodes.list_where(|node| self::zone(node) == zone).len();
        let mut zones = self.zones.lock();
        let all_disrupted = zones
            .states
            .values()
            .all(|state| *state == ZoneState::FullDisruption);
        let state = zones.states.get(zone).copied().unwrap_or(ZoneState::Normal);
        let interval = interval(state, size, all_disrupted, self.rates).ok_or(None)?;
        let now = Instant::now();
        match zones.next.get(zone) {
            Some(next) if *next > now => Err(Some(*next - now)),
            _ => {
                zones.next.insert(zone.to_owned(), now + interval);
                Ok(())
            }
        }
    }

    /// Counts the zones anew; where the state of one changed, what was held back may go on.
    fn judge_zones(&self) {
        let mut counts: HashMap<String, (usize, usize)> = HashMap::new();
        for node in self.nodes.list() {
            let count = counts.entry(zone(&node)).or_default();
            match ready(&node) {
                Some("True") => count.0 += 1,
                _ => count.1 += 1,
            }
        }
        let states: HashMap<String, ZoneState> = counts
            .into_iter()
            .map(|(zone, (ready, not_ready))| (zone, zone_state(ready, not_ready, self.unhealthy_threshold)))
            .collect();
        let mut zones = self.zones.lock();
        if zones.states == states {
            return;
        }
        zones.states = states;
        drop(zones);
        let held = |node: &Node| matches!(ready(node), Some("False" | "Unknown"));
        for node in self.nodes.list_where(held) {
            self.queue.add(NamespacedName::of(node.as_ref()));
        }
    }

    async fn mark_pods_not_ready(&self, node: &str) -> Result<(), ReconcileError> {
        for pod in self.pods_by_node.get(node).iter().filter(|pod| is_ready(pod)) {
            self.recorder.event(
                &object_reference(pod.as_ref()),
                EventType::Warning,
                "NodeNotReady",
                "Node is not ready",
            );
            let patch = json!({
                "metadata": {"uid": pod.metadata.uid},
                "status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": Timestamp::now().to_string()}]}
            });
            let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace(pod.as_ref()));
            let patched = api
                .patch_status(
                    name(pod.as_ref()),
                    &PatchParams::default(),
                    &Patch::Strategic(patch),
                )
                .await;
            api_error::ignore_not_found(patched)?;
        }
        Ok(())
    }
}
