//! An HTTP/1.1 client over TLS: keep-alive connections, nothing more, so that it costs little beside the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use keelson_pki::{Identity, Pki};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Result;

/// The administrator by client certificate.
#[derive(Clone)]
pub(crate) struct Client {
    tls: TlsConnector,
    address: String,
}

/// One keep-alive connection.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    pub(crate) fn new(pki: &Pki, address: &str) -> Result<Self> {
        let tls = keelson_pki::tls::client_config(
            std::slice::from_ref(pki.ca.certificate()),
            Some(pki.leaf(Identity::Admin)),
        )?;
        Ok(Self {
            tls: TlsConnector::from(Arc::new(tls)),
            address: address.to_owned(),
        })
    }

    pub(crate) async fn stream(&self) -> Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        let name = rustls_pki_types::ServerName::try_from("127.0.0.1")?;
        Ok(self.tls.connect(name, tcp).await?)
    }

    pub(crate) async fn connect(&self) -> Result<Connection> {
        let stream = TokioIo::new(self.stream().await?);
        let (sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        // Ends when the sender is dropped.
        tokio::spawn(connection);
        Ok(Connection { sender })
    }

    /// Sends `count` requests over 32 connections, each made by `request` from its number.
    pub(crate) async fn many(
        &self,
        count: usize,
        request: impl Fn(usize) -> (Method, String, String) + Send + Sync + 'static,
    ) -> Result<()> {
        let next = Arc::new(AtomicUsize::new(0));
        let request = Arc::new(request);
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..32 {
            let (next, request) = (next.clone(), request.clone());
            let mut connection = self.connect().await?;
            workers.spawn(async move {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return Ok::<_, Box<dyn std::error::Error + Send + Sync>>(());
                    }
                    let (method, path, body) = request(at);
                    connection.send(method, &path, body).await?;
                }
            });
        }
        while let Some(worker) = workers.join_next().await {
            worker??;
        }
        Ok(())
    }

    /// The token of a service account that may do everything.
    pub(crate) async fn token(&self) -> Result<String> {
        let mut connection = self.connect().await?;
        connection
            .post(
                "/api/v1/namespaces/default/serviceaccounts",
                &json!({"metadata": {"name": "bench"}}),
            )
            .await?;
        connection
            .post(
                "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
                &json!({"metadata": {"name": "bench"},
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
                    "subjects": [{"kind": "ServiceAccount", "name": "bench", "namespace": "default"}]}),
            )
            .await?;
        let answer = connection
            .post(
                "/api/v1/namespaces/default/serviceaccounts/bench/token",
                &json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {"expirationSeconds": 7200}}),
            )
            .await?;
        Ok(answer["status"]["token"].as_str().ok_or("no token")?.to_owned())
    }
}

impl Connection {
    pub(crate) async fn send(&mut self, method: Method, path: &str, body: String) -> Result<Bytes> {
        let content = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1")
            .header("content-type", content)
            .header("user-agent", "bench/1")
            .body(Full::new(Bytes::from(body)))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            return Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&body)).into());
        }
        Ok(body)
    }

    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Result<Value> {
        let bytes = self.send(Method::POST, path, body.to_string()).await?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Bytes> {
        self.send(Method::GET, path, String::new()).await
    }
}

/// How often `what` stands in `bytes`.
pub(crate) fn count(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).filter(|window| *window == what).count()
}
