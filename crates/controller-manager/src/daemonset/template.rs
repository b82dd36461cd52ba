//! The pod of a DaemonSet for one node.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};

use crate::shared::history::REVISION_HASH;
use crate::shared::pod::{annotation, from_template};

const NAME_FIELD: &str = "metadata.name";
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// Taints that pods of DaemonSets tolerate, as every node carries them at some time.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// Tolerated too where the pod does not need the pod network.
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// The pod for `node`.
pub(super) fn pod_for(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let template = set
        .spec
        .as_ref()
        .map(|spec| spec.template.clone())
        .unwrap_or_default();
    let mut pod = from_template(&template, set);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(REVISION_HASH.into(), hash.to_owned());
    if let Some(generation) = annotation(set, TEMPLATE_GENERATION) {
        labels.insert("pod-template-generation".into(), generation.to_owned());
    }
    let spec = pod.spec.get_or_insert_default();
    tolerate(spec);
    bind(spec.affinity.get_or_insert_default(), node);
    pod
}

fn tolerate(spec: &mut PodSpec) {
    let network = spec.host_network == Some(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED
        .into_iter()
        .chain(network.then_some(NETWORK_UNAVAILABLE))
    {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        let same = |other: &Toleration| {
            other.key == toleration.key
                && other.effect == toleration.effect
                && other.operator == toleration.operator
        };
        match tolerations.iter_mut().find(|other| same(other)) {
            Some(other) => *other = toleration,
            None => tolerations.push(toleration),
        }
    }
}

/// The node is settled: what the template demanded of it was checked already, so its name is the only term.
fn bind(affinity: &mut Affinity, node: &str) {
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    let requirement = NodeSelectorRequirement {
        key: NAME_FIELD.into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm {
        match_fields: Some(vec![requirement]),
        match_expressions: None,
    };
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![term],
    });
}

/// The node that the pod is on or made for; `None` for a pod that somebody else made.
pub(super) fn target_node(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return Some(node);
    }
    let required = spec
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let fields = required
        .node_selector_terms
        .iter()
        .flat_map(|term| term.match_fields.iter().flatten());
    let names = fields
        .into_iter()
        .filter(|field| field.key == NAME_FIELD && field.operator == "In");
    names.into_iter().find_map(|field| match field.values.as_deref() {
        Some([node]) => Some(node.as_str()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn made_for_its_node() {
        let set: DaemonSet = serde_json::from_value(json!({
            "metadata": {"name": "ds", "namespace": "n", "uid": "u"},
            "spec": {"selector": {}, "template": {"metadata": {"labels": {"app": "a"}}, "spec": {
                "hostNetwork": true, "containers": [],
                "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                                 "tolerationSeconds": 5}]}}}
        }))
        .unwrap();
        let pod = pod_for(&set, "n1", "abc");
        assert_eq!(target_node(&pod), Some("n1"));
        assert_eq!(pod.metadata.labels.as_ref().unwrap()[REVISION_HASH], "abc");
        let tolerations = pod.spec.unwrap().tolerations.unwrap();
        assert_eq!(tolerations.len(), 7);
        assert_eq!(
            tolerations[0].toleration_seconds, None,
            "replaced: it must outlive a node that is not ready"
        );
    }
}
