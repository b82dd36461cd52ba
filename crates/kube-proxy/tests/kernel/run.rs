//! The whole component: objects through watches to the kernel, health checks and metrics.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use keelson_sys::netns::NetNs;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::fake_api::FakeApi;
use crate::support::{Lab, NODE, service, slice, who};

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

fn wait(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(8), "{what}");
        std::thread::yield_now();
    }
}

fn get(ns: &NetNs, to: &str, path: &str) -> String {
    let (to, path) = (to.to_owned(), path.to_owned());
    let asked = ns.run(move || {
        let mut stream = TcpStream::connect(&to)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut out = String::new();
        stream.read_to_string(&mut out)?;
        Ok(out)
    });
    asked.unwrap_or_else(|e| e.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_become_rules_and_health() {
    let lab = Lab::new(3);
    let config = lab.config();
    let api = FakeApi::new();
    let node = |taints| json!({ "metadata": { "name": "n1" }, "spec": { "taints": taints } });
    api.put("/api/v1/nodes", node(json!([])));
    let svc = service(
        "web",
        json!({ "type": "LoadBalancer", "clusterIP": "10.96.0.60", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32001,
                "ports": [{ "port": 80, "nodePort": 30060 }], "status": [{ "ip": "10.112.0.9" }] }),
    );
    api.put(SERVICES, &svc);
    api.put(SLICES, slice("web", &[2]));
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(keelson_kube_proxy::run(config, api.client(), shutdown.clone()));
    let test = tokio::task::spawn_blocking(move || {
        wait("first rules", || who(lab.pod(4), "10.96.0.60:80") == Ok(2));
        let health = |path: &str| get(&lab.outside, &format!("{NODE}:10256"), path);
        wait("healthy", || health("/healthz").starts_with("HTTP/1.1 200"));
        assert!(health("/healthz").contains(r#""nodeEligible": true"#));
        let check = || get(&lab.outside, &format!("{NODE}:32001"), "/");
        assert!(
            check().starts_with("HTTP/1.1 200") && check().contains("\"localEndpoints\": 1"),
            "{}",
            check()
        );
        assert!(
            check()
                .to_lowercase()
                .contains("x-load-balancing-endpoint-weight: 1")
        );
        // An endpoint moves: first one of this node, then one of another.
        api.put(SLICES, slice("web", &[3]));
        wait("the new endpoint", || who(lab.pod(4), "10.96.0.60:80") == Ok(3));
        api.put(SLICES, slice("web", &[-3]));
        wait("no local endpoint", || {
            check().starts_with("HTTP/1.1 503") && check().contains("\"localEndpoints\": 0")
        });
        // The node is about to go: balancers stop, liveness does not care.
        api.put(
            "/api/v1/nodes",
            node(json!([{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule" }])),
        );
        wait("not eligible", || health("/healthz").starts_with("HTTP/1.1 503"));
        assert!(health("/livez").starts_with("HTTP/1.1 200"));
        let metrics = get(&lab.node, "127.0.0.1:10249", "/metrics");
        assert!(
            metrics.contains("kubeproxy_sync_proxy_rules_duration_seconds_count"),
            "{metrics}"
        );
        assert!(get(&lab.node, "127.0.0.1:10249", "/proxyMode").ends_with("nftables"));
        api.delete(SERVICES, &svc);
        wait("the Service is gone", || {
            who(lab.pod(4), "10.96.0.60:80").is_err()
        });
        wait("its health check is gone", || !check().starts_with("HTTP"));
        lab
    });
    let lab = test.await.unwrap();
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    drop(lab);
}
