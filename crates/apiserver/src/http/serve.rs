//! Accepts connections: TLS, then HTTP/1.1 or HTTP/2, until shutdown.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::Body;
use crate::user::UserInfo;

/// What is known about a connection.
#[derive(Clone, Default)]
pub struct Connection {
    /// The peer; `None` inside the process.
    pub remote: Option<SocketAddr>,
    /// The client's certificates, leaf first, as it sent them.
    pub certificates: Option<Arc<Vec<CertificateDer<'static>>>>,
    /// The identity of in-process clients.
    pub local_user: Option<Arc<UserInfo>>,
}

/// Pause after a failed accept.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// A handshake that takes longer is given up.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Headers must arrive within this time.
const HEADERS: Duration = Duration::from_secs(30);
/// Connections that still have requests this long after shutdown began are cut.
const DRAIN: Duration = Duration::from_secs(10);

/// Serves `listener` until `shutdown`, then lets running requests end.
pub async fn serve<H, F>(listener: TcpListener, tls: TlsAcceptor, handler: H, shutdown: CancellationToken)
where
    H: Fn(Request<Incoming>, Arc<Connection>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let connections = TaskTracker::new();
    loop {
        let (stream, remote) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors: nothing can be accepted until one is free, which nobody announces.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            },
        };
        let (tls, handler, shutdown) = (tls.clone(), handler.clone(), shutdown.clone());
        connections.spawn(async move { connection(stream, remote, &tls, handler, shutdown).await });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "connections are cut at shutdown");
    }
}

async fn connection<H, F>(
    stream: TcpStream,
    remote: SocketAddr,
    tls: &TlsAcceptor,
    handler: H,
    shutdown: CancellationToken,
) where
    H: Fn(Request<Incoming>, Arc<Connection>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%remote, %error, "TCP_NODELAY could not be set");
    }
    let stream = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%remote, %error, "TLS handshake error");
            return;
        }
        Err(_) => {
            tracing::debug!(%remote, "TLS handshake timed out");
            return;
        }
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let info = Connection {
        remote: Some(remote),
        certificates: certificates.map(|c| Arc::new(c.iter().map(|c| c.clone().into_owned()).collect())),
        ..Connection::default()
    };
    let info = Arc::new(info);
    let service = service_fn(move |request: Request<Incoming>| {
        let response = handler(request, info.clone());
        async move { Ok::<_, Infallible>(response.await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(1 << 20)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1000)
        .adaptive_window(true)
        .keep_alive_interval(Some(Duration::from_secs(30)));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%remote, %error, "connection ended");
    }
}
