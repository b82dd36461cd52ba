//! `/metrics`: what a scraper sees of requests, objects and flow control.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use http::StatusCode;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, WatchParams};
use support::{TestServer, eventually};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The value of the sample whose line starts with `series`.
fn sample(page: &str, series: &str) -> Option<f64> {
    let line = page.lines().find(|line| line.starts_with(series))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

async fn page(server: &TestServer) -> String {
    let (code, headers, page) = server.get("/metrics", &[]).await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!(
        headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    page
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_under_upstreams_labels() {
    let server = TestServer::start().await;
    let json = [("content-type", "application/json")];
    let object = r#"{"metadata":{"name":"m"}}"#.to_owned();
    for (path, expected) in [
        (MAPS.to_owned(), StatusCode::CREATED),
        (MAPS.to_owned(), StatusCode::CONFLICT),
        (format!("{MAPS}?dryRun=All"), StatusCode::CONFLICT),
    ] {
        let (code, _, text) = server.send("POST", &path, &json, object.clone()).await;
        assert_eq!(code, expected, "{text}");
    }
    for path in [
        MAPS,
        "/api/v1/configmaps",
        "/api/v1/namespaces/default/configmaps/m",
        "/livez",
    ] {
        server.get(path, &[]).await;
    }
    let apply = [("content-type", "application/apply-patch+yaml")];
    let path = format!("{MAPS}/m?fieldManager=t");
    let body = "{apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {a: b}}".to_owned();
    let (code, _, text) = server.send("PATCH", &path, &apply, body).await;
    assert_eq!(code, StatusCode::OK, "{text}");

    let page = page(&server).await;
    let labels = |code: u16, dry_run: &str, scope: &str, verb: &str| {
        format!(
            "apiserver_request_total{{code=\"{code}\",component=\"apiserver\",dry_run=\"{dry_run}\",group=\"\",\
             resource=\"configmaps\",scope=\"{scope}\",subresource=\"\",verb=\"{verb}\",version=\"v1\"}}"
        )
    };
    for (series, expected) in [
        (labels(201, "", "resource", "POST"), 1.0),
        (labels(409, "", "resource", "POST"), 1.0),
        (labels(409, "All", "resource", "POST"), 1.0),
        (labels(200, "", "namespace", "LIST"), 1.0),
        (labels(200, "", "cluster", "LIST"), 1.0),
        (labels(200, "", "resource", "GET"), 1.0),
        (labels(200, "", "resource", "APPLY"), 1.0),
        ("apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"\",scope=\"\",\
          subresource=\"/livez\"".to_owned(), 1.0),
        ("apiserver_request_duration_seconds_count{component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"configmaps\",\
          scope=\"namespace\"".to_owned(), 1.0),
        ("apiserver_response_sizes_count{component=\"apiserver\",group=\"\",resource=\"configmaps\",scope=\"cluster\"".to_owned(), 1.0),
        // The other is kube-system's extension-apiserver-authentication.
        ("apiserver_resource_objects{group=\"\",resource=\"configmaps\"}".to_owned(), 2.0),
        ("apiserver_storage_objects{resource=\"configmaps\"}".to_owned(), 2.0),
        // The scrape itself.
        ("apiserver_current_inflight_requests{request_kind=\"readOnly\"}".to_owned(), 1.0),
        ("apiserver_current_inflight_requests{request_kind=\"mutating\"}".to_owned(), 0.0),
        ("apiserver_flowcontrol_current_executing_requests{flow_schema=\"global-default\",priority_level=\"global-default\"}".to_owned(), 1.0),
    ] {
        assert_eq!(sample(&page, &series), Some(expected), "{series}\n{page}");
    }
    for series in [
        "apiserver_storage_size_bytes",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
    ] {
        assert!(sample(&page, series).is_some_and(|value| value > 0.0), "{series}");
    }
    let seats = "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"catch-all\"}";
    assert!(sample(&page, seats).is_some_and(|seats| seats >= 1.0));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_are_counted_while_they_run() {
    let server = TestServer::start().await;
    let series = "apiserver_longrunning_requests{component=\"apiserver\",group=\"\",resource=\"configmaps\",\
                  scope=\"namespace\",subresource=\"\",verb=\"WATCH\",version=\"v1\"}";
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let watch = maps.watch(&WatchParams::default(), "0").await.unwrap();
    assert_eq!(sample(&page(&server).await, series), Some(1.0));
    drop(watch);
    eventually("the watch is over", || async {
        (sample(&page(&server).await, series) == Some(0.0)).then_some(())
    })
    .await;
    server.stop().await;
}
