//! Requests: how many, how long, how large, how many at once.

use std::time::Duration;

use http::{Method, StatusCode};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::{Registry, register};
use crate::request_info::RequestInfo;

const LATENCIES: [f64; 22] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 60.0,
];
const SIZES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const COMPONENT: &str = "apiserver";

/// Counters of requests.
pub(crate) struct Requests {
    total: IntCounterVec,
    latency: HistogramVec,
    sizes: HistogramVec,
    inflight: [IntGauge; 2],
    longrunning: IntGaugeVec,
}

/// What is said of a request in labels.
pub(crate) struct Observed<'a> {
    verb: &'static str,
    scope: &'static str,
    dry_run: &'static str,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
    long: bool,
}

/// Counts one for as long as it lives.
pub(crate) struct Counted(IntGauge);

impl Counted {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Paths outside the API that are counted, by their path as the subresource.
const OTHER_PATHS: [&str; 4] = ["/healthz", "/livez", "/metrics", "/readyz"];

impl<'a> Observed<'a> {
    /// `None` for requests that are not counted: paths come from clients, and each makes a series.
    pub(crate) fn of(method: &Method, info: &'a RequestInfo, apply: bool, dry_run: bool) -> Option<Self> {
        if !info.is_resource {
            let path = OTHER_PATHS.into_iter().find(|path| *path == info.path)?;
            return Some(Self {
                verb: "GET",
                scope: "",
                dry_run: "",
                group: "",
                version: "",
                resource: "",
                subresource: path,
                long: false,
            });
        }
        let verb = match info.verb.as_str() {
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "create" => "POST",
            "update" => "PUT",
            "patch" if apply => "APPLY",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            _ => "CONNECT",
        };
        let connects = matches!(
            info.subresource.as_str(),
            "exec" | "attach" | "portforward" | "proxy"
        );
        let verb = if connects { "CONNECT" } else { verb };
        let scope = match (&*info.name, method) {
            ("", &Method::POST) => "resource",
            ("", _) if info.namespace.is_empty() => "cluster",
            ("", _) => "namespace",
            _ => "resource",
        };
        Some(Self {
            verb,
            scope,
            dry_run: if dry_run { "All" } else { "" },
            group: &info.api_group,
            version: &info.api_version,
            resource: &info.resource,
            subresource: &info.subresource,
            long: verb == "WATCH" || connects || info.subresource == "log",
        })
    }

    /// Whether it may last as long as the client likes.
    pub(crate) fn is_long_running(&self) -> bool {
        self.long
    }

    /// component, dry_run, group, resource, scope, subresource, verb, version
    fn labels(&self) -> [&str; 8] {
        let [component, group, resource, scope, subresource, verb, version] = self.plain();
        [
            component,
            self.dry_run,
            group,
            resource,
            scope,
            subresource,
            verb,
            version,
        ]
    }

    /// component, group, resource, scope, subresource, verb, version
    fn plain(&self) -> [&str; 7] {
        [
            COMPONENT,
            self.group,
            self.resource,
            self.scope,
            self.subresource,
            self.verb,
            self.version,
        ]
    }
}

const PLAIN: [&str; 7] = [
    "component",
    "group",
    "resource",
    "scope",
    "subresource",
    "verb",
    "version",
];

impl Requests {
    pub(super) fn new(registry: &Registry) -> Self {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(
                registry,
                IntCounterVec::new(Opts::new(name, help), labels).expect("invariant: the name is valid"),
            )
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            register(
                registry,
                HistogramVec::new(options, labels).expect("invariant: the name is valid"),
            )
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            register(
                registry,
                IntGaugeVec::new(Opts::new(name, help), labels).expect("invariant: the name is valid"),
            )
        };
        let inflight = gauge(
            "apiserver_current_inflight_requests",
            "[STABLE] Requests that are being answered now, by kind.",
            &["request_kind"],
        );
        Self {
            total: counter(
                "apiserver_request_total",
                "[STABLE] Requests, by what they ask for and the code of the answer.",
                &[
                    "code",
                    "component",
                    "dry_run",
                    "group",
                    "resource",
                    "scope",
                    "subresource",
                    "verb",
                    "version",
                ],
            ),
            latency: histogram(
                "apiserver_request_duration_seconds",
                "[STABLE] Time from a request to its answer in seconds.",
                &[
                    "component",
                    "dry_run",
                    "group",
                    "resource",
                    "scope",
                    "subresource",
                    "verb",
                    "version",
                ],
                &LATENCIES,
            ),
            sizes: histogram(
                "apiserver_response_sizes",
                "[STABLE] Size of answers in bytes, where it is known beforehand.",
                &PLAIN,
                &SIZES,
            ),
            inflight: ["readOnly", "mutating"].map(|kind| inflight.with_label_values(&[kind])),
            longrunning: gauge(
                "apiserver_longrunning_requests",
                "[STABLE] Watches and streams that are running now.",
                &PLAIN,
            ),
        }
    }

    /// A request that is being answered from now on.
    pub(crate) fn begin(&self, observed: &Observed<'_>) -> Option<Counted> {
        let mutating = !matches!(observed.verb, "GET" | "LIST" | "WATCH");
        (!observed.long).then(|| Counted::new(self.inflight[usize::from(mutating)].clone()))
    }

    /// A watch or stream that runs from now on.
    pub(crate) fn runs_long(&self, observed: &Observed<'_>) -> Counted {
        Counted::new(self.longrunning.with_label_values(&observed.plain()))
    }

    /// A request that was answered; `size` in bytes.
    pub(crate) fn answered(
        &self,
        observed: &Observed<'_>,
        code: StatusCode,
        took: Duration,
        size: Option<u64>,
    ) {
        let o = observed;
        let [component, dry_run, rest @ ..] = o.labels();
        let mut total = [code.as_str(), component, dry_run, "", "", "", "", "", ""];
        total[3..].copy_from_slice(&rest);
        self.total.with_label_values(&total).inc();
        if o.long {
            return;
        }
        let took = took.as_secs_f64();
        self.latency.with_label_values(&o.labels()).observe(took);
        if let Some(size) = size
            && matches!(o.verb, "GET" | "LIST")
        {
            self.sizes.with_label_values(&o.plain()).observe(size as f64);
        }
    }
}
