//! What is missing and what is too much, node by node.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::node::Fit;
use super::template::target_node;
use crate::shared::history::REVISION_HASH;
use crate::shared::owner::{is_deleting, name};
use crate::shared::pod::{is_available, label, node_name, phase};

/// The pods of a DaemonSet by the node that they are on or made for, oldest first.
pub(super) type PodsByNode = BTreeMap<String, Vec<Arc<Pod>>>;

/// Groups `pods`; those that nobody made for a node are left out.
pub(super) fn by_node(pods: &[Arc<Pod>]) -> PodsByNode {
    let mut nodes = PodsByNode::new();
    for pod in pods {
        if let Some(node) = target_node(pod) {
            nodes.entry(node.to_owned()).or_default().push(pod.clone());
        }
    }
    for pods in nodes.values_mut() {
        // Bound ones first, so that what waits goes when there are too many.
        pods.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (node_name(pod).is_empty(), created, name(pod.as_ref()).to_owned())
        });
    }
    nodes
}

/// Whether the pod is of the current revision.
pub(super) fn is_updated(pod: &Pod, hash: &str) -> bool {
    !hash.is_empty() && label(pod, REVISION_HASH) == Some(hash)
}

/// What a DaemonSet is like, as far as this decision goes.
pub(super) struct Rules<'a> {
    pub(super) hash: &'a str,
    /// Whether an update starts the new pod before it stops the old one.
    pub(super) surge: bool,
    pub(super) min_ready_seconds: i32,
    pub(super) now: Timestamp,
}

/// What to do on one node.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// A pod is missing.
    pub(super) create: bool,
    /// Pods that must go.
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods that ended; they go when their backoff allows.
    pub(super) ended: Vec<Arc<Pod>>,
}

/// The decision for one node with these pods.
pub(super) fn plan(fit: Fit, pods: &[Arc<Pod>], rules: &Rules<'_>) -> Plan {
    let alive = || pods.iter().filter(|pod| !is_deleting(pod.as_ref())).cloned();
    if !fit.may_stay {
        return Plan {
            delete: alive().collect(),
            ..Plan::default()
        };
    }
    if pods.is_empty() {
        return Plan {
            create: fit.should_run,
            ..Plan::default()
        };
    }
    let (ended, running): (Vec<_>, Vec<_>) =
        alive().partition(|pod| matches!(phase(pod), "Failed" | "Succeeded"));
    let mut delete = Vec::new();
    if !rules.surge {
        delete.extend(running.into_iter().skip(1));
        return Plan {
            create: false,
            delete,
            ended,
        };
    }
    let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| is_updated(pod, rules.hash));
    delete.extend(new.iter().skip(1).chain(old.iter().skip(1)).cloned());
    if let (Some(new), Some(old)) = (new.first(), old.first()) {
        let available = |pod: &Pod| is_available(pod, rules.min_ready_seconds, rules.now);
        // The old one has done its service: it is down, or the new one has taken over.
        if !available(old) || available(new) {
            delete.push(old.clone());
        }
    }
    Plan {
        create: false,
        delete,
        ended,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// `name:hash:state` with state `r` (ready), `u` (unready), `f` (failed), `t` (terminating).
    pub(in crate::daemonset) fn pod(text: &str) -> Arc<Pod> {
        let parts: Vec<_> = text.split(':').collect();
        let phase = if parts[2] == "f" { "Failed" } else { "Running" };
        let ready = if parts[2] == "u" || parts[2] == "f" {
            "False"
        } else {
            "True"
        };
        let mut value = json!({
            "metadata": {"name": parts[0], "uid": parts[0], "labels": {REVISION_HASH: parts[1]}},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": phase, "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
        });
        if parts[2] == "t" {
            value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn plans() {
        let check = |fit: (bool, bool), surge, pods: &[&str], create, delete: &[&str], ended: &[&str]| {
            let pods: Vec<_> = pods.iter().map(|text| pod(text)).collect();
            let rules = Rules {
                hash: "new",
                surge,
                min_ready_seconds: 0,
                now: "2026-01-01T00:01:00Z".parse().unwrap(),
            };
            let plan = plan(
                Fit {
                    should_run: fit.0,
                    may_stay: fit.1,
                },
                &pods,
                &rules,
            );
            let names = |pods: &[Arc<Pod>]| -> Vec<String> {
                pods.iter().map(|pod| name(pod.as_ref()).to_owned()).collect()
            };
            assert_eq!(
                (plan.create, names(&plan.delete), names(&plan.ended)),
                (
                    create,
                    delete.iter().map(ToString::to_string).collect(),
                    ended.iter().map(ToString::to_string).collect()
                ),
                "{fit:?} {surge} {pods:?}"
            );
        };
        let (yes, stay, no) = ((true, true), (false, true), (false, false));
        check(yes, false, &[], true, &[], &[]);
        check(stay, false, &[], false, &[], &[]);
        check(stay, false, &["a:new:r"], false, &[], &[]);
        check(no, false, &["a:new:r", "b:new:t"], false, &["a"], &[]);
        check(yes, false, &["a:new:r", "b:new:r"], false, &["b"], &[]);
        check(yes, false, &["a:new:f"], false, &[], &["a"]);
        check(yes, false, &["a:old:t"], false, &[], &[]);
        check(yes, true, &["a:old:r", "b:new:u"], false, &[], &[]);
        check(yes, true, &["a:old:r", "b:new:r"], false, &["a"], &[]);
        check(yes, true, &["a:old:u", "b:new:u"], false, &["a"], &[]);
        check(yes, true, &["a:old:r", "b:new:u", "c:new:u"], false, &["c"], &[]);
    }
}
