//! What happens to a pod that could not be scheduled: back into the queue, an event, the condition PodScheduled.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use keelson_client::{EventType, object_reference};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::cache::PodInfo;
use crate::framework::{FitError, PostFilterResult};
use crate::queue::QueuedPod;
use crate::scheduler::Shared;

/// Longest message of an event, in bytes.
const NOTE_LIMIT: usize = 1024;

/// Why, and what to tell.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    reason: &'static str,
    message: String,
    plugins: BTreeSet<&'static str>,
}

impl Failure {
    /// The pod fits nowhere.
    pub(crate) fn unschedulable(error: FitError) -> Self {
        Self {
            reason: "Unschedulable",
            message: error.to_string(),
            plugins: error.diagnosis.plugins,
        }
    }

    /// There are no nodes at all.
    pub(crate) fn no_nodes() -> Self {
        // Any node that comes may help.
        let plugins = BTreeSet::from([crate::framework::NO_NODES]);
        Self {
            reason: "Unschedulable",
            message: "no nodes available to schedule pods".to_owned(),
            plugins,
        }
    }

    /// Something went wrong.
    pub(crate) fn error(message: String) -> Self {
        Self {
            reason: "SchedulerError",
            message,
            plugins: BTreeSet::new(),
        }
    }
}

fn truncated(message: &str) -> String {
    const SUFFIX: &str = " ...";
    if message.len() <= NOTE_LIMIT {
        return message.to_owned();
    }
    let mut end = NOTE_LIMIT - SUFFIX.len();
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{SUFFIX}", &message[..end])
}

/// A change of a pod's status that is still to be written.
pub(crate) struct StatusPatch {
    pod: Arc<PodInfo>,
    patch: Value,
}

impl StatusPatch {
    /// Writes it; failures are logged, as the next attempt of the pod writes it again.
    pub(crate) async fn write(self, client: Client) {
        let key = &self.pod.key;
        let api = Api::<Pod>::namespaced(client, &key.namespace);
        match api
            .patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(self.patch))
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => tracing::warn!(pod = %key, %error, "condition PodScheduled not written"),
        }
    }
}

impl Shared {
    /// Ends a failed attempt: the pod waits again and its owner is told. `nominated`: what preemption says of the nominated
    /// node; none leaves it as it is.
    pub(crate) fn fail(
        &self,
        mut queued: QueuedPod,
        failure: Failure,
        nominated: Option<PostFilterResult>,
    ) -> Option<StatusPatch> {
        let attempted = queued.info.clone();
        let newest = self.handle.listers.pods.get(&attempted.key);
        let newest = newest.filter(|pod| pod.metadata.uid.as_deref() == Some(&*attempted.uid));
        let newest = newest
            .map(|pod| Arc::new(PodInfo::new(pod)))
            .filter(|info| info.node_name.is_empty());
        let Some(info) = newest else {
            // Gone, or bound after all.
            self.queue.done(&attempted.uid);
            return None;
        };
        // Nominated before it is queued: the next attempt may start at once.
        self.nominate(&info, nominated.as_ref());
        queued.info = info.clone();
        self.queue.requeue(queued, failure.plugins.clone());
        let reference = object_reference(&*attempted.pod);
        let message = truncated(&failure.message);
        self.recorder(&attempted)
            .event(&reference, EventType::Warning, "FailedScheduling", message);
        let patch = status_patch(&info.pod, &failure, nominated.as_ref())?;
        Some(StatusPatch { pod: info, patch })
    }

    fn nominate(&self, pod: &Arc<PodInfo>, nominated: Option<&PostFilterResult>) {
        let node = nominated.map_or(pod.nominated_node(), |result| &result.nominated_node);
        if node.is_empty() {
            self.handle.nominator.remove(&pod.uid);
        } else {
            self.handle.nominator.add(pod, node);
        }
    }
}

/// The change to the pod's status, unless it says all that already.
fn status_patch(pod: &Pod, failure: &Failure, nominated: Option<&PostFilterResult>) -> Option<Value> {
    let status = pod.status.as_ref();
    let conditions = status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let known = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled");
    let same = known.is_some_and(|condition| {
        condition.status == "False"
            && condition.reason.as_deref() == Some(failure.reason)
            && condition.message.as_deref() == Some(&failure.message)
    });
    let node = status
        .and_then(|status| status.nominated_node_name.as_deref())
        .unwrap_or_default();
    let renominated = nominated.is_some_and(|result| result.nominated_node != node);
    if same && !renominated {
        return None;
    }
    let since = known
        .filter(|condition| condition.status == "False")
        .and_then(|c| c.last_transition_time.as_ref());
    let since = since.map_or_else(Timestamp::now, |time| time.0);
    let mut patch = json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"conditions": [{
            "type": "PodScheduled",
            "status": "False",
            "reason": failure.reason,
            "message": failure.message,
            "lastProbeTime": null,
            "lastTransitionTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(since),
            "observedGeneration": pod.metadata.generation,
        }]},
    });
    if renominated {
        let node = nominated
            .map(|result| result.nominated_node.as_str())
            .filter(|node| !node.is_empty());
        patch["status"]["nominatedNodeName"] = json!(node);
    }
    Some(patch)
}

#[cfg(test)]
mod tests {
    use super::truncated;

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(truncated("short"), "short");
        let long = "é".repeat(600);
        let cut = truncated(&long);
        assert!(
            cut.len() <= 1024 && cut.len() > 1000 && cut.ends_with("é ..."),
            "{}",
            cut.len()
        );
    }
}
