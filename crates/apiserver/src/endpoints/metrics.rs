//! `/metrics` under upstream's names.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use http::{Response, StatusCode};

use crate::http::{Body, text_response};
use crate::registry::Registry;
use crate::request_info::RequestInfo;

const BUCKETS: [f64; 9] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 60.0];

#[derive(Default)]
struct Series {
    count: AtomicU64,
    nanos: AtomicU64,
    buckets: [AtomicU64; BUCKETS.len()],
}

/// Counters of requests.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: DashMap<Key, Series>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    verb: Box<str>,
    group: Box<str>,
    version: Box<str>,
    resource: Box<str>,
    subresource: Box<str>,
    code: u16,
}

/// More label combinations than this are not counted separately: paths come from clients.
const MAX_SERIES: usize = 4096;

impl Metrics {
    /// Counts a request.
    pub(crate) fn request(&self, info: &RequestInfo, code: u16, took: Duration) {
        if !info.is_resource || code == 404 || self.requests.len() > MAX_SERIES {
            return;
        }
        let key = Key {
            verb: info.verb.to_uppercase().into(),
            group: info.api_group.as_str().into(),
            version: info.api_version.as_str().into(),
            resource: info.resource.as_str().into(),
            subresource: info.subresource.as_str().into(),
            code,
        };
        let series = self.requests.entry(key).or_default();
        series.count.fetch_add(1, Ordering::Relaxed);
        series.nanos.fetch_add(
            u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
        let seconds = took.as_secs_f64();
        for (bucket, limit) in series.buckets.iter().zip(BUCKETS) {
            if seconds <= limit {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Answers `/metrics`.
    pub(crate) fn respond(&self, registry: &Registry) -> Response<Body> {
        let mut out = String::with_capacity(16 << 10);
        // Writing to a String cannot fail.
        let _ = self.write(&mut out, registry);
        let mut response = text_response(StatusCode::OK, out);
        let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        response
    }

    fn write(&self, out: &mut String, registry: &Registry) -> std::fmt::Result {
        writeln!(
            out,
            "# HELP apiserver_request_total Counter of apiserver requests."
        )?;
        writeln!(out, "# TYPE apiserver_request_total counter")?;
        for entry in &self.requests {
            let labels = labels(entry.key());
            let count = entry.value().count.load(Ordering::Relaxed);
            writeln!(
                out,
                "apiserver_request_total{{{labels},code=\"{}\"}} {count}",
                entry.key().code
            )?;
        }
        writeln!(
            out,
            "# HELP apiserver_request_duration_seconds Response latency distribution in seconds."
        )?;
        writeln!(out, "# TYPE apiserver_request_duration_seconds histogram")?;
        for entry in &self.requests {
            let labels = format!("{},code=\"{}\"", labels(entry.key()), entry.key().code);
            let series = entry.value();
            for (bucket, limit) in series.buckets.iter().zip(BUCKETS) {
                let value = bucket.load(Ordering::Relaxed);
                writeln!(
                    out,
                    "apiserver_request_duration_seconds_bucket{{{labels},le=\"{limit}\"}} {value}"
                )?;
            }
            let count = series.count.load(Ordering::Relaxed);
            let sum = Duration::from_nanos(series.nanos.load(Ordering::Relaxed)).as_secs_f64();
            writeln!(
                out,
                "apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {count}"
            )?;
            writeln!(out, "apiserver_request_duration_seconds_sum{{{labels}}} {sum}")?;
            writeln!(
                out,
                "apiserver_request_duration_seconds_count{{{labels}}} {count}"
            )?;
        }
        writeln!(
            out,
            "# HELP apiserver_storage_objects Number of stored objects by resource."
        )?;
        writeln!(out, "# TYPE apiserver_storage_objects gauge")?;
        for cache in registry.resources().caches().all() {
            let spec = cache.spec();
            let resource = match spec.group.as_str() {
                "" => spec.resource.clone(),
                group => format!("{}.{group}", spec.resource),
            };
            writeln!(
                out,
                "apiserver_storage_objects{{resource=\"{resource}\"}} {}",
                cache.len()
            )?;
        }
        Ok(())
    }
}

fn labels(key: &Key) -> String {
    let scope = if key.verb.as_ref() == "LIST" || key.verb.as_ref() == "WATCH" {
        "cluster"
    } else {
        "resource"
    };
    format!(
        "verb=\"{}\",group=\"{}\",version=\"{}\",resource=\"{}\",subresource=\"{}\",scope=\"{scope}\"",
        key.verb, key.group, key.version, key.resource, key.subresource
    )
}
