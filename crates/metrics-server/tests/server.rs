//! The metrics API in a real API server, which reads a kubelet's port with real TLS.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{Request, Response};
use jiff::Timestamp;
use keelson_apiserver::http::Body;
use keelson_apiserver::user::UserInfo;
use keelson_apiserver::{ApiServer, ApiServerConfig, CertificateAndKey, KubeletClientConfig, LocalApi};
use keelson_metrics_server::MetricsServer;
use keelson_pki::{ClusterNames, Identity, Leaf, Pki};
use keelson_store::embedded::{EmbeddedStore, Options};
use kube::Client;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

fn pem(leaf: &Leaf) -> CertificateAndKey {
    CertificateAndKey {
        certificate_pem: leaf.certificate.to_pem().into_bytes(),
        key_pem: leaf.key.to_pem().into_bytes(),
    }
}

/// A kubelet whose node and container use half a core and a tenth of one. Counts its scrapes.
async fn kubelet(pki: &Pki, scrapes: Arc<AtomicU64>, stop: CancellationToken) -> u16 {
    let leaf = pki
        .issue_node_server("n1", &["127.0.0.1".to_owned()], Timestamp::now())
        .unwrap();
    let certificate = keelson_pki::tls::ServingCertificate::new(&leaf).unwrap();
    let tls = keelson_pki::tls::server_config(certificate, &[]).unwrap();
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    let started = Timestamp::now();
    let handler = move |request: Request<hyper::body::Incoming>, _| {
        assert_eq!(request.uri().path(), "/metrics/resource");
        scrapes.fetch_add(1, Ordering::SeqCst);
        let now = Timestamp::now();
        let seconds = now.duration_since(started).as_secs_f64();
        let at = now.as_millisecond();
        let labels = "{container=\"c\",namespace=\"default\",pod=\"p\"}";
        let start = started.as_second() - 3600;
        let text = format!(
            "node_cpu_usage_seconds_total {node} {at}\nnode_memory_working_set_bytes 1048576 {at}\n\
             container_cpu_usage_seconds_total{labels} {container} {at}\n\
             container_memory_working_set_bytes{labels} 4096 {at}\ncontainer_start_time_seconds{labels} {start} {at}\n",
            node = seconds * 0.5,
            container = seconds * 0.1,
        );
        async move { Response::new(Body::from(text)) }
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(keelson_apiserver::http::serve(listener, acceptor, handler, stop));
    port
}

async fn call(client: &Client, request: http::request::Builder, body: Value) -> Value {
    let body = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let request = request
        .header("content-type", "application/json")
        .body(body)
        .unwrap();
    client.request(request).await.unwrap()
}

async fn get(client: &Client, path: &str) -> Value {
    call(client, Request::get(path), Value::Null).await
}

/// Millicores within a third of what they should be: the machine that tests run on is shared.
fn check_cpu(usage: &Value, expected: f64) {
    let text = usage["cpu"].as_str().unwrap();
    let cores = keelson_api::quantity::Quantity::parse(text).unwrap().as_f64();
    assert!(
        (cores - expected).abs() < expected / 3.0,
        "{text}, not {expected}"
    );
}

/// A node whose kubelet listens on `port`, and two pods on it.
async fn populate(admin: &Client, port: u16) {
    let node =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"zone": "a"}}});
    call(admin, Request::post("/api/v1/nodes"), node).await;
    let status = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"zone": "a"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    call(admin, Request::put("/api/v1/nodes/n1/status"), status).await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    call(
        admin,
        Request::post("/api/v1/namespaces/default/serviceaccounts"),
        account,
    )
    .await;
    for name in ["p", "q"] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
        call(admin, Request::post("/api/v1/namespaces/default/pods"), pod).await;
    }
}

#[tokio::test]
async fn usage_of_nodes_and_pods() {
    let directory = tempfile::TempDir::new().unwrap();
    let pki = Pki::ensure(
        &directory.path().join("pki"),
        &ClusterNames::default(),
        Timestamp::now(),
    )
    .unwrap();
    let store = EmbeddedStore::open(directory.path().join("store"), Options::default()).unwrap();
    let ca = pki.ca.certificate().to_pem().into_bytes();
    let mut config = ApiServerConfig::new(store.clone(), pem(pki.leaf(Identity::Apiserver)), ca.clone());
    config.bind_address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.kubelet_client = Some(KubeletClientConfig {
        identity: pem(pki.leaf(Identity::ApiserverKubeletClient)),
        ca_pem: Some(ca),
    });
    let api = ApiServer::start(config).await.unwrap();
    let user = |name: &str| {
        let service = api.local_service(UserInfo::new(name, &[]));
        keelson_client::client_from_service(service)
    };
    let admin =
        keelson_client::client_from_service(api.local_service(UserInfo::new("a", &["system:masters"])));
    let stop = CancellationToken::new();
    let metrics = MetricsServer::new(user("system:keelson-metrics-server"));
    let (running, token) = (metrics.clone(), stop.clone());
    let running = tokio::spawn(async move { running.run(token).await });
    api.serve_locally(LocalApi::new("metrics.k8s.io", "v1beta1", metrics))
        .await
        .unwrap();

    let scrapes = Arc::new(AtomicU64::new(0));
    let port = kubelet(&pki, scrapes.clone(), stop.clone()).await;
    populate(&admin, port).await;
    assert_eq!(scrapes.load(Ordering::SeqCst), 0, "nobody has asked");

    // The first answer has two points, and the APIService is a local one.
    let nodes = get(&admin, "/apis/metrics.k8s.io/v1beta1/nodes").await;
    assert_eq!(
        (&nodes["kind"], nodes["items"].as_array().unwrap().len()),
        (&json!("NodeMetricsList"), 1)
    );
    assert_eq!(nodes["items"][0]["metadata"]["labels"]["zone"], "a");
    assert_eq!(nodes["items"][0]["usage"]["memory"], "1Mi");
    check_cpu(&nodes["items"][0]["usage"], 0.5);
    assert!(scrapes.load(Ordering::SeqCst) >= 2);
    let service = get(
        &admin,
        "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io",
    )
    .await;
    assert_eq!(service["spec"].get("service"), None);

    // A pod that the kubelet does not know has no metrics.
    let pods = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods";
    let list = get(&admin, pods).await;
    let items = list["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["metadata"]["name"]), (1, &json!("p")));
    check_cpu(&items[0]["containers"][0]["usage"], 0.1);
    let list = get(&admin, &format!("{pods}?labelSelector=app%3Dq")).await;
    assert_eq!(list["items"], json!([]));
    let list = get(&admin, &format!("{pods}?fieldSelector=metadata.name%3Dp")).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let pod = get(&admin, &format!("{pods}/p")).await;
    assert_eq!(
        (&pod["kind"], &pod["containers"][0]["usage"]["memory"]),
        (&json!("PodMetrics"), &json!("4Ki"))
    );
    let table = Request::get(pods).header(
        "accept",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    );
    let table = call(&admin, table, Value::Null).await;
    assert_eq!(
        (&table["kind"], &table["rows"][0]["cells"][0]),
        (&json!("Table"), &json!("p"))
    );

    let error = |client: Client, path: String| async move {
        let request = Request::get(path).body(Vec::new()).unwrap();
        match client.request::<Value>(request).await {
            Err(kube::Error::Api(status)) => (status.code, status.message.clone()),
            other => panic!("{other:?}"),
        }
    };
    let (code, text) = error(admin.clone(), format!("{pods}/q")).await;
    assert_eq!(
        (code, text.as_str()),
        (404, "podmetrics.metrics.k8s.io \"default/q\" not found")
    );
    let (code, _) = error(user("jane"), pods.to_owned()).await;
    assert_eq!(code, 403);

    let groups = get(&admin, "/apis").await;
    let last = groups["groups"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["name"], &last["preferredVersion"]["version"]),
        (&json!("metrics.k8s.io"), &json!("v1beta1"))
    );
    let resources = get(&admin, "/apis/metrics.k8s.io/v1beta1").await;
    assert_eq!(resources["resources"][1]["kind"], "PodMetrics");

    // A manifest of another metrics server takes its place.
    let other = json!({"spec": {"insecureSkipTLSVerify": true, "service": {"namespace": "kube-system", "name": "metrics-server"}}});
    let path = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io";
    let patch = Request::patch(path).header("content-type", "application/merge-patch+json");
    let request = patch.body(other.to_string().into_bytes()).unwrap();
    admin.request::<Value>(request).await.unwrap();
    let request = Request::get(pods).body(Vec::new()).unwrap();
    let answer = admin.request_text(request).await;
    assert!(
        answer.is_err(),
        "served by a server that is not there: {answer:?}"
    );

    stop.cancel();
    running.await.unwrap();
    api.shutdown().await;
    store.close().await;
}
