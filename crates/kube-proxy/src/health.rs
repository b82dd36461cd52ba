//! Health of the proxy itself, its metrics, and the health checks of Services with `externalTrafficPolicy: Local`.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use jiff::Timestamp;
use keelson_client::NamespacedName;
use keelson_sys::netns::NetNs;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::http::{Answer, listen, serve};
use crate::model::HealthCheck;

/// A change that waits longer to reach the kernel makes the proxy unhealthy.
const STALE: Duration = Duration::from_secs(60);
/// Upper bounds of the synchronisation histogram in seconds (upstream's).
const BUCKETS: [f64; 15] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];

/// What is known of the proxy's own health, shared by its parts.
#[derive(Debug)]
pub(crate) struct ProxyHealth {
    waiting_since: Mutex<Option<Instant>>,
    last_updated: Mutex<Option<Timestamp>>,
    node_eligible: AtomicBool,
    syncs: Mutex<([u64; 16], f64, u64)>,
    full_syncs: AtomicU64,
    failures: AtomicU64,
    service_changes: AtomicU64,
    endpoint_changes: AtomicU64,
}

impl Default for ProxyHealth {
    fn default() -> Self {
        ProxyHealth {
            waiting_since: Mutex::default(),
            last_updated: Mutex::default(),
            node_eligible: AtomicBool::new(true),
            syncs: Mutex::default(),
            full_syncs: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            service_changes: AtomicU64::new(0),
            endpoint_changes: AtomicU64::new(0),
        }
    }
}

impl ProxyHealth {
    pub(crate) fn changed(&self, endpoints: bool) {
        let counter = if endpoints {
            &self.endpoint_changes
        } else {
            &self.service_changes
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.waiting_since.lock().get_or_insert_with(Instant::now);
    }

    pub(crate) fn synced(&self, took: Duration, full: bool, nothing_waits: bool) {
        if nothing_waits {
            *self.waiting_since.lock() = None;
        }
        *self.last_updated.lock() = Some(Timestamp::now());
        let seconds = took.as_secs_f64();
        let mut syncs = self.syncs.lock();
        let bucket = BUCKETS
            .iter()
            .position(|b| seconds <= *b)
            .unwrap_or(BUCKETS.len());
        syncs.0[bucket] += 1;
        syncs.1 += seconds;
        syncs.2 += 1;
        if full {
            self.full_syncs.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_node_eligible(&self, eligible: bool) {
        self.node_eligible.store(eligible, Ordering::Relaxed);
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.last_updated.lock().is_some()
            && self
                .waiting_since
                .lock()
                .is_none_or(|since| since.elapsed() < STALE)
    }

    fn healthz(&self, path: &str) -> Answer {
        let healthy = match path {
            // A node that goes away should get no new traffic, but its proxy is alive.
            "/healthz" => self.is_healthy() && self.node_eligible.load(Ordering::Relaxed),
            "/livez" => self.is_healthy(),
            _ => return Answer::not_found(),
        };
        let now = Timestamp::now();
        let updated = if healthy {
            now
        } else {
            self.last_updated.lock().unwrap_or_default()
        };
        let eligible = self.node_eligible.load(Ordering::Relaxed);
        let status = if healthy {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let body =
            format!(r#"{{"lastUpdated": "{updated}","currentTime": "{now}", "nodeEligible": {eligible}}}"#);
        Answer::json(status, body)
    }

    fn metrics(&self, path: &str) -> Answer {
        match path {
            "/metrics" => {}
            "/proxyMode" => return Answer::text("nftables".into()),
            "/healthz" => return Answer::text("ok".into()),
            _ => return Answer::not_found(),
        }
        let mut out = String::new();
        let (counts, sum, count) = *self.syncs.lock();
        let name = "kubeproxy_sync_proxy_rules_duration_seconds";
        out.push_str(&format!("# TYPE {name} histogram\n"));
        let mut total = 0;
        for (bound, n) in BUCKETS.iter().zip(counts) {
            total += n;
            out.push_str(&format!(
                "{name}_bucket{{ip_family=\"IPv4\",le=\"{bound}\"}} {total}\n"
            ));
        }
        out.push_str(&format!(
            "{name}_bucket{{ip_family=\"IPv4\",le=\"+Inf\"}} {count}\n"
        ));
        out.push_str(&format!(
            "{name}_sum{{ip_family=\"IPv4\"}} {sum}\n{name}_count{{ip_family=\"IPv4\"}} {count}\n"
        ));
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (name, value) in [
            (
                "kubeproxy_sync_proxy_rules_endpoint_changes_total",
                load(&self.endpoint_changes),
            ),
            (
                "kubeproxy_sync_proxy_rules_service_changes_total",
                load(&self.service_changes),
            ),
            (
                "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
                load(&self.failures),
            ),
            ("kubeproxy_sync_full_proxy_rules_total", load(&self.full_syncs)),
        ] {
            out.push_str(&format!("# TYPE {name} counter\n{name} {value}\n"));
        }
        let last = self.last_updated.lock().map_or(0, Timestamp::as_second);
        let name = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
        out.push_str(&format!(
            "# TYPE {name} gauge\n{name}{{ip_family=\"IPv4\"}} {last}\n"
        ));
        Answer {
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            ..Answer::text(out)
        }
    }
}

/// Serves /healthz and /livez.
pub(crate) async fn serve_healthz(
    health: Arc<ProxyHealth>,
    listener: tokio::net::TcpListener,
    shutdown: CancellationToken,
) {
    serve(listener, move |path| health.healthz(path), shutdown).await;
}

/// Serves /metrics and /proxyMode.
pub(crate) async fn serve_metrics(
    health: Arc<ProxyHealth>,
    listener: tokio::net::TcpListener,
    shutdown: CancellationToken,
) {
    serve(listener, move |path| health.metrics(path), shutdown).await;
}

struct Server {
    port: u16,
    endpoints: Arc<AtomicUsize>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// One listener per health-checked Service.
pub(crate) struct ServiceHealthServers {
    netns: Option<NetNs>,
    health: Arc<ProxyHealth>,
    servers: HashMap<NamespacedName, Server>,
}

impl ServiceHealthServers {
    pub(crate) fn new(netns: Option<NetNs>, health: Arc<ProxyHealth>) -> Self {
        ServiceHealthServers {
            netns,
            health,
            servers: HashMap::new(),
        }
    }

    /// Starts, stops or updates the listener of one Service.
    pub(crate) async fn set(&mut self, service: &NamespacedName, check: Option<&HealthCheck>) {
        if let (Some(server), Some(check)) = (self.servers.get(service), check)
            && server.port == check.port
        {
            server.endpoints.store(check.local_endpoints, Ordering::Relaxed);
            return;
        }
        if let Some(server) = self.servers.remove(service) {
            stop(server).await;
        }
        let Some(check) = check else { return };
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, check.port));
        let listener = match listen(self.netns.clone(), address).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%service, port = check.port, %error, "cannot listen on healthCheckNodePort");
                return;
            }
        };
        let endpoints = Arc::new(AtomicUsize::new(check.local_endpoints));
        let (count, key, health) = (endpoints.clone(), service.clone(), self.health.clone());
        let stop = CancellationToken::new();
        let handler = move |_: &str| check_answer(&key, count.load(Ordering::Relaxed), health.is_healthy());
        let task = tokio::spawn(serve(listener, handler, stop.clone()));
        self.servers.insert(
            service.clone(),
            Server {
                port: check.port,
                endpoints,
                stop,
                task,
            },
        );
    }

    pub(crate) async fn shut_down(&mut self) {
        for (_, server) in self.servers.drain() {
            stop(server).await;
        }
    }
}

async fn stop(server: Server) {
    server.stop.cancel();
    // A panic in the server was reported by the runtime.
    let _ = server.task.await;
}

fn check_answer(service: &NamespacedName, endpoints: usize, healthy: bool) -> Answer {
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{}\",\n\t\t\"name\": \"{}\"\n\t}},\n\t\"localEndpoints\": {endpoints},\n\t\"serviceProxyHealthy\": {healthy}\n}}",
        service.namespace, service.name
    );
    let status = if endpoints > 0 && healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut answer = Answer::json(status, body);
    answer
        .headers
        .push(("X-Load-Balancing-Endpoint-Weight", endpoints.to_string()));
    answer
}
