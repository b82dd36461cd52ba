//! CronJob: a Job whenever the schedule says so.
//!
//! [`schedule`] is the calendar, [`due`] the decision which time is due now; [`sync`] carries it out. A Job's name is a
//! function of its time, so the same time never makes two.

mod due;
mod schedule;
mod sync;

use std::sync::Arc;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use keelson_client::WorkQueue;

use crate::Context;
use crate::shared::watch_owned::{watch_owned, watch_self};
use sync::Syncer;

/// `--concurrent-cron-job-syncs`.
const WORKERS: usize = 5;

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let cron_jobs = context.informer::<CronJob>();
    let jobs = context.informer::<Job>();
    let queue = WorkQueue::default();
    let syncer = Arc::new(Syncer {
        client: context.client(),
        recorder: context.recorder("cronjob-controller"),
        cron_jobs: cron_jobs.clone(),
        jobs_by_owner: context.by_owner::<Job>(),
    });
    // CronJobs have no selector and adopt nothing.
    watch_owned(&jobs, &cron_jobs, &queue, None, |_: &CronJob| None);
    watch_self(&cron_jobs, &queue, |_| {});
    let synced = async {
        tokio::join!(cron_jobs.synced(), jobs.synced());
    };
    context
        .work_after(synced, queue, WORKERS, syncer, |syncer, key| async move {
            syncer.sync(&key).await
        })
        .await;
}
