//! Job: pods that run to completion, counted exactly once.
//!
//! Pods carry the finalizer `batch.kubernetes.io/job-tracking` until they are counted: their UIDs go into
//! `status.uncountedTerminatedPods`, the finalizers are removed, then the UIDs turn into counts. Every step is guarded by the
//! Job's version, so none can happen twice. [`assess`] is the judgement over a snapshot, [`scale`] what pods to make or
//! delete, [`status`] the arithmetic of the counts.

mod assess;
mod indexes;
mod orphans;
mod policy;
mod scale;
mod status;
mod sync;
mod template;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use keelson_client::{Change, WorkQueue, run_workers};

use crate::Context;
use crate::shared::expectations::Expectations;
use crate::shared::owner::{OwnerKey, uid};
use crate::shared::pod_control::PodControl;
use crate::shared::selector;
use crate::shared::watch_owned::{watch_owned, watch_self};
use orphans::Orphans;
use sync::{FinalizerRemovals, Syncer};

/// `--concurrent-job-syncs`.
const WORKERS: usize = 5;

/// The finalizer of pods that are not counted yet.
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

fn has_finalizer(pod: &Pod) -> bool {
    pod.metadata
        .finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == FINALIZER)
}

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let jobs = context.informer::<Job>();
    let pods = context.informer::<Pod>();
    let pods_by_owner = context.by_owner::<Pod>();
    let queue = WorkQueue::default();
    let expectations = Arc::new(Expectations::default());
    let removals = Arc::new(FinalizerRemovals::default());
    let orphans = Arc::new(Orphans {
        client: context.client(),
        jobs: jobs.clone(),
        pods: pods.clone(),
        queue: WorkQueue::default(),
    });
    let syncer = Arc::new(Syncer {
        pods: PodControl::new(context.client(), context.recorder("job-controller")),
        jobs: jobs.clone(),
        pods_by_owner: pods_by_owner.clone(),
        expectations: expectations.clone(),
        removals: removals.clone(),
        orphans: orphans.clone(),
    });
    watch_owned(&pods, &jobs, &queue, Some(expectations.clone()), |job: &Job| {
        selector::parse(job.spec.as_ref()?.selector.as_ref()?).ok()
    });
    {
        let (removals, orphans) = (removals.clone(), orphans.clone());
        pods.on_change(move |change| {
            let pod = change.object();
            if matches!(change, Change::Deleted(_)) || !has_finalizer(pod) {
                removals.seen(uid(pod.as_ref()));
            } else {
                orphans.consider(pod);
            }
        });
    }
    {
        let orphans = orphans.clone();
        jobs.on_change(move |change| {
            if let Change::Deleted(job) = change {
                let pods = pods_by_owner.get(&OwnerKey::Controller(uid(job.as_ref()).to_owned()));
                pods.iter().for_each(|pod| orphans.consider(pod));
            }
        });
    }
    watch_self(&jobs, &queue, move |uid| expectations.forget(uid));
    let synced = async {
        tokio::join!(jobs.synced(), pods.synced());
    };
    if !context.before_shutdown(synced).await {
        return;
    }
    let cleaning = orphans.clone();
    let clean_up = run_workers(
        "job-controller-orphans",
        orphans.queue.clone(),
        1,
        context.shutdown(),
        move |key| {
            let orphans = cleaning.clone();
            async move { orphans.release(&key).await }
        },
    );
    let work = context.work(queue, WORKERS, syncer, |syncer, key| async move {
        syncer.sync(&key).await
    });
    tokio::join!(work, clean_up);
}
