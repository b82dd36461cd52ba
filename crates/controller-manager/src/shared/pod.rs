//! What a pod's status means, and pods from templates.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use keelson_api::names;
use kube::Resource;
use kube::api::ObjectMeta;

use super::owner::{controller_reference, is_deleting, name};

/// The phase; empty when no kubelet has reported.
pub fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// Whether the pod has run to its end.
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the pod counts as a replica: neither finished nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_deleting(pod)
}

/// Whether the pod is being deleted and may still run.
pub fn is_terminating(pod: &Pod) -> bool {
    !is_finished(pod) && is_deleting(pod)
}

/// The condition of that type.
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == type_)
}

/// The Ready condition, if it is true.
fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    condition(pod, "Ready").filter(|condition| condition.status == "True")
}

/// Whether the pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some()
}

/// Since when the pod is ready; `None` if it is not, or if nobody said since when.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    ready_condition(pod)?
        .last_transition_time
        .as_ref()
        .map(|time| time.0)
}

/// How long until the pod is available: zero when it is, `None` when it is not ready.
pub fn available_in(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    ready_condition(pod)?;
    if min_ready_seconds <= 0 {
        return Some(Duration::ZERO);
    }
    let due = ready_since(pod)?.as_millisecond() + i64::from(min_ready_seconds) * 1000;
    Some(Duration::from_millis(
        u64::try_from(due - now.as_millisecond()).unwrap_or(0),
    ))
}

/// Whether the pod has been ready for `min_ready_seconds`.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    available_in(pod, min_ready_seconds, now) == Some(Duration::ZERO)
}

/// When the next of `pods` that is ready becomes available.
pub fn next_availability<'a>(
    pods: impl IntoIterator<Item = &'a Pod>,
    min_ready_seconds: i32,
    now: Timestamp,
) -> Option<Duration> {
    let waits = pods
        .into_iter()
        .filter_map(|pod| available_in(pod, min_ready_seconds, now));
    waits.filter(|wait| !wait.is_zero()).min()
}

/// The node that the pod is bound to, empty if none.
pub fn node_name(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

/// The value of a label.
pub fn label<'a, K: Resource>(object: &'a K, key: &str) -> Option<&'a str> {
    object
        .meta()
        .labels
        .as_ref()
        .and_then(|labels| labels.get(key))
        .map(String::as_str)
}

/// The value of an annotation.
pub fn annotation<'a, K: Resource>(object: &'a K, key: &str) -> Option<&'a str> {
    object
        .meta()
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(key))
        .map(String::as_str)
}

/// The pod that `template` describes, controlled by `owner`; its name is the server's to complete.
pub fn from_template<O: Resource<DynamicType = ()>>(template: &PodTemplateSpec, owner: &O) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(generate_name(name(owner))),
            namespace: owner.meta().namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The prefix of the names of `owner`'s pods: with a dash, unless the name would be no good then.
fn generate_name(owner: &str) -> String {
    let prefix = format!("{owner}-");
    if names::dns1123_subdomain(&names::mask_trailing_dash(&prefix)).is_empty() {
        prefix
    } else {
        owner.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn availability() {
        let now: Timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
        let check = |ready: &str, since: &str, min_ready, expected: Option<u64>| {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "p"},
                "status": {"conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}]}
            }))
            .unwrap();
            assert_eq!(
                available_in(&pod, min_ready, now),
                expected.map(Duration::from_secs),
                "{ready} {since}"
            );
        };
        check("True", "2026-01-01T00:00:10Z", 0, Some(0));
        check("True", "2026-01-01T00:00:05Z", 8, Some(3));
        check("True", "2026-01-01T00:00:00Z", 10, Some(0));
        check("False", "2026-01-01T00:00:00Z", 0, None);
    }

    #[test]
    fn prefixes() {
        assert_eq!(generate_name("web"), "web-");
        let long = "a".repeat(253);
        assert_eq!(generate_name(&long), long);
    }
}
