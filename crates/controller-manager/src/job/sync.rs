//! The reconciliation of one Job.

use std::collections::HashSet;
use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keelson_api::selector::LabelSelector;
use keelson_client::{EventType, Index, Informer, NamespacedName, Reconciled, object_reference};
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;

use super::assess::{Assessment, Snapshot, assess};
use super::orphans::{Orphans, remove_finalizer};
use super::scale::{Scale, scale};
use super::status::{self, is_finished, set_condition};
use super::template::pod_of;
use super::{FINALIZER, has_finalizer};
use crate::shared::expectations::{Expectations, TIMEOUT};
use crate::shared::owner::{
    OwnerKey, claim_owned_where, is_controlled_by, is_deleting, name, namespace, uid,
};
use crate::shared::pod_control::{PodControl, slow_start};
use crate::shared::{ReconcileError, api_error, selector};

/// `spec.managedBy` of Jobs that are this controller's.
const MANAGED_BY: &str = "kubernetes.io/job-controller";

/// UIDs of pods whose finalizer was removed, until the cache shows it: they must not be counted again.
#[derive(Default)]
pub(super) struct FinalizerRemovals {
    uids: Mutex<HashSet<String>>,
}

impl FinalizerRemovals {
    /// The cache shows the pod without the finalizer, or not at all.
    pub(super) fn seen(&self, uid: &str) {
        self.uids.lock().remove(uid);
    }
}

pub(super) struct Syncer {
    pub(super) pods: PodControl,
    pub(super) jobs: Informer<Job>,
    pub(super) pods_by_owner: Index<OwnerKey, Pod>,
    pub(super) expectations: Arc<Expectations>,
    pub(super) removals: Arc<FinalizerRemovals>,
    pub(super) orphans: Arc<Orphans>,
}

impl Syncer {
    pub(super) async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let Some(job) = self.jobs.get(key) else {
            return Ok(Reconciled::Done);
        };
        let Some(spec) = job.spec.as_ref() else {
            return Ok(Reconciled::Done);
        };
        if spec
            .managed_by
            .as_deref()
            .is_some_and(|manager| manager != MANAGED_BY)
        {
            return Ok(Reconciled::Done);
        }
        if job.status.as_ref().is_some_and(is_finished) {
            let pods = self
                .pods_by_owner
                .get(&OwnerKey::Controller(uid(job.as_ref()).to_owned()));
            pods.iter().for_each(|pod| self.orphans.consider(pod));
            return Ok(Reconciled::Done);
        }
        // Read before the pods: what is satisfied then is in them.
        let quiet = self.expectations.satisfied(uid(job.as_ref()));
        let pods = self.claim(&job).await?;
        let removed = self.removals.uids.lock().clone();
        let seen = Snapshot {
            job: &job,
            spec,
            pods: &pods,
            removed: &removed,
            now: Timestamp::now(),
        };
        match self.reconcile(&seen, quiet).await {
            // A newer state of the Job is on its way to the cache, and brings the key back.
            Err(ReconcileError::Api(error)) if api_error::is_conflict(&error) => Ok(Reconciled::Done),
            other => other,
        }
    }

    async fn claim(&self, job: &Job) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let client = self.pods.client();
        let parsed = job
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.as_ref())
            .map(selector::parse)
            .transpose()?;
        // Without a selector only what the Job made itself is its own.
        let adopts = parsed.is_some();
        let selector = parsed.unwrap_or_else(LabelSelector::everything);
        let keep = |pod: &Pod| adopts || is_controlled_by(&pod.metadata, uid(job));
        Ok(claim_owned_where(client, job, &selector, &self.pods_by_owner, Some(FINALIZER), keep).await?)
    }

    async fn reconcile(&self, seen: &Snapshot<'_>, quiet: bool) -> Result<Reconciled, ReconcileError> {
        let mut before = seen.job.status.clone().unwrap_or_default();
        if before.start_time.is_none() && !seen.suspended() {
            before.start_time = Some(Time(seen.now));
        }
        let found = assess(seen);
        let mut plan = Scale::default();
        if found.verdict.is_some() {
            plan.delete.clone_from(&found.active);
        } else if quiet && !is_deleting(seen.job) {
            plan = scale(seen, &found);
        }
        let (created, deleted, outcome) = self.apply(seen, &found, &plan).await;
        let count = |pods: usize| i32::try_from(pods).unwrap_or(i32::MAX);
        let active = count(found.active.len() + created - deleted);
        let mut noted = status::note(seen, &found, before, active, found.terminating + count(deleted));
        if found.verdict.is_none() && quiet {
            self.note_suspension(seen, &mut noted);
        }
        self.track(seen, &found, noted).await?;
        outcome?;
        let lagging = (!quiet).then_some(TIMEOUT);
        let wait = [plan.wait, found.deadline_in, lagging]
            .into_iter()
            .flatten()
            .min();
        Ok(wait.map_or(Reconciled::Done, Reconciled::After))
    }

    /// Creates and deletes; how many of each, and the first failure.
    async fn apply(
        &self,
        seen: &Snapshot<'_>,
        found: &Assessment,
        plan: &Scale,
    ) -> (usize, usize, Result<(), ReconcileError>) {
        let owner = uid(seen.job);
        self.expectations
            .expect_deletions(owner, plan.delete.iter().map(|pod| uid(pod.as_ref()).to_owned()));
        let deletions = plan.delete.iter().map(async |pod| {
            let result = self.pods.delete(seen.job, pod).await;
            if result.is_err() {
                self.expectations.deletion_observed(owner, uid(pod.as_ref()));
            }
            result
        });
        let results = join_all(deletions).await;
        let deleted = results.iter().filter(|result| result.is_ok()).count();
        let mut outcome: Result<(), ReconcileError> =
            results.into_iter().collect::<Result<(), _>>().map_err(Into::into);
        self.expectations.expect_creations(owner, plan.create.len());
        let batch = slow_start(plan.create.clone(), |index| async move {
            let predecessor = index.and_then(|index| found.delayed.get(&index));
            let pod = pod_of(seen, index, predecessor.map(Arc::as_ref));
            let result = self.pods.create(seen.job, &pod).await;
            if result.is_err() {
                self.expectations.creation_observed(owner);
            }
            result.map(|_| ())
        })
        .await;
        self.expectations.creations_skipped(owner, batch.skipped);
        if let Some(error) = batch
            .error
            .filter(|error| !api_error::is_namespace_terminating(error))
        {
            outcome = outcome.and(Err(error.into()));
        }
        (batch.succeeded, deleted, outcome)
    }

    fn note_suspension(&self, seen: &Snapshot<'_>, status: &mut JobStatus) {
        let reference = object_reference(seen.job);
        if seen.suspended() {
            if set_condition(
                status,
                "Suspended",
                true,
                "JobSuspended",
                "Job suspended",
                seen.now,
            ) {
                self.pods
                    .event(&reference, EventType::Normal, "Suspended", "Job suspended");
            }
            // The deadline runs anew after the Job is resumed.
            status.start_time = None;
        } else if set_condition(status, "Suspended", false, "JobResumed", "Job resumed", seen.now) {
            self.pods
                .event(&reference, EventType::Normal, "Resumed", "Job resumed");
            status.start_time = Some(Time(seen.now));
        }
    }

    /// Writes what is to be counted, removes the finalizers, writes the counts.
    async fn track(
        &self,
        seen: &Snapshot<'_>,
        found: &Assessment,
        noted: JobStatus,
    ) -> Result<(), ReconcileError> {
        let mut tracked: HashSet<String> = seen
            .pods
            .iter()
            .filter(|pod| has_finalizer(pod) && !seen.removed.contains(uid(pod.as_ref())))
            .map(|pod| uid(pod.as_ref()).to_owned())
            .collect();
        let mut job = seen.job.clone();
        let counting = found.count_succeeded.len() + found.count_failed.len() > 0
            || noted.completed_indexes
                != job
                    .status
                    .as_ref()
                    .and_then(|status| status.completed_indexes.clone());
        let announcing = found.verdict.is_some()
            && noted.conditions != job.status.as_ref().and_then(|status| status.conditions.clone());
        if counting || announcing {
            job = self.write(job, noted.clone()).await?;
        }
        let mut status = noted;
        let releases = found.release.iter().map(async |pod| {
            let pod_uid = uid(pod.as_ref()).to_owned();
            self.removals.uids.lock().insert(pod_uid.clone());
            let result = remove_finalizer(self.pods.client(), pod).await;
            if result.is_err() {
                self.removals.seen(&pod_uid);
            }
            result.map(|()| pod_uid)
        });
        let mut failure = None;
        for result in join_all(releases).await {
            match result {
                Ok(pod_uid) => {
                    tracked.remove(&pod_uid);
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        status::settle(&mut status, &tracked);
        let finished = failure.is_none() && status::finish(&mut status, found.verdict.as_ref(), seen.now);
        if job.status.as_ref() != Some(&status) {
            self.write(job, status).await?;
        }
        if let Some(verdict) = found.verdict.as_ref().filter(|_| finished) {
            let reference = object_reference(seen.job);
            if verdict.success {
                self.pods
                    .event(&reference, EventType::Normal, "Completed", "Job completed");
            } else {
                self.pods.event(
                    &reference,
                    EventType::Warning,
                    &verdict.reason,
                    verdict.message.clone(),
                );
            }
        }
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn write(&self, mut job: Job, status: JobStatus) -> Result<Job, kube::Error> {
        job.status = Some(status);
        let api = Api::<Job>::namespaced(self.pods.client().clone(), namespace(&job));
        api.replace_status(name(&job), &PostParams::default(), &job).await
    }
}
