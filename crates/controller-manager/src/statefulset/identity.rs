//! The pod of an ordinal: name, labels, host name, volumes.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume};

use super::claims::claim_name;
use crate::shared::history::REVISION_HASH;
use crate::shared::owner::name;
use crate::shared::pod::{from_template, label};
use crate::shared::selector::Labels;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The ordinal at the end of a pod's name, if the rest is the set's name.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, ordinal) = name(pod).rsplit_once('-')?;
    let digits = !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit());
    if parent == name(set) && digits {
        ordinal.parse().ok()
    } else {
        None
    }
}

/// The pod of that ordinal, made of `template`, which is what the revision of that name holds.
pub(super) fn pod_of(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut pod = from_template(template, set);
    let pod_name = format!("{}-{ordinal}", name(set));
    pod.metadata.name = Some(pod_name.clone());
    identify(&mut pod, &pod_name, ordinal);
    pod.metadata
        .labels
        .get_or_insert_default()
        .insert(REVISION_HASH.into(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(pod_name);
    spec.subdomain = set
        .spec
        .as_ref()
        .and_then(|spec| spec.service_name.clone())
        .filter(|name| !name.is_empty());
    let templates = set
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_claim_templates.as_deref())
        .unwrap_or_default();
    let volumes = spec.volumes.get_or_insert_default();
    for template in templates {
        let claim = PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, template, ordinal),
            read_only: None,
        };
        volumes.retain(|volume| volume.name != name(template));
        volumes.push(Volume {
            name: name(template).to_owned(),
            persistent_volume_claim: Some(claim),
            ..Volume::default()
        });
    }
    pod
}

/// Gives the pod the labels of its identity.
pub(super) fn identify(pod: &mut Pod, pod_name: &str, ordinal: i32) {
    let own = pod.metadata.labels.get_or_insert_default();
    own.extend(labels(pod_name, ordinal));
}

/// The labels of the identity of the pod with this ordinal.
pub(super) fn labels(pod_name: &str, ordinal: i32) -> Labels {
    Labels::from([
        (POD_NAME.to_owned(), pod_name.to_owned()),
        (POD_INDEX.to_owned(), ordinal.to_string()),
    ])
}

/// Whether the labels of the pod's identity are right.
pub(super) fn identity_matches(pod: &Pod, ordinal: i32) -> bool {
    label(pod, POD_NAME) == Some(name(pod)) && label(pod, POD_INDEX) == Some(ordinal.to_string().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_of_its_ordinal() {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "n", "uid": "u"},
            "spec": {"serviceName": "db-svc", "selector": {"matchLabels": {"app": "db"}},
                     "template": {"metadata": {"labels": {"app": "db"}},
                                  "spec": {"containers": [], "volumes": [{"name": "data", "emptyDir": {}}]}},
                     "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}
        }))
        .unwrap();
        let template = set.spec.as_ref().unwrap().template.clone();
        let pod = pod_of(&set, &template, "db-abc", 7);
        assert_eq!(name(&pod), "db-7");
        assert_eq!(ordinal(&set, &pod), Some(7));
        assert!(identity_matches(&pod, 7) && !identity_matches(&pod, 8));
        assert_eq!(label(&pod, REVISION_HASH), Some("db-abc"));
        let spec = pod.spec.unwrap();
        assert_eq!(
            (spec.hostname.as_deref(), spec.subdomain.as_deref()),
            (Some("db-7"), Some("db-svc"))
        );
        let volumes = spec.volumes.unwrap();
        assert_eq!(volumes.len(), 1);
        assert_eq!(
            volumes[0].persistent_volume_claim.as_ref().unwrap().claim_name,
            "data-db-7"
        );
    }

    #[test]
    fn ordinals() {
        let set: StatefulSet = serde_json::from_value(json!({"metadata": {"name": "a-1"}})).unwrap();
        let check = |pod: &str, expected| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": pod}})).unwrap();
            assert_eq!(ordinal(&set, &pod), expected);
        };
        check("a-1-0", Some(0));
        check("a-1-12", Some(12));
        check("a-1", None);
        check("a-1-x", None);
        check("a-1-+1", None);
        check("a-2-0", None);
    }
}
