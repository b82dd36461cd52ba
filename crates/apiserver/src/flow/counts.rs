//! What priority and fairness counts, under upstream's names.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};

use super::level::Levels;
use crate::metrics::{Registry, register};

const WAITS: [f64; 12] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0];
const FLOW: [&str; 2] = ["flow_schema", "priority_level"];

/// The families.
pub(super) struct Counts {
    dispatched: IntCounterVec,
    rejected: IntCounterVec,
    executing: IntGaugeVec,
    seats: IntGaugeVec,
    waiting: IntGaugeVec,
    waits: HistogramVec,
    /// Nominal, lower and upper limit.
    limits: [IntGaugeVec; 3],
}

/// The series of one FlowSchema.
#[derive(Clone, Debug)]
pub(super) struct FlowCounts {
    pub(super) dispatched: IntCounter,
    /// No place in a queue, no seat and no queues, waited too long.
    pub(super) full: IntCounter,
    pub(super) limit: IntCounter,
    pub(super) timed_out: IntCounter,
    pub(super) executing: IntGauge,
    pub(super) seats: IntGauge,
    pub(super) waiting: IntGauge,
    waited: Histogram,
}

impl FlowCounts {
    pub(super) fn waited(&self, time: Duration) {
        self.waited.observe(time.as_secs_f64());
    }
}

impl Counts {
    pub(super) fn new(registry: &Registry) -> Self {
        let name = |name: &str| format!("apiserver_flowcontrol_{name}");
        let gauge = |what: &str, help: &str, labels: &[&str]| {
            let family = IntGaugeVec::new(Opts::new(name(what), help), labels);
            register(registry, family.expect("invariant: the name is valid"))
        };
        let counter = |what: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name(what), help), labels);
            register(registry, family.expect("invariant: the name is valid"))
        };
        let options = HistogramOpts::new(
            name("request_wait_duration_seconds"),
            "[BETA] Time that a request waited in its queue.",
        );
        let waits = HistogramVec::new(options.buckets(WAITS.to_vec()), &FLOW);
        Self {
            dispatched: counter(
                "dispatched_requests_total",
                "[BETA] Requests that were served.",
                &FLOW,
            ),
            rejected: counter(
                "rejected_requests_total",
                "[BETA] Requests that were refused, and why.",
                &["flow_schema", "priority_level", "reason"],
            ),
            executing: gauge(
                "current_executing_requests",
                "[BETA] Requests that have their seats.",
                &FLOW,
            ),
            seats: gauge("current_executing_seats", "[BETA] Seats that are taken.", &FLOW),
            waiting: gauge(
                "current_inqueue_requests",
                "[BETA] Requests that wait in queues.",
                &FLOW,
            ),
            waits: register(registry, waits.expect("invariant: the name is valid")),
            limits: [
                ("nominal_limit_seats", "[BETA] Seats of a level by its shares."),
                ("lower_limit_seats", "[ALPHA] Seats that a level never lends."),
                (
                    "upper_limit_seats",
                    "[ALPHA] Seats of a level with all that it may borrow.",
                ),
            ]
            .map(|(what, help)| gauge(what, help, &["priority_level"])),
        }
    }

    /// The series of a schema.
    pub(super) fn of(&self, schema: &str, level: &str) -> FlowCounts {
        let labels = [schema, level];
        let rejected = |reason| self.rejected.with_label_values(&[schema, level, reason]);
        FlowCounts {
            dispatched: self.dispatched.with_label_values(&labels),
            full: rejected("queue-full"),
            limit: rejected("concurrency-limit"),
            timed_out: rejected("time-out"),
            executing: self.executing.with_label_values(&labels),
            seats: self.seats.with_label_values(&labels),
            waiting: self.waiting.with_label_values(&labels),
            waited: self.waits.with_label_values(&labels),
        }
    }

    /// Shows the limits of levels that have been configured.
    pub(super) fn configured(&self, levels: &Levels) {
        for family in &self.limits {
            family.reset();
        }
        for level in levels.levels.values().filter(|level| !level.spec.exempt) {
            for (family, seats) in self.limits.iter().zip([level.nominal, level.least, level.most]) {
                let seats = i64::try_from(seats).unwrap_or(i64::MAX);
                family.with_label_values(&[&level.spec.name]).set(seats);
            }
        }
    }
}
