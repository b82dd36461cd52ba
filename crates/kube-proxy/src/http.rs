//! A small HTTP/1.1 server for health checks and metrics, listening inside the node's network namespace.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use keelson_sys::netns::NetNs;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A client that has not sent its request's head by then is dropped.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Most connections at once; more wait.
const CONNECTIONS: usize = 128;

/// An answer: status, content type, body and extra headers.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Answer {
    pub(crate) fn json(status: StatusCode, body: String) -> Self {
        let headers = vec![("X-Content-Type-Options", "nosniff".to_owned())];
        Answer {
            status,
            content_type: "application/json",
            body,
            headers,
        }
    }

    pub(crate) fn text(body: String) -> Self {
        Answer {
            status: StatusCode::OK,
            content_type: "text/plain; charset=utf-8",
            body,
            headers: Vec::new(),
        }
    }

    pub(crate) fn not_found() -> Self {
        let status = StatusCode::NOT_FOUND;
        Answer {
            status,
            body: "404 page not found\n".into(),
            ..Answer::text(String::new())
        }
    }
}

/// Opens a listener inside a namespace.
pub(crate) async fn listen(netns: Option<NetNs>, address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let bind = move || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let listener = tokio::task::spawn_blocking(move || match netns {
        Some(netns) => netns.run(bind),
        None => bind(),
    })
    .await
    .map_err(io::Error::other)??;
    tokio::net::TcpListener::from_std(listener)
}

/// Serves until `shutdown`; returns when all connections have ended.
pub(crate) async fn serve(
    listener: tokio::net::TcpListener,
    handler: impl Fn(&str) -> Answer + Send + Sync + 'static,
    shutdown: CancellationToken,
) {
    let handler = Arc::new(handler);
    let tracker = TaskTracker::new();
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    loop {
        let accept = async {
            let slot = slots
                .clone()
                .acquire_owned()
                .await
                .expect("invariant: the semaphore is never closed");
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (handler, shutdown) = (handler.clone(), shutdown.clone());
        tracker.spawn(async move {
            let _slot = slot;
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = handler(request.uri().path());
                async move { Ok::<_, Infallible>(respond(answer)) }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .keep_alive(false);
            tokio::select! {
                () = shutdown.cancelled() => {}
                // A client that goes away is its own business.
                _ = builder.serve_connection(TokioIo::new(stream), service) => {}
            }
        });
    }
    tracker.close();
    tracker.wait().await;
}

fn respond(answer: Answer) -> Response<Full<Bytes>> {
    let mut builder = Response::builder()
        .status(answer.status)
        .header("Content-Type", answer.content_type);
    for (name, value) in answer.headers {
        builder = builder.header(name, value);
    }
    builder
        .body(Full::new(Bytes::from(answer.body)))
        .expect("invariant: headers are ours and valid")
}
