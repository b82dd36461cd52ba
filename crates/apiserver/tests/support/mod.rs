//! A server for tests.
#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "a test fails by panicking, and no test uses everything"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use keelson_apiserver::{
    ApiServer, ApiServerConfig, CertificateAndKey, KubeletClientConfig, ServiceAccountConfig,
};
use keelson_pki::{ClusterNames, Identity, Leaf, Pki};
use keelson_store::embedded::{EmbeddedStore, Options};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A certificate and its key as the server takes them.
pub(crate) fn pem(leaf: &Leaf) -> CertificateAndKey {
    CertificateAndKey {
        certificate_pem: leaf.certificate.to_pem().into_bytes(),
        key_pem: leaf.key.to_pem().into_bytes(),
    }
}

/// A running server, its store and its keys.
pub(crate) struct TestServer {
    pub(crate) server: ApiServer,
    store: Arc<EmbeddedStore>,
    pub(crate) pki: Pki,
    directory: TempDir,
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts with another configuration.
    pub(crate) async fn start_with(adjust: impl FnOnce(&mut ApiServerConfig)) -> Self {
        let directory = TempDir::new().unwrap();
        Self::start_in(directory, adjust).await.unwrap()
    }

    /// Starts with another configuration, which may be refused.
    pub(crate) async fn try_start(
        adjust: impl FnOnce(&mut ApiServerConfig),
    ) -> Result<Self, keelson_apiserver::StartError> {
        Self::start_in(TempDir::new().unwrap(), adjust).await
    }

    async fn start_in(
        directory: TempDir,
        adjust: impl FnOnce(&mut ApiServerConfig),
    ) -> Result<Self, keelson_apiserver::StartError> {
        let pki = Pki::ensure(
            &directory.path().join("pki"),
            &ClusterNames::default(),
            jiff::Timestamp::now(),
        )
        .unwrap();
        let store = EmbeddedStore::open(directory.path().join("store"), Options::default()).unwrap();
        let serving = pem(pki.leaf(Identity::Apiserver));
        let ca = pki.ca.certificate().to_pem().into_bytes();
        let mut config = ApiServerConfig::new(store.clone(), serving, ca);
        config.bind_address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        config.kubelet_client = Some(KubeletClientConfig {
            identity: pem(pki.leaf(Identity::ApiserverKubeletClient)),
            ca_pem: Some(pki.ca.certificate().to_pem().into_bytes()),
        });
        config.proxy_client = Some(pem(pki.leaf(Identity::FrontProxyClient)));
        config.service_account = ServiceAccountConfig {
            signing_key_pem: pki.service_account_key.to_pem().into_bytes(),
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            ..ServiceAccountConfig::default()
        };
        adjust(&mut config);
        match ApiServer::start(config).await {
            Ok(server) => Ok(Self {
                server,
                store,
                pki,
                directory,
            }),
            Err(error) => {
                store.close().await;
                Err(error)
            }
        }
    }

    /// Stops the server and starts it again on the same store.
    pub(crate) async fn restart(self) -> Self {
        self.restart_with(|_| {}).await.unwrap()
    }

    /// As [`Self::restart`] with another configuration.
    pub(crate) async fn restart_with(
        self,
        adjust: impl FnOnce(&mut ApiServerConfig),
    ) -> Result<Self, keelson_apiserver::StartError> {
        self.server.shutdown().await;
        self.store.close().await;
        Self::start_in(self.directory, adjust).await
    }

    /// What the store has on its disk for a key.
    pub(crate) async fn stored(&self, key: &str) -> String {
        use keelson_store::Store;
        let found = self.store.get(key.as_bytes(), None).await.unwrap().unwrap();
        String::from_utf8_lossy(&found.value).into_owned()
    }

    pub(crate) async fn stop(self) {
        self.server.shutdown().await;
        self.store.close().await;
    }

    fn admin(&self) -> &Leaf {
        self.pki.leaf(Identity::Admin)
    }

    /// A kube client over TLS with the administrator's certificate.
    pub(crate) fn client(&self) -> kube::Client {
        let url = format!("https://{}", self.server.local_addr());
        let kubeconfig = self.pki.kubeconfig(Identity::Admin, "test", &url);
        let kubeconfig = kube::config::Kubeconfig::from_yaml(&kubeconfig).unwrap();
        let options = kube::config::KubeConfigOptions::default();
        let config = futures::executor::block_on(kube::Config::from_custom_kubeconfig(kubeconfig, &options));
        kube::Client::try_from(config.unwrap()).unwrap()
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, String) {
        self.send("GET", path, headers, String::new()).await
    }

    /// One request with a JSON body, or none for null; PATCH is a merge patch. The answer is parsed if it can be.
    pub(crate) async fn json(&self, method: &str, path: &str, body: Value) -> (StatusCode, HeaderMap, Value) {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (code, headers, text) = self.send(method, path, &[("content-type", kind)], body).await;
        let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        (code, headers, value)
    }

    /// The answer of a request that succeeds.
    pub(crate) async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let (code, _, value) = self.json(method, path, body).await;
        assert!(code.is_success(), "{method} {path}: {value}");
        value
    }

    /// The code and the message of a request that fails.
    pub(crate) async fn refused(&self, method: &str, path: &str, body: Value) -> (u16, String) {
        let (code, _, value) = self.json(method, path, body).await;
        assert!(!code.is_success(), "{method} {path}: {value}");
        (
            code.as_u16(),
            value["message"].as_str().unwrap_or_default().to_owned(),
        )
    }

    /// Waits until the cache, which admission reads, has an object or has it no more.
    pub(crate) async fn cached(&self, group: &str, resource: &str, name: &str, there: bool) {
        let reader = self.server.resources().resource(group, resource);
        eventually("the object in the cache", || async {
            (reader.get("", name).is_some() == there).then_some(())
        })
        .await;
    }

    /// A TLS connection with the administrator's certificate.
    pub(crate) async fn connect(&self) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        self.connect_as(Some(self.admin())).await
    }

    /// A TLS connection with this certificate or none.
    async fn connect_as(
        &self,
        identity: Option<&Leaf>,
    ) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        let tls = keelson_pki::tls::client_config(&[self.pki.ca.certificate().clone()], identity).unwrap();
        let tcp = tokio::net::TcpStream::connect(self.server.local_addr())
            .await
            .unwrap();
        let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(tls))
            .connect(name, tcp)
            .await
            .unwrap()
    }

    /// One request on one connection with the administrator's certificate.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> (StatusCode, HeaderMap, String) {
        self.send_as(Some(self.admin()), method, path, headers, body)
            .await
    }

    /// One request on one connection with this certificate or none.
    pub(crate) async fn send_as(
        &self,
        identity: Option<&Leaf>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> (StatusCode, HeaderMap, String) {
        let stream = self.connect_as(identity).await;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = sender
            .send_request(request.body(Full::new(Bytes::from(body))).unwrap())
            .await
            .unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        drop(sender);
        // A connection that the server closed early after 413 is not an error of the test.
        drop(connection.await.unwrap());
        (
            parts.status,
            parts.headers,
            String::from_utf8(body.to_vec()).unwrap(),
        )
    }
}

/// Asks again and again until there is an answer, for at most 20 seconds.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut pause = tokio::time::interval(std::time::Duration::from_millis(20));
    loop {
        pause.tick().await;
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "waited in vain for {what}"
        );
    }
}

/// A TLS server on loopback, with a certificate of the cluster's authority for `names`.
pub(crate) async fn tls_server<H, F>(
    pki: &Pki,
    names: &[&str],
    handler: H,
) -> (SocketAddr, tokio_util::sync::CancellationToken)
where
    H: Fn(Request<hyper::body::Incoming>, Arc<keelson_apiserver::http::Connection>) -> F,
    H: Clone + Send + Sync + 'static,
    F: Future<Output = http::Response<keelson_apiserver::http::Body>> + Send + 'static,
{
    let hosts: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let leaf = pki
        .issue_node_server("test", &hosts, jiff::Timestamp::now())
        .unwrap();
    let certificate = keelson_pki::tls::ServingCertificate::new(&leaf).unwrap();
    let tls = keelson_pki::tls::server_config(certificate, &[]).unwrap();
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(keelson_apiserver::http::serve(
        listener,
        acceptor,
        handler,
        stop.clone(),
    ));
    (address, stop)
}

pub(crate) fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"k": value}})).unwrap()
}

pub(crate) fn pod(name: &str, node: &str) -> Pod {
    let mut pod = json!({"metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 30, "containers": [{"name": "c", "image": "i"}]}});
    if !node.is_empty() {
        pod["spec"]["nodeName"] = json!(node);
    }
    serde_json::from_value(pod).unwrap()
}

/// The service account that the controller manager would create.
pub(crate) async fn service_account(client: &kube::Client, namespace: &str) {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
    api.create(&PostParams::default(), &account).await.unwrap();
}

pub(crate) fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("not an answer of the server: {other}"),
    }
}

/// The lines of an answer that does not end by itself.
pub(crate) struct Lines {
    body: hyper::body::Incoming,
    buffer: Vec<u8>,
    _sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
}

impl Lines {
    /// Sends a GET with the administrator's certificate.
    pub(crate) async fn get(server: &TestServer, path: &str) -> Self {
        let stream = TokioIo::new(server.connect().await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder().uri(path).header("host", "127.0.0.1");
        let response = sender
            .send_request(request.body(Full::default()).unwrap())
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        Self {
            body: response.into_body(),
            buffer: Vec::new(),
            _sender: sender,
        }
    }

    /// The next line, or `None` at the end; fails after 20 seconds of silence.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap());
            }
            let frame = tokio::time::timeout(std::time::Duration::from_secs(20), self.body.frame());
            match frame.await.expect("a line or the end") {
                Some(Ok(frame)) => self
                    .buffer
                    .extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(_)) | None => return None,
            }
        }
    }
}
