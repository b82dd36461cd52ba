//! Carries pod statuses to the API: the newest one of each pod, as a patch of what differs, and at the end the deletion of
//! the object.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use keelson_client::{Informer, NamespacedName, RateLimit, Reconciled, WorkQueue, run_workers};
use kube::api::{DeleteParams, Patch, Preconditions};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{conditions, spec};
use crate::labels;

/// Patches under way at once.
const WORKERS: usize = 8;

struct Entry {
    key: NamespacedName,
    /// Of a static pod: the hash its mirror must have.
    mirror_of: Option<String>,
    status: Arc<PodStatus>,
    deletable: bool,
    /// Resource version and status of the last answer.
    answered: Option<(u64, Value)>,
}

/// The statuses to report, by pod UID.
pub(crate) struct StatusManager {
    client: Client,
    pods: Informer<Pod>,
    entries: Mutex<HashMap<String, Entry>>,
    queue: WorkQueue<String>,
}

impl StatusManager {
    pub(crate) fn new(client: Client, pods: Informer<Pod>) -> Self {
        let limit = RateLimit {
            base: Duration::from_millis(100),
            max: Duration::from_secs(10),
        };
        Self {
            client,
            pods,
            entries: Mutex::default(),
            queue: WorkQueue::new(limit),
        }
    }

    /// Reports `status` for `pod`; an older one that was not sent yet is dropped.
    pub(crate) fn set(&self, pod: &Pod, status: Arc<PodStatus>) {
        let uid = spec::uid(pod).to_owned();
        {
            let mut entries = self.entries.lock();
            match entries.get_mut(&uid) {
                Some(entry) => {
                    if entry.status == status {
                        return;
                    }
                    entry.status = status;
                }
                None => {
                    let mirror_of = spec::is_static(pod).then(|| {
                        spec::annotation(pod, labels::CONFIG_HASH)
                            .unwrap_or_default()
                            .to_owned()
                    });
                    let key = NamespacedName::of(pod);
                    entries.insert(
                        uid.clone(),
                        Entry {
                            key,
                            mirror_of,
                            status,
                            deletable: false,
                            answered: None,
                        },
                    );
                }
            }
        }
        self.queue.add(uid);
    }

    /// Nothing of the pod is left on the node: delete it from the API once its last status is there.
    pub(crate) fn allow_deletion(&self, pod: &Pod) {
        if let Some(entry) = self.entries.lock().get_mut(spec::uid(pod)) {
            entry.deletable = true;
        }
        self.queue.add(spec::uid(pod).to_owned());
    }

    /// The API's object changed: see whether it still shows what was reported.
    pub(crate) fn poke(&self, uid: &str) {
        if self.entries.lock().contains_key(uid) {
            self.queue.add(uid.to_owned());
        }
    }

    /// The pod is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.entries.lock().remove(uid);
    }

    /// Sends until shutdown.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let queue = self.queue.clone();
        run_workers("kubelet-status", queue, WORKERS, shutdown, move |uid| {
            let manager = self.clone();
            async move { manager.send(&uid).await }
        })
        .await;
    }

    async fn send(&self, uid: &str) -> Result<Reconciled, kube::Error> {
        let (key, mirror_of, status, deletable, answered) = {
            let entries = self.entries.lock();
            let Some(entry) = entries.get(uid) else {
                return Ok(Reconciled::Done);
            };
            (
                entry.key.clone(),
                entry.mirror_of.clone(),
                entry.status.clone(),
                entry.deletable,
                entry.answered.clone(),
            )
        };
        let Some(pod) = self.pods.get(&key) else {
            return Ok(Reconciled::Done);
        };
        let same = match &mirror_of {
            Some(hash) => spec::annotation(&pod, labels::CONFIG_MIRROR) == Some(hash),
            None => spec::uid(&pod) == uid,
        };
        if !same {
            return Ok(Reconciled::Done);
        }
        let version = |pod: &Pod| -> u64 {
            pod.metadata
                .resource_version
                .as_deref()
                .and_then(|version| version.parse().ok())
                .unwrap_or_default()
        };
        let known = version(&pod);
        let base = match answered {
            Some((answered, status)) if answered > known => status,
            _ => to_value(pod.status.as_ref()),
        };
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let difference = difference(&base, &to_value(Some(&*status)));
        if !difference.is_empty() {
            let patch = json!({"metadata": {"uid": spec::uid(&pod)}, "status": difference});
            match api
                .patch_status(
                    &key.name,
                    &crate::kubelet::patch_params(),
                    &Patch::Strategic(patch),
                )
                .await
            {
                Ok(answer) => {
                    let answered = (version(&answer), to_value(answer.status.as_ref()));
                    if let Some(entry) = self.entries.lock().get_mut(uid) {
                        entry.answered = Some(answered);
                    }
                }
                // Gone, or another pod of the same name is there now.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                    return Ok(Reconciled::Done);
                }
                Err(error) => return Err(error),
            }
        }
        if deletable && mirror_of.is_none() && spec::deletion_timestamp(&pod).is_some() {
            let preconditions = Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            };
            let parameters = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(preconditions),
                ..DeleteParams::default()
            };
            match api.delete(&key.name, &parameters).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Reconciled::Done)
    }
}

fn to_value(status: Option<&PodStatus>) -> Value {
    status
        .and_then(|status| serde_json::to_value(status).ok())
        .unwrap_or_else(|| json!({}))
}

/// The strategic merge patch that turns `old` into `new`, leaving out what the kubelet does not own.
fn difference(old: &Value, new: &Value) -> Map<String, Value> {
    let empty = Map::new();
    let (old, new) = (
        old.as_object().unwrap_or(&empty),
        new.as_object().unwrap_or(&empty),
    );
    let mut patch = Map::new();
    for (field, value) in new {
        let before = old.get(field);
        if before == Some(value) {
            continue;
        }
        match field.as_str() {
            "conditions" => {
                let changed = changed_conditions(before, value);
                if !changed.is_empty() {
                    patch.insert(field.clone(), Value::Array(changed));
                }
            }
            "podIPs" | "hostIPs" => {
                patch.insert(field.clone(), Value::Array(merged_addresses(before, value)));
            }
            "resourceClaimStatuses" => {}
            _ => {
                patch.insert(field.clone(), value.clone());
            }
        }
    }
    const OWNED: [&str; 8] = [
        "message",
        "reason",
        "podIP",
        "podIPs",
        "initContainerStatuses",
        "containerStatuses",
        "ephemeralContainerStatuses",
        "nominatedNodeName",
    ];
    for field in OWNED {
        if old.contains_key(field) && !new.contains_key(field) {
            patch.insert(field.to_owned(), Value::Null);
        }
    }
    patch
}

fn changed_conditions(old: Option<&Value>, new: &Value) -> Vec<Value> {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let old = list(old);
    let kind = |condition: &Value| {
        condition
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let owned = |condition: &Value| {
        conditions::OWNED.contains(&kind(condition).as_str()) || kind(condition) == "DisruptionTarget"
    };
    let new = list(Some(new));
    let gone = old
        .iter()
        .filter(|before| conditions::OWNED.contains(&kind(before).as_str()))
        .filter(|before| new.iter().all(|other| kind(other) != kind(before)))
        .map(|before| json!({"$patch": "delete", "type": kind(before)}))
        .collect::<Vec<_>>();
    new.into_iter()
        .filter(owned)
        .filter_map(|mut condition| {
            let before = old.iter().find(|other| kind(other) == kind(&condition));
            if before == Some(&condition) {
                return None;
            }
            // Merging keeps fields that are absent; name those that went away.
            if let (Some(before), Some(fields)) =
                (before.and_then(Value::as_object), condition.as_object_mut())
            {
                for field in before.keys() {
                    fields.entry(field.clone()).or_insert(Value::Null);
                }
            }
            Some(condition)
        })
        .chain(gone)
        .collect()
}

/// The addresses that are new, and a delete directive for each that is gone: the list merges by `ip`.
fn merged_addresses(old: Option<&Value>, new: &Value) -> Vec<Value> {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let (old, mut merged) = (list(old), list(Some(new)));
    for gone in old
        .iter()
        .filter(|address| !merged.contains(address))
        .cloned()
        .collect::<Vec<_>>()
    {
        merged.push(json!({"$patch": "delete", "ip": gone.get("ip")}));
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_names_only_what_changed_and_what_went_away() {
        let old = json!({
            "phase": "Pending", "reason": "X", "podIPs": [{"ip": "10.0.0.1"}],
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
                {"type": "Mine", "status": "True"},
                {"type": "Initialized", "status": "True"},
                {"type": "PodResizeInProgress", "status": "True"},
            ],
        });
        let new = json!({
            "phase": "Running", "podIPs": [{"ip": "10.0.0.2"}],
            "conditions": [
                {"type": "Ready", "status": "True"},
                {"type": "Mine", "status": "False"},
                {"type": "Initialized", "status": "True"},
            ],
        });
        assert_eq!(
            Value::Object(difference(&old, &new)),
            json!({
                "phase": "Running", "reason": null,
                "podIPs": [{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null},
                    {"$patch": "delete", "type": "PodResizeInProgress"}],
            })
        );
        assert!(difference(&new, &new).is_empty());
    }
}
