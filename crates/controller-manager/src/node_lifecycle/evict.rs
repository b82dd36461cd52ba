//! taint-eviction-controller: pods leave nodes whose taints they do not tolerate, or no longer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use keelson_client::{
    Change, EventRecorder, EventType, Informer, NamespacedName, Reconciled, WorkQueue, object_reference,
};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::Context;
use crate::disruption_target;
use crate::shared::owner::{is_deleting, uid};
use crate::shared::pod::node_name;
use crate::shared::{ReconcileError, api_error};

const WORKERS: usize = 8;

/// When a pod must leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stay {
    Forever,
    Until(Timestamp),
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    let fits = (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key);
    fits && match toleration.operator.as_deref() {
        None | Some("" | "Equal") => text(&toleration.value) == text(&taint.value),
        Some("Exists") => true,
        _ => false,
    }
}

/// How long a pod may stay on a node with these taints. A taint counts from when it was added, from `since` if that is
/// not written.
fn stay(tolerations: &[Toleration], taints: &[Taint], since: Timestamp) -> Stay {
    let mut stay = Stay::Forever;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let added = taint.time_added.as_ref().map_or(since, |time| time.0);
        let used: Vec<_> = tolerations
            .iter()
            .filter(|toleration| tolerates(toleration, taint))
            .collect();
        let shortest = used
            .iter()
            .filter_map(|toleration| toleration.toleration_seconds)
            .min();
        let until = match (used.is_empty(), shortest) {
            (true, _) => added,
            (false, None) => continue,
            (false, Some(seconds)) => added
                .saturating_add(SignedDuration::from_secs(seconds.max(0)))
                .unwrap_or(added),
        };
        stay = match stay {
            Stay::Until(earlier) if earlier <= until => stay,
            _ => Stay::Until(until),
        };
    }
    stay
}

fn taints(node: &Node) -> Vec<Taint> {
    let all = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    all.filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

struct Evictor {
    client: Client,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    recorder: EventRecorder,
    /// When a taint without a time was seen first, by UID of the pod; and which pods have a deadline.
    since: Mutex<HashMap<String, Timestamp>>,
    scheduled: Mutex<HashSet<String>>,
}

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let nodes = context.informer::<Node>();
    let pods = context.informer::<Pod>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let by_node = pods.index(|pod: &Pod| vec![node_name(pod).to_owned()]);
    let evictor = Arc::new(Evictor {
        client: context.client(),
        pods: pods.clone(),
        nodes: nodes.clone(),
        recorder: context.recorder("taint-eviction-controller"),
        since: Mutex::default(),
        scheduled: Mutex::default(),
    });
    {
        let queue = queue.clone();
        nodes.on_change(move |change| {
            let matters = match change {
                Change::Added(node) => !taints(node).is_empty(),
                Change::Updated(old, new) => taints(old) != taints(new),
                Change::Deleted(_) => false,
            };
            if matters {
                let name = change.object().metadata.name.clone().unwrap_or_default();
                by_node
                    .get(&name)
                    .iter()
                    .for_each(|pod| queue.add(NamespacedName::of(pod.as_ref())));
            }
        });
    }
    {
        let (queue, evictor) = (queue.clone(), evictor.clone());
        pods.on_change(move |change| {
            let pod = change.object().as_ref();
            let tolerations = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.tolerations.clone());
            let matters = match change {
                Change::Added(_) => !node_name(pod).is_empty(),
                Change::Updated(old, new) => {
                    node_name(old) != node_name(new) || tolerations(old) != tolerations(new)
                }
                Change::Deleted(_) => {
                    evictor.forget(uid(pod));
                    false
                }
            };
            if matters {
                queue.add(NamespacedName::of(pod));
            }
        });
    }
    let ready = async {
        tokio::join!(nodes.synced(), pods.synced());
    };
    context
        .work_after(ready, queue, WORKERS, evictor, |evictor, key| async move {
            evictor.sync(&key).await
        })
        .await;
}

impl Evictor {
    fn forget(&self, uid: &str) -> bool {
        self.since.lock().remove(uid);
        self.scheduled.lock().remove(uid)
    }

    async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let Some(pod) = self.pods.get(key).filter(|pod| !is_deleting(pod.as_ref())) else {
            return Ok(Reconciled::Done);
        };
        let node = self.nodes.get(&NamespacedName::new("", node_name(&pod)));
        let taints = node.map(|node| taints(&node)).unwrap_or_default();
        let tolerations = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.tolerations.clone())
            .unwrap_or_default();
        let now = Timestamp::now();
        let since = if taints.is_empty() {
            now
        } else {
            *self
                .since
                .lock()
                .entry(uid(pod.as_ref()).to_owned())
                .or_insert(now)
        };
        let until = match stay(&tolerations, &taints, since) {
            Stay::Forever => {
                if self.forget(uid(pod.as_ref())) {
                    let message = format!("Cancelling deletion of Pod {key}");
                    self.recorder.event(
                        &object_reference(pod.as_ref()),
                        EventType::Normal,
                        "TaintManagerEviction",
                        message,
                    );
                }
                return Ok(Reconciled::Done);
            }
            Stay::Until(until) => until,
        };
        if until > now {
            self.scheduled.lock().insert(uid(pod.as_ref()).to_owned());
            return Ok(Reconciled::After(
                Duration::try_from(until.duration_since(now)).unwrap_or_default(),
            ));
        }
        let message = format!("Marking for deletion Pod {key}");
        self.recorder.event(
            &object_reference(pod.as_ref()),
            EventType::Normal,
            "TaintManagerEviction",
            message,
        );
        let text = "Taint manager: deleting due to NoExecute taint";
        disruption_target::set(&self.client, &pod, "DeletionByTaintManager", text).await?;
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        api_error::ignore_not_found(api.delete(&key.name, &params).await)?;
        Ok(Reconciled::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn tolerations_are_deadlines() {
        let check = |tolerations: Value, taints: Value, expected: Option<i64>| {
            let tolerations: Vec<Toleration> = serde_json::from_value(tolerations).unwrap();
            let taints: Vec<Taint> = serde_json::from_value(taints).unwrap();
            let since = Timestamp::from_second(1000).unwrap();
            let expected = expected.map_or(Stay::Forever, |second| {
                Stay::Until(Timestamp::from_second(second).unwrap())
            });
            assert_eq!(
                stay(&tolerations, &taints, since),
                expected,
                "{tolerations:?} {taints:?}"
            );
        };
        let bad = json!([{"key": "bad", "effect": "NoExecute", "timeAdded": "1970-01-01T00:01:40Z"}]);
        check(json!([]), json!([]), None);
        check(json!([]), json!([{"key": "bad", "effect": "NoSchedule"}]), None);
        check(json!([]), bad.clone(), Some(100));
        check(
            json!([]),
            json!([{"key": "bad", "effect": "NoExecute"}]),
            Some(1000),
        );
        check(json!([{"operator": "Exists"}]), bad.clone(), None);
        check(
            json!([{"key": "bad", "operator": "Exists", "tolerationSeconds": 30}]),
            bad.clone(),
            Some(130),
        );
        check(
            json!([{"key": "bad", "operator": "Exists", "tolerationSeconds": -1}]),
            bad.clone(),
            Some(100),
        );
        check(json!([{"key": "bad", "value": "x"}]), bad.clone(), Some(100));
        check(
            json!([{"key": "bad", "tolerationSeconds": 30}, {"operator": "Exists"}]),
            bad,
            Some(130),
        );
    }
}
