//! persistentvolume-binder-controller: binds claims to volumes.
//!
//! A claim gets the volume that it names, one that was made for it, or the smallest that suits ([`matching`]). Where there is
//! none and its class has a provisioner, the provisioner is asked by annotation. Volumes of deleted claims become
//! Released; deleting them is their provisioner's business, for there are no volumes of the tree's own. Claims of classes
//! with `WaitForFirstConsumer` wait for the scheduler.

mod matching;
mod sync;

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use keelson_client::{NamespacedName, WorkQueue};

use crate::Context;

const WORKERS: usize = 1;

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Task {
    Claim(NamespacedName),
    Volume(NamespacedName),
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(key) => write!(f, "claim {key}"),
            Self::Volume(key) => write!(f, "volume {key}"),
        }
    }
}

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let claims = context.informer::<PersistentVolumeClaim>();
    let volumes = context.informer::<PersistentVolume>();
    let classes = context.informer::<StorageClass>();
    let queue: WorkQueue<Task> = WorkQueue::default();
    {
        let queue = queue.clone();
        claims.on_change(move |change| {
            let claim = change.object().as_ref();
            queue.add(Task::Claim(NamespacedName::of(claim)));
            if let Some(volume) = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_ref()) {
                queue.add(Task::Volume(NamespacedName::new("", volume)));
            }
        });
    }
    let waiting = claims.index(|claim: &PersistentVolumeClaim| vec![sync::is_unbound(claim)]);
    {
        let (queue, waiting) = (queue.clone(), waiting.clone());
        volumes.on_change(move |change| {
            let volume = change.object().as_ref();
            queue.add(Task::Volume(NamespacedName::of(volume)));
            match matching::claim_ref(volume) {
                Some(reference) => queue.add(Task::Claim(NamespacedName::new(
                    reference.namespace.as_deref().unwrap_or_default(),
                    reference.name.as_deref().unwrap_or_default(),
                ))),
                None => waiting
                    .get(&true)
                    .iter()
                    .for_each(|claim| queue.add(Task::Claim(NamespacedName::of(claim.as_ref())))),
            }
        });
    }
    {
        let queue = queue.clone();
        classes.on_change(move |_| {
            waiting
                .get(&true)
                .iter()
                .for_each(|claim| queue.add(Task::Claim(NamespacedName::of(claim.as_ref()))));
        });
    }
    let ready = async {
        tokio::join!(claims.synced(), volumes.synced(), classes.synced());
    };
    if !context.before_shutdown(ready).await {
        return;
    }
    let syncer = Arc::new(sync::Syncer {
        client: context.client(),
        recorder: context.recorder("persistentvolume-controller"),
        claims,
        volumes,
        classes,
    });
    context
        .work(queue, WORKERS, syncer, |syncer, task| async move {
            match task {
                Task::Claim(key) => syncer.claim(&key).await,
                Task::Volume(key) => syncer.volume(&key).await,
            }
        })
        .await;
}
