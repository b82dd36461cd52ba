//! StatefulSet: pods with an identity, each with its own claims, made and replaced in order.
//!
//! [`plan`] is the decision, a function of the pods alone; [`identity`] makes a pod of its ordinal, [`claims`] its
//! PersistentVolumeClaims and who owns them. Names are functions of the ordinal, so a lagging cache cannot make a pod twice.

mod claims;
mod identity;
mod plan;
mod spec;
mod status;
mod sync;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use keelson_client::WorkQueue;

use crate::Context;
use crate::shared::selector;
use crate::shared::watch_owned::{watch_owned, watch_self};
use sync::Syncer;

/// `--concurrent-statefulset-syncs`.
const WORKERS: usize = 5;

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let sets = context.informer::<StatefulSet>();
    let pods = context.informer::<Pod>();
    let claims = context.informer::<PersistentVolumeClaim>();
    let revisions = context.informer::<ControllerRevision>();
    let queue = WorkQueue::default();
    let syncer = Arc::new(Syncer {
        client: context.client(),
        recorder: context.recorder("statefulset-controller"),
        sets: sets.clone(),
        claims: claims.clone(),
        pods_by_owner: context.by_owner::<Pod>(),
        revisions_by_owner: context.by_owner::<ControllerRevision>(),
    });
    let of = |set: &StatefulSet| {
        set.spec
            .as_ref()
            .and_then(|spec| selector::parse(&spec.selector).ok())
    };
    watch_owned(&pods, &sets, &queue, None, of);
    watch_owned(&revisions, &sets, &queue, None, of);
    watch_self(&sets, &queue, |_| {});
    let synced = async {
        tokio::join!(sets.synced(), pods.synced(), claims.synced(), revisions.synced());
    };
    context
        .work_after(synced, queue, WORKERS, syncer, |syncer, key| async move {
            syncer.sync(&key).await
        })
        .await;
}
