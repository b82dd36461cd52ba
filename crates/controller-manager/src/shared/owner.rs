//! Ownership by controller reference: which objects are whose, adoption of orphans, release of what no longer matches
//! (upstream's ControllerRefManager).

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use keelson_api::selector::LabelSelector;
use keelson_client::Index;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::api_error;
use super::selector::matches;

/// The key of the index by owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OwnerKey {
    /// Objects that the owner of this UID controls.
    Controller(String),
    /// Objects of this namespace that nobody controls.
    Orphan(String),
}

/// The reference to the controlling owner.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

/// Whether `uid` controls the object.
pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// Where the index by owner files the object.
pub fn owner_key(meta: &ObjectMeta) -> OwnerKey {
    match controller_of(meta) {
        Some(owner) => OwnerKey::Controller(owner.uid.clone()),
        None => OwnerKey::Orphan(meta.namespace.clone().unwrap_or_default()),
    }
}

/// The UID of an object; empty only for objects that no server has seen.
pub fn uid<K: Resource>(object: &K) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}

/// The name of an object.
pub fn name<K: Resource>(object: &K) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

/// The namespace of an object, empty for cluster-scoped ones.
pub fn namespace<K: Resource>(object: &K) -> &str {
    object.meta().namespace.as_deref().unwrap_or_default()
}

/// Whether the object is being deleted.
pub fn is_deleting<K: Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// The reference that makes `owner` the controller of something.
pub fn controller_reference<O: Resource<DynamicType = ()>>(owner: &O) -> OwnerReference {
    OwnerReference {
        api_version: O::api_version(&()).into_owned(),
        kind: O::kind(&()).into_owned(),
        name: name(owner).to_owned(),
        uid: uid(owner).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What to do about one candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is ours and stays.
    Keep,
    /// It is an orphan that matches: take it.
    Adopt,
    /// It is ours and no longer matches: let it go.
    Release,
    /// Not our business.
    Ignore,
}

/// The rules of upstream's `ClaimObject`.
pub fn claim(object: &ObjectMeta, owner_uid: &str, owner_deleting: bool, matches: bool) -> Claim {
    match controller_of(object) {
        Some(controller) if controller.uid != owner_uid => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner_deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner_deleting || !matches || object.deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// All of kind `K` that are `owner`'s: those it controls and still match, and matching orphans, which are adopted. What no
/// longer matches is released, and loses `finalizer` if one is given.
pub async fn claim_owned<O, K>(
    client: &Client,
    owner: &O,
    selector: &LabelSelector,
    index: &Index<OwnerKey, K>,
    finalizer: Option<&str>,
) -> Result<Vec<Arc<K>>, kube::Error>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    claim_owned_where(client, owner, selector, index, finalizer, |_| true).await
}

/// Like [`claim_owned`], but only what `keep` agrees to matches. What no longer matches is released, and loses `finalizer` if one is given.
///
/// Before the first adoption the owner is read from the server: it must not have been deleted or replaced meanwhile.
pub async fn claim_owned_where<O, K>(
    client: &Client,
    owner: &O,
    selector: &LabelSelector,
    index: &Index<OwnerKey, K>,
    finalizer: Option<&str>,
    keep: impl Fn(&K) -> bool,
) -> Result<Vec<Arc<K>>, kube::Error>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let mut may_adopt = None;
    let mut claimed = Vec::new();
    let mut candidates = index.get(&OwnerKey::Controller(uid(owner).to_owned()));
    candidates.extend(index.get(&OwnerKey::Orphan(namespace(owner).to_owned())));
    let api = Api::<K>::namespaced(client.clone(), namespace(owner));
    let params = PatchParams::default();
    for object in candidates {
        let meta = object.meta();
        let matching = matches(selector, meta.labels.as_ref()) && keep(&object);
        match claim(meta, uid(owner), is_deleting(owner), matching) {
            Claim::Keep => claimed.push(object),
            Claim::Ignore => {}
            Claim::Release => {
                let patch = Patch::Strategic(release_patch(owner, object.as_ref(), finalizer));
                match api.patch(name(object.as_ref()), &params, &patch).await {
                    // A UID that does not fit means that the object was replaced: nothing to release.
                    Err(error) if api_error::is_not_found(&error) || api_error::is_invalid(&error) => {}
                    Err(error) => return Err(error),
                    Ok(_) => {}
                }
            }
            Claim::Adopt => {
                if may_adopt.is_none() {
                    may_adopt = Some(still_there(client, owner).await?);
                }
                if may_adopt != Some(true) {
                    continue;
                }
                let patch = Patch::Strategic(adopt_patch(owner, object.as_ref(), finalizer));
                match api.patch(name(object.as_ref()), &params, &patch).await {
                    Err(error) if api_error::is_not_found(&error) => {}
                    Err(error) => return Err(error),
                    Ok(_) => claimed.push(object),
                }
            }
        }
    }
    Ok(claimed)
}

async fn still_there<O>(client: &Client, owner: &O) -> Result<bool, kube::Error>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let fresh = Api::<O>::namespaced(client.clone(), namespace(owner))
        .get_opt(name(owner))
        .await?;
    Ok(fresh.is_some_and(|fresh| uid(&fresh) == uid(owner) && !is_deleting(&fresh)))
}

fn adopt_patch<O: Resource<DynamicType = ()>, K: Resource>(
    owner: &O,
    object: &K,
    finalizer: Option<&str>,
) -> Value {
    let mut metadata = json!({"uid": uid(object), "ownerReferences": [controller_reference(owner)]});
    if let Some(finalizer) = finalizer {
        metadata["finalizers"] = json!([finalizer]);
    }
    json!({"metadata": metadata})
}

fn release_patch<O: Resource, K: Resource>(owner: &O, object: &K, finalizer: Option<&str>) -> Value {
    let references = json!([{"$patch": "delete", "uid": uid(owner)}]);
    let mut metadata = json!({"uid": uid(object), "ownerReferences": references});
    if let Some(finalizer) = finalizer {
        metadata["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
    }
    json!({"metadata": metadata})
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn claims() {
        let meta = |controller: Option<&str>, deleting: bool| ObjectMeta {
            owner_references: controller.map(|uid| {
                vec![OwnerReference {
                    uid: uid.into(),
                    controller: Some(true),
                    ..OwnerReference::default()
                }]
            }),
            deletion_timestamp: deleting.then_some(Time(jiff::Timestamp::UNIX_EPOCH)),
            ..ObjectMeta::default()
        };
        let check = |controller, deleting, owner_deleting, matching, expected| {
            let claim = claim(&meta(controller, deleting), "me", owner_deleting, matching);
            assert_eq!(
                claim, expected,
                "{controller:?} {deleting} {owner_deleting} {matching}"
            );
        };
        check(Some("me"), false, false, true, Claim::Keep);
        check(Some("me"), true, false, true, Claim::Keep);
        check(Some("me"), false, false, false, Claim::Release);
        check(Some("me"), false, true, false, Claim::Ignore);
        check(Some("other"), false, false, true, Claim::Ignore);
        check(None, false, false, true, Claim::Adopt);
        check(None, false, false, false, Claim::Ignore);
        check(None, true, false, true, Claim::Ignore);
        check(None, false, true, true, Claim::Ignore);
    }
}
