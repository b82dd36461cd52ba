//! The reconciliation of one CronJob.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keelson_client::{
    EventRecorder, EventType, Index, Informer, NamespacedName, Reconciled, object_reference,
};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, Client};

use super::due::{due, is_too_late};
use super::schedule::Schedule;
use crate::shared::owner::{
    OwnerKey, controller_reference, is_controlled_by, is_deleting, name, namespace, uid,
};
use crate::shared::{ReconcileError, api_error};

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

pub(super) struct Syncer {
    pub(super) client: Client,
    pub(super) recorder: EventRecorder,
    pub(super) cron_jobs: Informer<CronJob>,
    pub(super) jobs_by_owner: Index<OwnerKey, Job>,
}

/// How a Job ended.
fn finished(job: &Job) -> Option<&'static str> {
    let conditions = job
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let holds = |type_: &str| {
        conditions
            .iter()
            .any(|found| found.type_ == type_ && found.status == "True")
    };
    ["Complete", "Failed"].into_iter().find(|type_| holds(type_))
}

impl Syncer {
    pub(super) async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let Some(cached) = self.cron_jobs.get(key) else {
            return Ok(Reconciled::Done);
        };
        let mut cron_job = CronJob::clone(&cached);
        let jobs = self
            .jobs_by_owner
            .get(&OwnerKey::Controller(uid(&cron_job).to_owned()));
        let now = Timestamp::now();
        let changed = self.follow(&mut cron_job, &jobs).await?;
        let (started, wait) = if is_deleting(&cron_job) {
            (false, None)
        } else {
            self.start(&mut cron_job, now).await?
        };
        if changed || started {
            let api = Api::<CronJob>::namespaced(self.client.clone(), namespace(&cron_job));
            match api
                .replace_status(name(&cron_job), &PostParams::default(), &cron_job)
                .await
            {
                Err(error) if api_error::is_not_found(&error) => return Ok(Reconciled::Done),
                other => drop(other?),
            }
        }
        self.clean_up(&cron_job, &jobs).await?;
        Ok(wait.map_or(Reconciled::Done, Reconciled::After))
    }

    /// Brings `status.active` and `lastSuccessfulTime` up to date; whether anything changed.
    async fn follow(&self, cron_job: &mut CronJob, jobs: &[Arc<Job>]) -> Result<bool, ReconcileError> {
        let mut status = cron_job.status.clone().unwrap_or_default();
        let mut active = status.active.take().unwrap_or_default();
        for job in jobs {
            let listed = active
                .iter()
                .any(|reference| reference.uid.as_deref() == Some(uid(job.as_ref())));
            match finished(job) {
                None if !listed => {
                    let message = format!(
                        "Saw a job that the controller did not create or forgot: {}",
                        name(job.as_ref())
                    );
                    // One that we started a moment ago, whose status is not in the cache yet, is no surprise.
                    if self.forgot(cron_job, job).await? {
                        self.event(cron_job, EventType::Warning, "UnexpectedJob", message);
                    }
                }
                Some(how) if listed => {
                    active.retain(|reference| reference.uid.as_deref() != Some(uid(job.as_ref())));
                    let message = format!("Saw completed job: {}, condition: {how}", name(job.as_ref()));
                    self.event(cron_job, EventType::Normal, "SawCompletedJob", message);
                }
                _ => {}
            }
            let completed = job
                .status
                .as_ref()
                .and_then(|status| status.completion_time.clone());
            if finished(job) == Some("Complete") && completed > status.last_successful_time {
                status.last_successful_time = completed;
            }
        }
        let api = self.jobs(cron_job);
        let mut kept = Vec::new();
        for reference in active {
            let known = jobs
                .iter()
                .any(|job| reference.uid.as_deref() == Some(uid(job.as_ref())));
            let job_name = reference.name.clone().unwrap_or_default();
            if known || api.get_opt(&job_name).await?.is_some() {
                kept.push(reference);
            } else {
                let message = format!("Active job went missing: {job_name}");
                self.event(cron_job, EventType::Normal, "MissingJob", message);
            }
        }
        status.active = (!kept.is_empty()).then_some(kept);
        let changed = cron_job.status.clone().unwrap_or_default() != status;
        cron_job.status = Some(status);
        Ok(changed)
    }

    async fn forgot(&self, cron_job: &CronJob, job: &Job) -> Result<bool, kube::Error> {
        let api = Api::<CronJob>::namespaced(self.client.clone(), namespace(cron_job));
        let fresh = api.get_opt(name(cron_job)).await?;
        let active = fresh
            .and_then(|fresh| fresh.status)
            .and_then(|status| status.active)
            .unwrap_or_default();
        Ok(!active
            .iter()
            .any(|reference| reference.uid.as_deref() == Some(uid(job))))
    }

    /// Starts a Job if one is due; whether the status changed, and when to look again.
    async fn start(
        &self,
        cron_job: &mut CronJob,
        now: Timestamp,
    ) -> Result<(bool, Option<Duration>), ReconcileError> {
        let zone = match cron_job.spec.time_zone.as_deref() {
            None => TimeZone::system(),
            Some(wanted) => match TimeZone::get(wanted) {
                Ok(zone) => zone,
                Err(error) => {
                    let message = format!("invalid timeZone: {wanted:?}: {error}");
                    self.event(cron_job, EventType::Warning, "UnknownTimeZone", message);
                    return Ok((false, None));
                }
            },
        };
        if cron_job.spec.suspend == Some(true) {
            return Ok((false, None));
        }
        let text = &cron_job.spec.schedule;
        let schedule = match Schedule::parse(text) {
            Ok(schedule) => schedule,
            Err(error) => {
                let message = format!("unparseable schedule: {text:?} : {error}");
                self.event(cron_job, EventType::Warning, "UnparseableSchedule", message);
                return Ok((false, None));
            }
        };
        let due = due(cron_job, &schedule, &zone, now);
        if due.too_many_missed {
            let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.event(
                cron_job,
                EventType::Warning,
                "TooManyMissedTimes",
                message.to_owned(),
            );
        }
        let Some(at) = due.at else {
            return Ok((false, due.next_in));
        };
        if is_too_late(cron_job, at, now) {
            let shown = at.to_zoned(zone).strftime("%a, %d %b %Y %H:%M:%S %z");
            let message = format!("Missed scheduled time to start a job: {shown}");
            self.event(cron_job, EventType::Warning, "MissSchedule", message);
            return Ok((false, due.next_in));
        }
        let active = cron_job
            .status
            .as_ref()
            .and_then(|status| status.active.clone())
            .unwrap_or_default();
        let job_name = job_name(cron_job, at);
        if active
            .iter()
            .any(|reference| reference.name.as_deref() == Some(&job_name))
        {
            return Ok((false, due.next_in));
        }
        match cron_job.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                let message =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.event(
                    cron_job,
                    EventType::Normal,
                    "JobAlreadyActive",
                    message.to_owned(),
                );
                return Ok((false, due.next_in));
            }
            Some("Replace") => {
                for reference in active {
                    self.delete(cron_job, reference.name.as_deref().unwrap_or_default())
                        .await?;
                }
                cron_job.status.get_or_insert_default().active = None;
            }
            _ => {}
        }
        let Some(job) = self
            .create(cron_job, job_template(cron_job, job_name, at, zone))
            .await?
        else {
            return Ok((false, None));
        };
        let status = cron_job.status.get_or_insert_default();
        if finished(&job).is_none() {
            status.active.get_or_insert_default().push(object_reference(&job));
        }
        status.last_schedule_time = Some(Time(at));
        Ok((true, due.next_in))
    }

    /// The Job, new or made by an earlier attempt; `None` in a namespace that is being deleted.
    async fn create(&self, cron_job: &CronJob, job: Job) -> Result<Option<Job>, ReconcileError> {
        let api = self.jobs(cron_job);
        let error = match api.create(&PostParams::default(), &job).await {
            Ok(job) => {
                self.event(
                    cron_job,
                    EventType::Normal,
                    "SuccessfulCreate",
                    format!("Created job {}", name(&job)),
                );
                return Ok(Some(job));
            }
            Err(error) => error,
        };
        if api_error::is_namespace_terminating(&error) {
            return Ok(None);
        }
        if api_error::is_already_exists(&error) {
            let found = api.get(name(&job)).await?;
            if is_controlled_by(&found.metadata, uid(cron_job)) {
                return Ok(Some(found));
            }
        }
        let message = format!("Error creating job: {}", api_error::message(&error));
        self.event(cron_job, EventType::Warning, "FailedCreate", message);
        Err(error.into())
    }

    async fn delete(&self, cron_job: &CronJob, job: &str) -> Result<(), kube::Error> {
        match self.jobs(cron_job).delete(job, &DeleteParams::background()).await {
            Err(error) if api_error::is_not_found(&error) => Ok(()),
            Err(error) => {
                let message = format!("Deleted job: {}", api_error::message(&error));
                self.event(cron_job, EventType::Warning, "FailedDelete", message);
                Err(error)
            }
            Ok(_) => {
                self.event(
                    cron_job,
                    EventType::Normal,
                    "SuccessfulDelete",
                    format!("Deleted job {job}"),
                );
                Ok(())
            }
        }
    }

    /// Deletes the oldest finished Jobs beyond the history limits.
    async fn clean_up(&self, cron_job: &CronJob, jobs: &[Arc<Job>]) -> Result<(), kube::Error> {
        let limits = [
            (
                "Complete",
                cron_job.spec.successful_jobs_history_limit.unwrap_or(3),
            ),
            ("Failed", cron_job.spec.failed_jobs_history_limit.unwrap_or(1)),
        ];
        for (how, limit) in limits {
            let mut old: Vec<_> = jobs
                .iter()
                .filter(|job| finished(job) == Some(how) && !is_deleting(job.as_ref()))
                .collect();
            old.sort_by_key(|job| {
                let started = job.status.as_ref().and_then(|status| status.start_time.as_ref());
                (started.map(|time| time.0), name(job.as_ref()).to_owned())
            });
            let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            for job in &old[..surplus] {
                self.delete(cron_job, name(job.as_ref())).await?;
            }
        }
        Ok(())
    }

    fn jobs(&self, cron_job: &CronJob) -> Api<Job> {
        Api::namespaced(self.client.clone(), namespace(cron_job))
    }

    fn event(&self, cron_job: &CronJob, kind: EventType, reason: &str, message: String) {
        self.recorder
            .event(&object_reference(cron_job), kind, reason, message);
    }
}

/// `<cronjob>-<minutes since the epoch>`.
fn job_name(cron_job: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", name(cron_job), at.as_second() / 60)
}

fn job_template(cron_job: &CronJob, job_name: String, at: Timestamp, zone: TimeZone) -> Job {
    let template = &cron_job.spec.job_template;
    let meta = template.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    // RFC 3339 with the offset of the schedule's time zone.
    let local = at.to_zoned(zone);
    let stamp = if local.offset().is_zero() {
        at.to_string()
    } else {
        local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    };
    annotations.insert(SCHEDULED.into(), stamp);
    Job {
        metadata: ObjectMeta {
            name: Some(job_name),
            namespace: cron_job.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron_job)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_of_its_time() {
        let cron_job: CronJob = serde_json::from_value(json!({
            "metadata": {"name": "hello", "namespace": "n", "uid": "u"},
            "spec": {"schedule": "* * * * *", "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}}
        }))
        .unwrap();
        let at: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        assert_eq!(job_name(&cron_job, at), "hello-29453761");
        let zone = TimeZone::posix("CET-1").unwrap();
        let job = job_template(&cron_job, "j".into(), at, zone);
        assert_eq!(
            job.metadata.annotations.as_ref().unwrap()[SCHEDULED],
            "2026-01-01T01:01:00+01:00"
        );
        assert!(is_controlled_by(&job.metadata, "u"));
    }
}
