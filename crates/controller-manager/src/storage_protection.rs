//! persistentvolumeclaim-protection-controller and persistentvolume-protection-controller: claims that pods use, and
//! volumes that are bound, outlive their deletion until nobody needs them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use keelson_client::{Change, Index, Informer, NamespacedName, Reconciled, WorkQueue, run_workers};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, Resource};

use crate::Context;
use crate::shared::owner::{is_deleting, name, namespace};
use crate::shared::pod::node_name;
use crate::shared::{ReconcileError, api_error};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
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
    if !context.before_shutdown(ready).await {
        return;
    }
    run_workers(
        context.name(),
        queue,
        WORKERS,
        context.shutdown(),
        move |key: NamespacedName| {
            let state = state.clone();
            async move { state.sync(&key).await }
        },
    )
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

fn is_bound(volume: &PersistentVolume) -> bool {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

/// Runs the controller of volumes.
pub(crate) async fn start_volumes(context: Context) {
    let volumes = context.informer::<PersistentVolume>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let sink = queue.clone();
    volumes.on_change(move |change| {
        let volume = change.object().as_ref();
        if is_deleting(volume) == has(volume, VOLUME) {
            sink.add(NamespacedName::of(volume));
        }
    });
    let state = Arc::new((context.client(), volumes));
    run_workers(
        context.name(),
        queue,
        WORKERS,
        context.shutdown(),
        move |key: NamespacedName| {
            let state = state.clone();
            async move { sync_volume(&state.0, &state.1, &key).await }
        },
    )
    .await;
}

async fn sync_volume(
    client: &Client,
    volumes: &Informer<PersistentVolume>,
    key: &NamespacedName,
) -> Result<Reconciled, ReconcileError> {
    let Some(volume) = volumes.get(key) else {
        return Ok(Reconciled::Done);
    };
    let wanted = !is_deleting(volume.as_ref());
    if wanted == has(volume.as_ref(), VOLUME) || (!wanted && is_bound(&volume)) {
        return Ok(Reconciled::Done);
    }
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let changed = set(volume.as_ref(), VOLUME, wanted);
    api_error::ignore_not_found(api.replace(&key.name, &PostParams::default(), &changed).await)?;
    Ok(Reconciled::Done)
}
