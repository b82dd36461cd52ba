//! ControllerRevisions: what a DaemonSet's or StatefulSet's template was, so that one can go back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::api_error;
use super::hash;
use super::object::Object;
use super::owner::{controller_reference, is_controlled_by, name, namespace, uid};

/// The label with the revision's hash: on pods of both kinds, and on the revisions of DaemonSets.
pub const REVISION_HASH: &str = "controller-revision-hash";
/// The label with the hash on the revisions of StatefulSets.
pub const STATEFUL_HASH: &str = "controller.kubernetes.io/hash";

/// A strategic merge patch that sets an owner's template to this one; this is what a revision holds.
pub fn template_patch(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template that a revision holds.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// What a new revision is made with.
pub struct NewRevision<'a, O> {
    /// Whose revision.
    pub owner: &'a O,
    /// The template, which is also what the name is a hash of.
    pub template: &'a PodTemplateSpec,
    /// The label that the hash goes into.
    pub hash_label: &'static str,
    /// `status.collisionCount` of the owner.
    pub collision_count: Option<i32>,
}

/// What [`current`] found or made.
pub struct Current {
    /// The revision of the current template, with the highest number of all.
    pub revision: ControllerRevision,
    /// All others.
    pub others: Vec<Arc<ControllerRevision>>,
    /// The owner's collision count, raised if a name was taken by something else.
    pub collision_count: Option<i32>,
}

/// The revision of the owner's template among `existing`, created or renumbered so that it is the highest.
pub async fn current<O: Object>(
    client: &Client,
    wanted: NewRevision<'_, O>,
    existing: Vec<Arc<ControllerRevision>>,
) -> Result<Current, kube::Error> {
    let api = Api::<ControllerRevision>::namespaced(client.clone(), namespace(wanted.owner));
    let patch = template_patch(wanted.template);
    let same = |revision: &ControllerRevision| revision.data.as_ref().is_some_and(|data| data.0 == patch);
    let found = existing
        .iter()
        .filter(|revision| same(revision))
        .max_by_key(|revision| revision.revision)
        .cloned();
    let highest = existing
        .iter()
        .map(|revision| revision.revision)
        .max()
        .unwrap_or(0);
    let mut collision_count = wanted.collision_count;
    let revision = match found {
        Some(found) if found.revision == highest => ControllerRevision::clone(&found),
        Some(found) => {
            let mut raised = ControllerRevision::clone(&found);
            raised.revision = highest + 1;
            api.replace(name(&raised), &PostParams::default(), &raised)
                .await?
        }
        None => create(&api, &wanted, &patch, highest + 1, &mut collision_count).await?,
    };
    let own = uid(&revision).to_owned();
    let others = existing
        .into_iter()
        .filter(|other| uid(other.as_ref()) != own)
        .collect();
    Ok(Current {
        revision,
        others,
        collision_count,
    })
}

async fn create<O: Object>(
    api: &Api<ControllerRevision>,
    wanted: &NewRevision<'_, O>,
    patch: &Value,
    number: i64,
    collision_count: &mut Option<i32>,
) -> Result<ControllerRevision, kube::Error> {
    loop {
        let revision = build(wanted, patch, number, *collision_count);
        match api.create(&PostParams::default(), &revision).await {
            Err(error) if api_error::is_already_exists(&error) => {
                let found = api.get(name(&revision)).await?;
                let same = found.data.as_ref().is_some_and(|data| data.0 == *patch);
                if same && is_controlled_by(&found.metadata, uid(wanted.owner)) {
                    return Ok(found);
                }
                *collision_count = Some(collision_count.unwrap_or(0) + 1);
            }
            other => return other,
        }
    }
}

fn build<O: Object>(
    wanted: &NewRevision<'_, O>,
    patch: &Value,
    number: i64,
    collision_count: Option<i32>,
) -> ControllerRevision {
    let hash = hash::compute(wanted.template, collision_count);
    let labels = wanted
        .template
        .metadata
        .as_ref()
        .and_then(|meta| meta.labels.clone());
    let mut labels: BTreeMap<_, _> = labels.unwrap_or_default();
    labels.insert(wanted.hash_label.to_owned(), hash.clone());
    let prefix: String = name(wanted.owner).chars().take(223).collect();
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{hash}")),
            namespace: wanted.owner.meta().namespace.clone(),
            labels: Some(labels),
            annotations: wanted.owner.meta().annotations.clone(),
            owner_references: Some(vec![controller_reference(wanted.owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(patch.clone())),
        revision: number,
    }
}

/// Deletes the oldest of `others` that exceed `limit` and are not `live`.
pub async fn truncate(
    client: &Client,
    others: &[Arc<ControllerRevision>],
    live: impl Fn(&ControllerRevision) -> bool,
    limit: i32,
) -> Result<(), kube::Error> {
    let mut idle: Vec<_> = others.iter().filter(|revision| !live(revision)).collect();
    let surplus = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    idle.sort_by_key(|revision| revision.revision);
    for revision in &idle[..surplus] {
        let api = Api::<ControllerRevision>::namespaced(client.clone(), namespace(revision.as_ref()));
        api_error::ignore_not_found(
            api.delete(name(revision.as_ref()), &DeleteParams::default())
                .await,
        )?;
    }
    Ok(())
}

/// The values of [`REVISION_HASH`] among objects.
pub fn live_hashes<'a, K: Object>(objects: impl IntoIterator<Item = &'a K>) -> BTreeSet<String> {
    let hash = |object: &'a K| super::pod::label(object, REVISION_HASH).map(str::to_owned);
    objects.into_iter().filter_map(hash).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_comes_back_as_it_was() {
        let template: PodTemplateSpec = serde_json::from_value(json!({
            "metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}
        }))
        .unwrap();
        let patch = template_patch(&template);
        assert_eq!(patch["spec"]["template"]["$patch"], "replace");
        let revision = ControllerRevision {
            data: Some(RawExtension(patch)),
            ..ControllerRevision::default()
        };
        assert_eq!(template_of(&revision), Some(template));
    }
}
