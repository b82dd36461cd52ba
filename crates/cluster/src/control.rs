//! The node's control socket: images for `keelson image`, over HTTP on a unix socket that only root can reach.
//!
//! Every answer is a stream of JSON lines: progress, then `{"result": …}` or `{"error": "…"}` as the last one.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use keelson_cri::v1 as cri;
use keelson_kubelet::Cri;
use keelson_runtime::images::{ImageRecord, ImageStore, ImportSource, PullProgress};
use keelson_store::Store;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backup::stream;

/// Talking to a node failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens.
    #[error("no keelson runs here: nothing answers on {path}; start it with `keelson up` or `keelson agent`", path = path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to keelson broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A file.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// No image has such a name.
    #[error("{0:?} is not the name of an image; names look like registry.example/app:v1")]
    Name(String),
    /// The node refused.
    #[error("{0}")]
    Refused(String),
}

pub(crate) fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Broken(error.into())
}

pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// What the socket gives access to.
#[derive(Clone)]
pub struct Served {
    /// Images.
    pub images: ImageStore,
    /// What uses them.
    pub runtime: Cri,
    /// The cluster's store, where the server process is.
    pub store: Option<Arc<dyn Store>>,
}

/// Serves the socket until `shutdown`.
pub async fn serve(served: Served, socket: &Path, shutdown: CancellationToken) -> io::Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    let tasks = TaskTracker::new();
    loop {
        let (stream, _) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted?,
        };
        let served = served.clone();
        let (tracker, shutdown) = (tasks.clone(), shutdown.clone());
        tasks.spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let (served, tracker) = (served.clone(), tracker.clone());
                async move { Ok::<_, Infallible>(answer(served, request, &tracker).await) }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                // The client went away: nothing is lost, images are whole or absent.
                _ = connection => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

async fn answer(served: Served, request: Request<Incoming>, tasks: &TaskTracker) -> Response<Body> {
    let Served {
        images,
        runtime,
        store,
    } = served;
    let image = request
        .uri()
        .query()
        .and_then(|query| query.strip_prefix("image="))
        .map(str::to_owned);
    let (lines, receiver) = mpsc::channel(16);
    match (request.method().clone(), request.uri().path(), image) {
        (Method::GET, stream::PATH, None) => {
            return match store {
                Some(store) => stream::answer(store, tasks).await,
                None => status(StatusCode::NOT_FOUND),
            };
        }
        (Method::GET, "/images", None) => {
            let list: Vec<_> = images.list(None).iter().map(describe).collect();
            tasks.spawn(async move { finish(&lines, Ok(json!(list))).await });
        }
        (Method::POST, "/images/import", None) => {
            let body = request.into_body();
            tasks.spawn(async move { finish(&lines, import(&images, body).await).await });
        }
        (Method::POST, "/images/pull", Some(image)) => {
            tasks.spawn(async move {
                let result = pull(&images, &image, &lines).await;
                finish(&lines, result).await;
            });
        }
        (Method::DELETE, "/images", Some(image)) => {
            tasks.spawn(async move { finish(&lines, remove(&images, &runtime, &image).await).await });
        }
        _ => return status(StatusCode::NOT_FOUND),
    }
    Response::new(stream_body(receiver))
}

/// A body of what comes through a channel.
pub(crate) fn stream_body(receiver: mpsc::Receiver<Bytes>) -> Body {
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        let bytes = receiver.recv().await?;
        Some((Ok(Frame::data(bytes)), receiver))
    });
    BodyExt::boxed(StreamBody::new(frames))
}

fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::new()).boxed());
    *response.status_mut() = code;
    response
}

async fn finish(lines: &mpsc::Sender<Bytes>, result: Result<Value, String>) {
    let line = match result {
        Ok(value) => json!({"result": value}),
        Err(error) => json!({"error": error}),
    };
    send(lines, &line).await;
}

async fn send(lines: &mpsc::Sender<Bytes>, line: &Value) {
    // A client that has gone away does not want the line.
    let _ = lines.send(Bytes::from(format!("{line}\n"))).await;
}

fn describe(image: &ImageRecord) -> Value {
    json!({"id": image.id.to_string(), "names": image.repo_tags, "digests": image.repo_digests, "size": image.size})
}

pub(crate) fn error_text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

async fn import(images: &ImageStore, body: Incoming) -> Result<Value, String> {
    let stream = BodyStream::new(body)
        .try_filter_map(|frame| async move { Ok(frame.into_data().ok()) })
        .map_err(io::Error::other);
    let reader = SyncIoBridge::new(StreamReader::new(Box::pin(stream)));
    let imported = images
        .import(ImportSource::Reader(Box::new(reader)))
        .await
        .map_err(|e| error_text(&e))?;
    Ok(imported.iter().map(describe).collect())
}

/// Removes an image that no container uses; `null` when there is none of that name.
async fn remove(images: &ImageStore, runtime: &Cri, image: &str) -> Result<Value, String> {
    let Some(record) = images.status(image) else {
        return Ok(Value::Null);
    };
    let request = cri::ListContainersRequest::default();
    let listed = runtime.runtime().list_containers(request).await;
    let containers = listed
        .map_err(|status| status.message().to_owned())?
        .into_inner()
        .containers;
    let references: Vec<String> = record
        .repo_digests
        .iter()
        .chain(&record.repo_tags)
        .cloned()
        .chain([record.id.to_string(), record.image_ref()])
        .collect();
    if let Some(user) = containers.iter().find(|c| references.contains(&c.image_ref)) {
        let label = |key: &str| user.labels.get(key).map_or("", String::as_str);
        return Err(format!(
            "{image} is used by container {} of pod {}/{}: delete the pod first",
            label("io.kubernetes.container.name"),
            label("io.kubernetes.pod.namespace"),
            label("io.kubernetes.pod.name"),
        ));
    }
    images.remove(image).await.map_err(|e| error_text(&e))?;
    Ok(json!(image))
}

async fn pull(images: &ImageStore, image: &str, lines: &mpsc::Sender<Bytes>) -> Result<Value, String> {
    let (progress, mut changes) = watch::channel(PullProgress::default());
    let mut pulling = std::pin::pin!(images.pull(image, None, progress));
    loop {
        tokio::select! {
            result = &mut pulling => return result.map(|i| describe(&i)).map_err(|e| error_text(&e)),
            Ok(()) = changes.changed() => {
                let now = changes.borrow_and_update().clone();
                let line = json!({
                    "layersDone": now.layers_done, "layersTotal": now.layers_total,
                    "bytesDone": now.bytes_done, "bytesTotal": now.bytes_total,
                });
                send(lines, &line).await;
            }
        }
    }
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// List images.
    List,
    /// Import an archive.
    Import(PathBuf),
    /// Pull an image.
    Pull(String),
    /// Remove an image.
    Remove(String),
}

/// Does `action` on the node behind `socket`; `progress` sees what the node tells meanwhile.
pub async fn request(
    socket: &Path,
    action: &Action,
    progress: &(dyn Fn(&Value) + Send + Sync),
) -> Result<Value, Error> {
    if let Action::Pull(image) | Action::Remove(image) = action {
        // All that names, tags, digests and ids are made of; nothing of it has a meaning in a URL's query.
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@[]".contains(c);
        if image.is_empty() || !image.chars().all(plain) {
            return Err(Error::Name(image.clone()));
        }
    }
    let (mut sender, connection) = connect(socket).await?;
    let empty = || Full::new(Bytes::new()).map_err(|never| match never {}).boxed();
    let (method, path, body) = match action {
        Action::List => (Method::GET, "/images".to_owned(), empty()),
        Action::Import(file) => {
            let opened = tokio::fs::File::open(file).await;
            let file = opened.map_err(|source| Error::Read {
                path: file.clone(),
                source,
            })?;
            let frames = tokio_util::io::ReaderStream::with_capacity(file, 256 << 10).map_ok(Frame::data);
            (
                Method::POST,
                "/images/import".to_owned(),
                BodyExt::boxed(StreamBody::new(frames)),
            )
        }
        Action::Pull(image) => (Method::POST, format!("/images/pull?image={image}"), empty()),
        Action::Remove(image) => (Method::DELETE, format!("/images?image={image}"), empty()),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "keelson")
        .body(body)
        .map_err(broken)?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let mut body = response.into_body();
    let mut buffer = Vec::new();
    let result = loop {
        match body.frame().await {
            Some(frame) => buffer.extend(frame.map_err(broken)?.into_data().unwrap_or_default()),
            None => break Err(broken("it closed the connection before it answered")),
        }
        if let Some(result) = lines(&mut buffer, progress)? {
            break result;
        }
    };
    drop(sender);
    connection.abort();
    result
}

/// A connection to the node behind `socket`, and the task that drives it.
pub(crate) async fn connect(
    socket: &Path,
) -> Result<
    (
        SendRequest<BoxBody<Bytes, io::Error>>,
        JoinHandle<hyper::Result<()>>,
    ),
    Error,
> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| Error::NotRunning {
            path: socket.into(),
            source,
        })?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    Ok((sender, tokio::spawn(connection)))
}

/// Takes whole lines off `buffer`; the last one's result.
fn lines(
    buffer: &mut Vec<u8>,
    progress: &(dyn Fn(&Value) + Send + Sync),
) -> Result<Option<Result<Value, Error>>, Error> {
    while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
        let line: Vec<u8> = buffer.drain(..=end).collect();
        let mut value: Value = serde_json::from_slice(&line).map_err(broken)?;
        if let Some(result) = value.get_mut("result") {
            return Ok(Some(Ok(result.take())));
        }
        if let Some(error) = value.get("error").and_then(Value::as_str) {
            return Ok(Some(Err(Error::Refused(error.to_owned()))));
        }
        progress(&value);
    }
    Ok(None)
}
