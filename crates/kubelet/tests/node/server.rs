//! The kubelet's HTTPS server, asked directly and through the API server.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use keelson_pki::Identity;
use kube::api::AttachParams;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Test;
use super::fixture::{Cluster, IDLE, NODE, on_cluster, shell};

pub(crate) const TESTS: &[Test] = &[
    ("the_server_answers_those_who_may_ask", server),
    ("the_node_reports_itself", node),
];

/// One request with a client certificate, or none.
async fn get(cluster: &Cluster, identity: Option<Identity>, path: &str) -> (StatusCode, String) {
    let pki = cluster.pki();
    let leaf = identity.map(|identity| pki.leaf(identity));
    let mut tls = keelson_pki::tls::client_config(&[pki.ca.certificate().clone()], leaf).unwrap();
    tls.alpn_protocols.clear();
    let server = cluster.config.server.as_ref().unwrap();
    let tcp = tokio::net::TcpStream::connect((server.address, server.port))
        .await
        .unwrap();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(tls))
        .connect(name, tcp)
        .await
        .unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", "n1")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    drop(sender);
    drop(connection.await);
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn server() {
    on_cluster(async |cluster| {
        let mut main = shell(
            "main",
            &format!("echo hello; head -c 1048576 /dev/zero > /scratch/f; {IDLE}"),
        );
        main["readinessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
        main["resources"] = json!({"limits": {"memory": "64Mi"}});
        main["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/scratch"}]);
        let volumes = json!([{"name": "scratch", "emptyDir": {}}]);
        cluster
            .pod("web", json!({"containers": [main], "volumes": volumes}))
            .await;
        cluster.until_ready("web").await;
        let api = Some(Identity::ApiserverKubeletClient);
        assert_eq!(get(cluster, None, "/pods").await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(
            get(cluster, Some(Identity::KubeProxy), "/pods").await.0,
            StatusCode::FORBIDDEN
        );
        assert_eq!(get(cluster, api, "/healthz").await, (StatusCode::OK, "ok".into()));
        let (_, pods) = get(cluster, api, "/pods").await;
        let pods: Value = serde_json::from_str(&pods).unwrap();
        assert_eq!(pods["items"][0]["metadata"]["name"], "web");
        assert_eq!(
            get(cluster, api, "/containerLogs/default/web/main?tailLines=1").await,
            (StatusCode::OK, "hello\n".into())
        );
        assert_eq!(
            get(cluster, api, "/containerLogs/default/web/none").await.0,
            StatusCode::NOT_FOUND
        );
        assert_eq!(
            get(cluster, api, "/containerLogs/default/web/main?previous=true")
                .await
                .0,
            StatusCode::BAD_REQUEST
        );
        let (_, metrics) = get(cluster, api, "/metrics/resource").await;
        assert!(
            metrics.contains(
                "container_memory_working_set_bytes{container=\"main\",namespace=\"default\",pod=\"web\"} "
            ),
            "{metrics}"
        );
        assert!(metrics.contains("resource_scrape_error 0"), "{metrics}");
        let (_, summary) = get(cluster, api, "/stats/summary").await;
        let summary: Value = serde_json::from_str(&summary).unwrap();
        assert_eq!(summary["pods"][0]["podRef"]["name"], "web");
        assert!(
            summary["pods"][0]["containers"][0]["memory"]["workingSetBytes"]
                .as_u64()
                .unwrap()
                > 0,
            "{summary:#}"
        );
        assert!(summary["node"]["memory"]["workingSetBytes"].as_u64().unwrap() > 0);
        usage(cluster, &summary).await;
        let (_, config) = get(cluster, api, "/configz").await;
        assert!(config.contains("\"maxPods\":110"), "{config}");
        assert_eq!(get(cluster, api, "/nothing").await.0, StatusCode::NOT_FOUND);

        // exec, through the API server and over a WebSocket.
        let parameters = AttachParams::default().stdin(true).stderr(false);
        let command = ["sh", "-c", "echo out; cat"];
        let mut session = cluster.pods().exec("web", command, &parameters).await.unwrap();
        let mut stdin = session.stdin().unwrap();
        stdin.write_all(b"typed\n").await.unwrap();
        stdin.shutdown().await.unwrap();
        drop(stdin);
        let mut output = vec![0; 10];
        session.stdout().unwrap().read_exact(&mut output).await.unwrap();
        assert_eq!(String::from_utf8(output).unwrap(), "out\ntyped\n");
        session.abort();
    });
}

/// The rest of what the metrics endpoints tell about the pod `web`.
async fn usage(cluster: &Cluster, summary: &Value) {
    let api = Some(Identity::ApiserverKubeletClient);
    let pod = &summary["pods"][0];
    assert!(
        pod["process_stats"]["process_count"].as_u64().unwrap() > 0,
        "{pod:#}"
    );
    assert!(
        pod["ephemeral-storage"]["capacityBytes"].as_u64().unwrap() > 0,
        "{pod:#}"
    );
    let scratch = pod["volume"].as_array().unwrap();
    let scratch = scratch.iter().find(|v| v["name"] == "scratch").unwrap();
    assert!(scratch["usedBytes"].as_u64().unwrap() >= 1 << 20, "{scratch:#}");
    let available = &pod["containers"][0]["memory"]["availableBytes"];
    assert!(
        available.as_u64().is_some_and(|bytes| bytes < 64 << 20),
        "{available}"
    );
    let names: Vec<&Value> = summary["node"]["systemContainers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| &container["name"])
        .collect();
    assert_eq!(names, ["kubelet", "pods"]);
    assert!(summary["node"]["rlimit"]["maxpid"].as_u64().unwrap() > 0);
    let (_, brief) = get(cluster, api, "/stats/summary?only_cpu_and_memory=true").await;
    let brief: Value = serde_json::from_str(&brief).unwrap();
    assert_eq!(brief["pods"][0]["volume"], Value::Null);
    assert!(brief["pods"][0]["cpu"]["usageCoreNanoSeconds"].as_u64().unwrap() > 0);

    let (_, cadvisor) = get(cluster, api, "/metrics/cadvisor").await;
    for line in [
        "container_cpu_usage_seconds_total{container=\"main\",id=\"/keelson-kubelet-test-",
        "container_memory_failures_total{container=\"main\"",
        "machine_cpu_cores{boot_id=",
        "container_scrape_error 0",
    ] {
        assert!(cadvisor.contains(line), "{line} is not in\n{cadvisor}");
    }
    let (_, own) = get(cluster, api, "/metrics").await;
    for line in [
        "kubelet_running_pods 1",
        "process_resident_memory_bytes ",
        "kubernetes_build_info{",
    ] {
        assert!(own.contains(line), "{line} is not in\n{own}");
    }
    let (_, probes) = get(cluster, api, "/metrics/probes").await;
    let uid = cluster.pods().get("web").await.unwrap().metadata.uid.unwrap();
    let line = format!(
        "prober_probe_total{{container=\"main\",namespace=\"default\",pod=\"web\",pod_uid=\"{uid}\",probe_type=\"Readiness\",result=\"successful\"}} "
    );
    assert!(probes.contains(&line), "{line} is not in\n{probes}");
    assert!(
        probes.contains("prober_probe_duration_seconds_count{"),
        "{probes}"
    );
    for path in [
        "/metrics",
        "/metrics/resource",
        "/metrics/cadvisor",
        "/metrics/probes",
        "/stats/summary",
    ] {
        assert_eq!(
            get(cluster, None, path).await.0,
            StatusCode::UNAUTHORIZED,
            "{path}"
        );
        let proxy = Some(Identity::KubeProxy);
        let (status, body) = get(cluster, proxy, path).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
        let wanted = if path.starts_with("/stats") {
            "[stats]"
        } else {
            "[metrics]"
        };
        assert!(body.contains(wanted), "{path}: {body}");
    }
}

fn node() {
    on_cluster(async |cluster| {
        let nodes = kube::Api::<k8s_openapi::api::core::v1::Node>::all(cluster.client.clone());
        let node = serde_json::to_value(nodes.get(NODE).await.unwrap()).unwrap();
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], NODE);
        let status = &node["status"];
        let ready = status["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["type"] == "Ready")
            .unwrap();
        assert_eq!(
            (&ready["reason"], &ready["message"]),
            (&json!("KubeletReady"), &json!("kubelet is posting ready status"))
        );
        assert_eq!(status["capacity"]["pods"], "110");
        assert_eq!(
            status["addresses"],
            json!([{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": NODE}])
        );
        assert_eq!(
            status["daemonEndpoints"]["kubeletEndpoint"]["Port"],
            cluster.config.server.as_ref().unwrap().port
        );
        assert_eq!(status["nodeInfo"]["kubeletVersion"], "v1.36.0");
        let leases = kube::Api::<k8s_openapi::api::coordination::v1::Lease>::namespaced(
            cluster.client.clone(),
            "kube-node-lease",
        );
        let held = |lease: Option<&k8s_openapi::api::coordination::v1::Lease>| {
            lease
                .and_then(|lease| lease.spec.as_ref()?.holder_identity.clone())
                .as_deref()
                == Some(NODE)
        };
        let waiting = kube::runtime::wait::await_condition(leases, NODE, held);
        tokio::time::timeout(std::time::Duration::from_secs(10), waiting)
            .await
            .unwrap()
            .unwrap();
    });
}
