//! Revisions: which set is the new one, their numbers, and the annotations that carry them.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::api::ObjectMeta;

use super::spec::{Wanted, replicas};
use crate::shared::hash;
use crate::shared::owner::{controller_reference, name};
use crate::shared::pod::annotation;

/// The hash of the template, in the labels and selector of the set and its pods.
pub(super) const HASH_LABEL: &str = "pod-template-hash";
/// The number of a revision.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier numbers of a revision that was rolled back to.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when the set was last scaled.
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The same with the surge.
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
/// Longest revision history in characters.
const HISTORY_LENGTH: usize = 2000;

/// The number of the revision; 0 if there is none.
pub(super) fn number(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// The set whose template is the Deployment's; the oldest if there are several.
pub(super) fn find_new<'a>(deployment: &Deployment, sets: &'a [ReplicaSet]) -> Option<&'a ReplicaSet> {
    let wanted = &deployment.spec.as_ref()?.template;
    let same = |set: &&ReplicaSet| {
        let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        template.is_some_and(|template| equal_ignoring_hash(template, wanted))
    };
    sets.iter().filter(same).min_by_key(|set| {
        (
            set.metadata.creation_timestamp.as_ref().map(|time| time.0),
            name(*set),
        )
    })
}

/// Whether two templates make the same pods but for the hash label.
pub(super) fn equal_ignoring_hash(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let plain = |template: &PodTemplateSpec| {
        let mut template = template.clone();
        let meta = template.metadata.get_or_insert_default();
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        if meta.labels.as_ref().is_some_and(BTreeMap::is_empty) {
            meta.labels = None;
        }
        template
    };
    plain(a) == plain(b)
}

/// The set of the Deployment's template, as it is to be created with `size` pods.
pub(super) fn new_set(deployment: &Deployment, wanted: &Wanted, revision: i64) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment
        .status
        .as_ref()
        .and_then(|status| status.collision_count);
    let hash = hash::compute(&spec.template, collisions);
    let mut template = spec.template;
    let labels = template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default();
    labels.insert(HASH_LABEL.into(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector
        .match_labels
        .get_or_insert_default()
        .insert(HASH_LABEL.into(), hash.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(set_name(name(deployment), &hash)),
            namespace: deployment.metadata.namespace.clone(),
            owner_references: Some(vec![controller_reference(deployment)]),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: Some(wanted.min_ready_seconds).filter(|seconds| *seconds > 0),
            selector,
            template: Some(template),
        }),
        status: None,
    };
    annotate_new(deployment, &mut set, revision);
    annotate_size(wanted, &mut set);
    set
}

/// The Deployment's name is cut so that the whole fits into 253 characters.
fn set_name(deployment: &str, hash: &str) -> String {
    let most = 253 - 1 - hash.len();
    let cut = deployment
        .char_indices()
        .nth(most)
        .map_or(deployment.len(), |(index, _)| index);
    format!("{}-{hash}", &deployment[..cut])
}

/// Gives the new set the Deployment's annotations and its revision number; whether anything changed.
pub(super) fn annotate_new(deployment: &Deployment, set: &mut ReplicaSet, revision: i64) -> bool {
    let skipped = [
        LAST_APPLIED,
        REVISION,
        HISTORY,
        DESIRED_REPLICAS,
        MAX_REPLICAS,
        ROLLBACK_TO,
    ];
    let old = number(set);
    let annotations = set.metadata.annotations.get_or_insert_default();
    let before = annotations.clone();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !skipped.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    if old < revision {
        let previous = annotations.insert(REVISION.into(), revision.to_string());
        if let Some(previous) = previous.filter(|previous| *previous != "0") {
            let history = annotations.get(HISTORY).cloned().unwrap_or_default();
            annotations.insert(HISTORY.into(), append(&history, &previous));
        }
    }
    before != *annotations
}

fn append(history: &str, number: &str) -> String {
    if history.is_empty() {
        return number.to_owned();
    }
    let mut entries: Vec<&str> = history.split(',').collect();
    entries.push(number);
    while entries.len() > 1 && entries.iter().map(|entry| entry.len() + 1).sum::<usize>() > HISTORY_LENGTH {
        entries.remove(0);
    }
    entries.join(",")
}

/// Records what the set was scaled for; whether that is news.
pub(super) fn annotate_size(wanted: &Wanted, set: &mut ReplicaSet) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in [
        (DESIRED_REPLICAS, wanted.replicas),
        (MAX_REPLICAS, wanted.max_replicas()),
    ] {
        let value = value.to_string();
        if annotations.get(key) != Some(&value) {
            annotations.insert(key.into(), value);
            changed = true;
        }
    }
    changed
}

/// The size that the Deployment had when the set was last scaled.
pub(super) fn desired(set: &ReplicaSet) -> Option<i32> {
    annotation(set, DESIRED_REPLICAS)?.parse().ok()
}

/// The same with the surge; 0 if unknown.
pub(super) fn max_replicas(set: &ReplicaSet) -> i32 {
    annotation(set, MAX_REPLICAS)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// The old sets that exceed the history limit: the lowest revisions first, and only those that are idle.
pub(super) fn surplus<'a>(wanted: &Wanted, old: &'a [ReplicaSet]) -> Vec<&'a ReplicaSet> {
    let Some(limit) = wanted.revision_history_limit else {
        return Vec::new();
    };
    let mut alive: Vec<_> = old
        .iter()
        .filter(|set| set.metadata.deletion_timestamp.is_none())
        .collect();
    let excess = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    alive.sort_by_key(|set| number(set));
    alive.truncate(excess);
    let observed = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.observed_generation);
    alive.retain(|set| {
        super::spec::actual(set) == 0 && replicas(set) == 0 && set.metadata.generation <= observed(set)
    });
    alive
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment() -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "u", "annotations": {"a": "b", LAST_APPLIED: "{}"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
                     "template": {"metadata": {"labels": {"app": "web"}},
                                  "spec": {"containers": [{"name": "c", "image": "i"}]}}}
        }))
        .unwrap()
    }

    #[test]
    fn a_new_set_is_found_again() {
        let deployment = deployment();
        let wanted = Wanted::of(&deployment);
        let set = new_set(&deployment, &wanted, 1);
        let hash = &set.metadata.labels.as_ref().unwrap()[HASH_LABEL];
        assert_eq!(name(&set), format!("web-{hash}"));
        assert_eq!(annotation(&set, REVISION), Some("1"));
        assert_eq!(annotation(&set, MAX_REPLICAS), Some("4"));
        assert_eq!(annotation(&set, "a"), Some("b"));
        assert_eq!(annotation(&set, LAST_APPLIED), None);
        assert!(find_new(&deployment, std::slice::from_ref(&set)).is_some());
        let mut other = deployment.clone();
        other.status.get_or_insert_default().collision_count = Some(1);
        assert_ne!(name(&new_set(&other, &wanted, 1)), name(&set));
        other
            .spec
            .as_mut()
            .unwrap()
            .template
            .spec
            .as_mut()
            .unwrap()
            .containers[0]
            .image = Some("j".into());
        assert!(find_new(&other, std::slice::from_ref(&set)).is_none());
    }

    #[test]
    fn rolling_back_raises_the_number() {
        let deployment = deployment();
        let mut set = new_set(&deployment, &Wanted::of(&deployment), 1);
        assert!(!annotate_new(&deployment, &mut set, 1));
        assert!(annotate_new(&deployment, &mut set, 3));
        assert!(annotate_new(&deployment, &mut set, 5));
        assert_eq!(annotation(&set, REVISION), Some("5"));
        assert_eq!(annotation(&set, HISTORY), Some("1,3"));
    }
}
