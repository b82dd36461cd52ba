//! Which time is due.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::CronJob;

use super::schedule::Schedule;

/// Beyond as many missed times there is a warning: the clock or the deadline may be wrong.
const TOO_MANY: i64 = 100;

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The time that a Job should be started for, if there is one.
    pub(super) at: Option<Timestamp>,
    /// Many times have passed without a Job.
    pub(super) too_many_missed: bool,
    /// How long until the next time.
    pub(super) next_in: Option<Duration>,
}

/// Looks at the schedule from the last time, or the object's creation, to `now`.
pub(super) fn due(cron_job: &CronJob, schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Due {
    let last = cron_job
        .status
        .as_ref()
        .and_then(|status| status.last_schedule_time.as_ref());
    let created = cron_job.metadata.creation_timestamp.as_ref();
    let mut earliest = last.or(created).map_or(now, |time| time.0);
    if let Some(deadline) = deadline(cron_job) {
        earliest = earliest.max(now.checked_sub(deadline).unwrap_or(earliest));
    }
    let at = schedule.last(earliest, now, zone);
    let next = schedule.next(now, zone);
    // A little later than the time itself, so that a clock that jitters does not come early.
    let next_in = next.and_then(|next| u64::try_from(next.as_millisecond() - now.as_millisecond()).ok());
    Due {
        at,
        too_many_missed: at.is_some_and(|at| missed(schedule, zone, earliest, at) > TOO_MANY),
        next_in: next_in.map(|left| Duration::from_millis(left + 100)),
    }
}

/// About how many times there are up to `at`.
fn missed(schedule: &Schedule, zone: &TimeZone, earliest: Timestamp, at: Timestamp) -> i64 {
    let Some(first) = schedule.next(earliest, zone) else {
        return 0;
    };
    let Some(second) = schedule.next(first, zone) else {
        return 1;
    };
    (at.as_second() - first.as_second()) / (second.as_second() - first.as_second()).max(1) + 1
}

fn deadline(cron_job: &CronJob) -> Option<SignedDuration> {
    cron_job
        .spec
        .starting_deadline_seconds
        .map(SignedDuration::from_secs)
}

/// Whether it is too late to start a Job for that time.
pub(super) fn is_too_late(cron_job: &CronJob, at: Timestamp, now: Timestamp) -> bool {
    deadline(cron_job).is_some_and(|deadline| at.checked_add(deadline).is_ok_and(|limit| limit < now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_due() {
        let check = |last: Option<&str>,
                     deadline: Option<i64>,
                     now: &str,
                     at: Option<&str>,
                     many: bool,
                     next: u64| {
            let mut value = json!({
                "metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"schedule": "", "jobTemplate": {}, "startingDeadlineSeconds": deadline}
            });
            if let Some(last) = last {
                value["status"] = json!({"lastScheduleTime": last});
            }
            let cron_job: CronJob = serde_json::from_value(value).unwrap();
            let schedule = Schedule::parse("*/10 * * * *").unwrap();
            let due = due(&cron_job, &schedule, &TimeZone::UTC, now.parse().unwrap());
            assert_eq!(due.at, at.map(|at| at.parse().unwrap()), "{now}");
            assert_eq!(due.too_many_missed, many, "{now}");
            assert_eq!(
                due.next_in,
                Some(Duration::from_millis(next * 1000 + 100)),
                "{now}"
            );
        };
        check(None, None, "2026-01-01T00:09:00Z", None, false, 60);
        check(
            None,
            None,
            "2026-01-01T00:10:01Z",
            Some("2026-01-01T00:10:00Z"),
            false,
            599,
        );
        check(
            Some("2026-01-01T00:10:00Z"),
            None,
            "2026-01-01T00:10:01Z",
            None,
            false,
            599,
        );
        check(
            Some("2026-01-01T00:10:00Z"),
            None,
            "2026-01-01T00:35:00Z",
            Some("2026-01-01T00:30:00Z"),
            false,
            300,
        );
        check(
            None,
            None,
            "2026-01-02T00:00:00Z",
            Some("2026-01-02T00:00:00Z"),
            true,
            600,
        );
        check(
            None,
            Some(60),
            "2026-01-02T00:00:30Z",
            Some("2026-01-02T00:00:00Z"),
            false,
            570,
        );
        check(None, Some(60), "2026-01-02T00:05:00Z", None, false, 300);
    }
}
