//! persistentvolumeclaim-, persistentvolume- and volumeattributesclass-protection-controller: claims that pods use, bound
//! volumes, and classes that claims or volumes name, outlive their deletion until nobody needs them.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use keelson_client::{Change, Index, Informer, NamespacedName, Reconciled, WorkQueue};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Context;
use crate::shared::owner::{is_deleting, name, namespace};
use crate::shared::pod::node_name;
use crate::shared::{ReconcileError, api_error};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const ATTRIBUTES_CLASS: &str = "kubernetes.io/vac-protection";
const WORKERS: usize = 2;

/// The names of the claims that the pod uses. A pod without a node uses none yet: no kubelet starts a pod with a claim that
/// is being deleted.
fn claims_of(pod: &Pod) -> Vec<String> {
    if node_name(pod).is_empty() {
        return Vec::new();
    }
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let names = volumes.filter_map(
        |volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{}-{}", name(pod), volume.name)),
            (None, None) => None,
        },
    );
    names.collect()
}

fn has<K: Resource>(object: &K, finalizer: &str) -> bool {
    object
        .meta()
        .finalizers
        .iter()
        .flatten()
        .any(|found| found == finalizer)
}

/// The object with the finalizer, or without it.
fn set<K: Resource + Clone>(object: &K, finalizer: &str, wanted: bool) -> K {
    let mut object = object.clone();
    let finalizers = object.meta_mut().finalizers.get_or_insert_default();
    finalizers.retain(|found| found != finalizer);
    if wanted {
        finalizers.push(finalizer.to_owned());
    }
    object
}

struct Claims {
    client: Client,
    claims: Informer<PersistentVolumeClaim>,
    users: Index<NamespacedName, Pod>,
}

/// Runs the controller of claims.
pub(crate) async fn start_claims(context: Context) {
    let claims = context.informer::<PersistentVolumeClaim>();
    let pods = context.informer::<Pod>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let keys = |pod: &Pod| -> Vec<NamespacedName> {
        claims_of(pod)
            .iter()
            .map(|claim| NamespacedName::new(namespace(pod), claim))
            .collect()
    };
    let state = Arc::new(Claims {
        client: context.client(),
        claims: claims.clone(),
        users: pods.index(keys),
    });
    let sink = queue.clone();
    claims.on_change(move |change| {
        let claim = change.object().as_ref();
        if is_deleting(claim) == has(claim, CLAIM) {
            sink.add(NamespacedName::of(claim));
        }
    });
    let (sink, all) = (queue.clone(), claims.clone());
    pods.on_change(move |change| {
        let pod = match change {
            Change::Deleted(pod) => pod,
            Change::Updated(old, new) if old.metadata.uid != new.metadata.uid => old,
            _ => return,
        };
        let waiting = keys(pod)
            .into_iter()
            .filter(|key| all.get(key).is_some_and(|claim| is_deleting(claim.as_ref())));
        waiting.for_each(|key| sink.add(key));
    });
    let ready = async {
        tokio::join!(claims.synced(), pods.synced());
    };
    context
        .work_after(ready, queue, WORKERS, state, |state, key| async move {
            state.sync(&key).await
        })
        .await;
}

impl Claims {
    async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let Some(claim) = self.claims.get(key) else {
            return Ok(Reconciled::Done);
        };
        let wanted = !is_deleting(claim.as_ref());
        if wanted == has(claim.as_ref(), CLAIM) || (!wanted && self.is_used(key).await?) {
            return Ok(Reconciled::Done);
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let changed = set(claim.as_ref(), CLAIM, wanted);
        api_error::ignore_not_found(api.replace(&key.name, &PostParams::default(), &changed).await)?;
        Ok(Reconciled::Done)
    }

    async fn is_used(&self, key: &NamespacedName) -> Result<bool, ReconcileError> {
        if !self.users.get(key).is_empty() {
            return Ok(true);
        }
        // The cache may not have a pod that was just bound; losing its data needs the server's word.
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let pods = api.list(&ListParams::default()).await?;
        Ok(pods
            .items
            .iter()
            .any(|pod| claims_of(pod).iter().any(|claim| **claim == *key.name)))
    }
}

/// Objects of the whole cluster that keep a finalizer while they are in use.
struct Protected<K> {
    client: Client,
    objects: Informer<K>,
    finalizer: &'static str,
    is_used: Box<dyn Fn(&K) -> bool + Send + Sync>,
}

impl<K> Protected<K>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope>
        + Clone
        + DeserializeOwned
        + Serialize
        + Debug
        + Send
        + Sync
        + 'static,
{
    /// Queues objects that have the finalizer and are being deleted, or lack it.
    fn follow(&self, queue: &WorkQueue<NamespacedName>) {
        let (sink, finalizer) = (queue.clone(), self.finalizer);
        self.objects.on_change(move |change| {
            let object = change.object().as_ref();
            if is_deleting(object) == has(object, finalizer) {
                sink.add(NamespacedName::of(object));
            }
        });
    }

    async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let Some(object) = self.objects.get(key) else {
            return Ok(Reconciled::Done);
        };
        let wanted = !is_deleting(object.as_ref());
        if wanted == has(object.as_ref(), self.finalizer) || (!wanted && (self.is_used)(&object)) {
            return Ok(Reconciled::Done);
        }
        let api: Api<K> = Api::all(self.client.clone());
        let changed = set(object.as_ref(), self.finalizer, wanted);
        api_error::ignore_not_found(api.replace(&key.name, &PostParams::default(), &changed).await)?;
        Ok(Reconciled::Done)
    }
}

fn is_bound(volume: &PersistentVolume) -> bool {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

/// Runs the controller of volumes.
pub(crate) async fn start_volumes(context: Context) {
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let volumes = Arc::new(Protected {
        client: context.client(),
        objects: context.informer::<PersistentVolume>(),
        finalizer: VOLUME,
        is_used: Box::new(is_bound),
    });
    volumes.follow(&queue);
    context
        .work(queue, WORKERS, volumes, |volumes, key| async move {
            volumes.sync(&key).await
        })
        .await;
}

/// The classes of attributes that a claim has, wants, or is on the way to.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let status = claim.status.as_ref();
    let wanted = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_attributes_class_name.clone());
    let current = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let target = status
        .and_then(|status| status.modify_volume_status.as_ref())
        .and_then(|modify| modify.target_volume_attributes_class_name.clone());
    [wanted, current, target].into_iter().flatten().collect()
}

fn classes_of_volume(volume: &PersistentVolume) -> Vec<String> {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.volume_attributes_class_name.clone())
        .into_iter()
        .collect()
}

/// Runs the controller of classes of volume attributes.
pub(crate) async fn start_attributes_classes(context: Context) {
    let classes = context.informer::<VolumeAttributesClass>();
    let claims = context.informer::<PersistentVolumeClaim>();
    let volumes = context.informer::<PersistentVolume>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let (by_claim, by_volume) = (claims.index(classes_of_claim), volumes.index(classes_of_volume));
    let protected = Arc::new(Protected {
        client: context.client(),
        objects: classes.clone(),
        finalizer: ATTRIBUTES_CLASS,
        is_used: Box::new(move |class: &VolumeAttributesClass| {
            by_claim.count(name(class)) > 0 || by_volume.count(name(class)) > 0
        }),
    });
    protected.follow(&queue);
    release_when_unused(&claims, &queue, classes_of_claim);
    release_when_unused(&volumes, &queue, classes_of_volume);
    let ready = async {
        tokio::join!(classes.synced(), claims.synced(), volumes.synced());
    };
    context
        .work_after(ready, queue, WORKERS, protected, |protected, key| async move {
            protected.sync(&key).await
        })
        .await;
}

/// Queues the classes that an object stops to use.
fn release_when_unused<K: Resource + Send + Sync + 'static>(
    users: &Informer<K>,
    queue: &WorkQueue<NamespacedName>,
    classes: fn(&K) -> Vec<String>,
) {
    let queue = queue.clone();
    users.on_change(move |change| {
        let (before, after) = match change {
            Change::Added(_) => return,
            Change::Updated(old, new) => (classes(old), classes(new)),
            Change::Deleted(old) => (classes(old), Vec::new()),
        };
        for class in before.iter().filter(|class| !after.contains(class)) {
            queue.add(NamespacedName::new("", class));
        }
    });
}
