//! An HTTP client for one destination.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::resolve::{ServiceRef, resolve};
use crate::http::BodyError;
use crate::resources::Resources;

const DIAL: Duration = Duration::from_secs(30);
/// Connections that nobody used for this long are closed.
const IDLE: Duration = Duration::from_secs(60);

/// Where a client connects to.
#[derive(Clone)]
pub(crate) enum Place {
    /// A Service of the cluster, resolved for each connection.
    Service(ServiceRef, Resources),
    /// A host and a port.
    Host(String, u16),
}

/// A request failed before there was an answer; the text is for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SendError(pub(crate) String);

/// Keeps connections to one destination.
#[derive(Clone)]
pub(crate) struct Client {
    inner: legacy::Client<Connector, UnsyncBoxBody<Bytes, BodyError>>,
    authority: String,
}

impl Client {
    /// A client that connects to `place` and expects `server_name` there. Its connections belong to `tasks` and end with
    /// `shutdown`.
    pub(crate) fn new(
        place: Place,
        server_name: &str,
        tls: ClientConfig,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Result<Self, String> {
        let port = match &place {
            Place::Service(service, _) => service.port,
            Place::Host(_, port) => *port,
        };
        let bare = server_name.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned()).map_err(|e| format!("{server_name}: {e}"))?;
        let connector = Connector {
            place,
            name,
            tls: Arc::new(tls).into(),
        };
        let tasks = Tasks {
            tracker: tasks.clone(),
            shutdown: shutdown.clone(),
        };
        let inner = legacy::Client::builder(tasks)
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        let host = if bare.contains(':') {
            format!("[{bare}]")
        } else {
            bare.to_owned()
        };
        Ok(Self {
            inner,
            authority: format!("{host}:{port}"),
        })
    }

    /// `https://host:port` and this path with its query.
    pub(crate) fn uri(&self, path_and_query: &str) -> Result<Uri, SendError> {
        Uri::builder()
            .scheme("https")
            .authority(self.authority.as_str())
            .path_and_query(path_and_query)
            .build()
            .map_err(|e| SendError(e.to_string()))
    }

    /// Sends a request whose URI is of [`Self::uri`].
    pub(crate) async fn send(
        &self,
        request: Request<UnsyncBoxBody<Bytes, BodyError>>,
    ) -> Result<Response<Incoming>, SendError> {
        self.inner
            .request(request)
            .await
            .map_err(|e| SendError(describe(&e)))
    }

    /// Sends a request with all its body and reads all of the answer, of at most `limit` bytes.
    pub(crate) async fn exchange(
        &self,
        request: Request<Bytes>,
        limit: usize,
    ) -> Result<Response<Bytes>, SendError> {
        let request = request.map(|b| Full::new(b).map_err(|never| match never {}).boxed_unsync());
        let (parts, body) = self.send(request).await?.into_parts();
        match Limited::new(body, limit).collect().await {
            Ok(body) => Ok(Response::from_parts(parts, body.to_bytes())),
            Err(error) => Err(SendError(error.to_string())),
        }
    }
}

/// The innermost causes say what happened; hyper's own text does not.
fn describe(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        if source.downcast_ref::<SendError>().is_some() {
            return source.to_string();
        }
        last = source;
    }
    last.to_string()
}

/// Connection tasks belong to the server.
#[derive(Clone)]
struct Tasks {
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let shutdown = self.shutdown.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                _ = task => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
}

#[derive(Clone)]
struct Connector {
    place: Place,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Connector {
    async fn connect(self) -> Result<Stream, SendError> {
        let (host, port) = match &self.place {
            Place::Service(service, resources) => {
                resolve(resources, service).map_err(|status| SendError(status.message))?
            }
            Place::Host(host, port) => (host.clone(), *port),
        };
        let failed = |error: &dyn std::fmt::Display| SendError(format!("dial tcp {host}:{port}: {error}"));
        let tcp = match tokio::time::timeout(DIAL, TcpStream::connect((host.as_str(), port))).await {
            Ok(Ok(tcp)) => tcp,
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => return Err(failed(&"i/o timeout")),
        };
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        match tokio::time::timeout(DIAL, self.tls.connect(self.name, tcp)).await {
            Ok(Ok(stream)) => Ok(Stream(TokioIo::new(stream))),
            Ok(Err(error)) => Err(SendError(format!("tls: failed to verify certificate: {error}"))),
            Err(_) => Err(SendError("net/http: TLS handshake timeout".to_owned())),
        }
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = SendError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, SendError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// A connection for hyper.
struct Stream(TokioIo<TlsStream<TcpStream>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
