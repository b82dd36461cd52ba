//! metrics-server: the resource metrics API `metrics.k8s.io/v1beta1`, which `kubectl top` and the horizontal pod autoscaler
//! read.
//!
//! As upstream's, it keeps the last two points of every node and container and reports the CPU rate between them and the
//! newest working set. Kubelets' `/metrics/resource` is read through the API server (`nodes/proxy`), over HTTPS with the API
//! server's identity. Unlike upstream's it rests while nobody asks: a request wakes it, it takes two points one second
//! apart, answers, and goes on every 15 seconds until nobody has asked for five minutes.
//!
//! [`MetricsServer`] is an HTTP service for authenticated and authorized requests, and [`MetricsServer::run`] its loop.
//! Left out: serving over TLS by itself, and protobuf.

mod answer;
mod scrape;
mod server;
mod storage;

pub use server::MetricsServer;
