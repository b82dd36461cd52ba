//! All metrics of a server, and the page that shows them.

use http::{HeaderValue, Response, StatusCode};
use prometheus::process_collector::ProcessCollector;
use prometheus::{IntGauge, IntGaugeVec, Opts, TextEncoder};

use super::requests::Requests;
use super::{Registry, register};
use crate::http::{Body, text_response};

/// The metrics of a server.
pub(crate) struct Metrics {
    registry: Registry,
    /// Counters of requests.
    pub(crate) requests: Requests,
    objects: IntGaugeVec,
    objects_by_resource: IntGaugeVec,
    stored: IntGauge,
}

impl Metrics {
    /// `registry` already has, or gets later, what other parts count.
    pub(crate) fn new(registry: Registry) -> Self {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            register(
                &registry,
                IntGaugeVec::new(Opts::new(name, help), labels).expect("invariant: the name is valid"),
            )
        };
        let build = gauge(
            "kubernetes_build_info",
            "[ALPHA] What the binary was built from; the value is always 1.",
            &["git_version", "major", "minor", "platform"],
        );
        let platform = crate::endpoints::platform();
        build
            .with_label_values(&[crate::endpoints::GIT_VERSION, "1", "36", &platform])
            .set(1);
        let size = gauge(
            "apiserver_storage_size_bytes",
            "[STABLE] Size of the store in bytes.",
            &["storage_cluster_id"],
        );
        registry
            .register(Box::new(ProcessCollector::for_self()))
            .expect("invariant: every name is registered once");
        Self {
            objects: gauge(
                "apiserver_resource_objects",
                "[ALPHA] Stored objects, by resource.",
                &["group", "resource"],
            ),
            objects_by_resource: gauge(
                "apiserver_storage_objects",
                "[STABLE] Stored objects, by resource.",
                &["resource"],
            ),
            stored: size.with_label_values(&["0"]),
            requests: Requests::new(&registry),
            registry,
        }
    }

    /// Answers `/metrics`.
    pub(crate) async fn respond(&self, server: &crate::registry::Registry) -> Response<Body> {
        if let Ok(bytes) = server.store_size().await {
            self.stored.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        // Kinds come and go with their definitions.
        self.objects.reset();
        self.objects_by_resource.reset();
        for cache in server.resources().caches().all() {
            let spec = cache.spec();
            let count = i64::try_from(cache.len()).unwrap_or(i64::MAX);
            self.objects
                .with_label_values(&[&spec.group, &spec.resource])
                .set(count);
            let name = match spec.group.as_str() {
                "" => spec.resource.clone(),
                group => format!("{}.{group}", spec.resource),
            };
            self.objects_by_resource.with_label_values(&[&name]).set(count);
        }
        let mut response = match TextEncoder::new().encode_to_string(&self.registry.gather()) {
            Ok(text) => text_response(StatusCode::OK, text),
            Err(error) => text_response(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        };
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        response
    }
}
