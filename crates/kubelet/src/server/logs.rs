//! `/containerLogs`: the log of a container as a stream.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use super::router::{Body, Query, find_pod, text};
use crate::container::logs::{self, LogOptions, Stream};
use crate::kubelet::Kubelet;
use crate::pod::handle::PodHandle;
use crate::pod::runtime_status::State;
use crate::pod::spec;

/// Lines on their way to the client.
const BUFFER: usize = 64;

fn options(query: &Query) -> Result<LogOptions, String> {
    let number = |name: &str| -> Result<Option<u64>, String> {
        match query.get(name).filter(|value| !value.is_empty()) {
            Some(value) => value
                .parse()
                .map(Some)
                .map_err(|_| format!("invalid {name} {value:?}: must be a non-negative number")),
            None => Ok(None),
        }
    };
    let mut since = None;
    if let Some(seconds) = number("sinceSeconds")? {
        let seconds = i64::try_from(seconds).map_err(|error| error.to_string())?;
        since = Timestamp::now()
            .checked_sub(SignedDuration::from_secs(seconds))
            .ok();
    } else if let Some(time) = query.get("sinceTime").filter(|time| !time.is_empty()) {
        since = Some(
            time.parse()
                .map_err(|error| format!("invalid sinceTime {time:?}: {error}"))?,
        );
    }
    let stream = match query.get("stream").unwrap_or("All") {
        "All" | "" => None,
        "Stdout" => Some(Stream::Stdout),
        "Stderr" => Some(Stream::Stderr),
        other => {
            return Err(format!(
                "unsupported stream {other:?}: must be All, Stdout or Stderr"
            ));
        }
    };
    Ok(LogOptions {
        follow: query.is_true(&["follow"]),
        timestamps: query.is_true(&["timestamps"]),
        tail: number("tailLines")?,
        since,
        limit: number("limitBytes")?,
        stream,
    })
}

/// The container instance whose log is wanted: its ID and file.
fn instance(
    handle: &PodHandle,
    container: &str,
    previous: bool,
) -> Result<(String, PathBuf), (StatusCode, String)> {
    let pod = handle.pod();
    let bad = |text: String| Err((StatusCode::BAD_REQUEST, text));
    if spec::container(&pod, container).is_none() {
        let text = format!(
            "container {container:?} not found in pod {:?}",
            spec::format(&pod)
        );
        return Err((StatusCode::NOT_FOUND, text));
    }
    let runtime = handle.runtime();
    let mut records = runtime
        .containers
        .iter()
        .filter(|record| record.name == container);
    let newest = records.next();
    let found = if previous {
        records.find(|record| record.state == State::Exited)
    } else {
        newest
    };
    match found {
        Some(record) if record.state != State::Created => {
            Ok((record.id.clone(), PathBuf::from(&record.log_path)))
        }
        _ if previous => bad(format!(
            "previous terminated container {container:?} in pod {:?} not found",
            spec::name(&pod)
        )),
        _ => {
            let status = handle.status();
            let lists = status.iter().flat_map(|status| {
                [
                    &status.init_container_statuses,
                    &status.container_statuses,
                    &status.ephemeral_container_statuses,
                ]
            });
            let mut states = lists
                .flatten()
                .flatten()
                .filter(|status| status.name == container);
            let waiting = states
                .next()
                .and_then(|status| status.state.as_ref()?.waiting.clone())
                .unwrap_or_default();
            let reason = waiting.reason.unwrap_or_else(|| "ContainerCreating".into());
            let name = spec::name(&pod);
            match (reason.as_str(), waiting.message) {
                ("ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull", _) => {
                    let why = if reason == "ErrImagePull" {
                        "image can't be pulled"
                    } else {
                        "trying and failing to pull image"
                    };
                    bad(format!(
                        "container {container:?} in pod {name:?} is waiting to start: {why}"
                    ))
                }
                (reason, _) => bad(format!(
                    "container {container:?} in pod {name:?} is waiting to start: {reason}"
                )),
            }
        }
    }
}

pub(super) async fn container_logs(
    kubelet: &Arc<Kubelet>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Response<Body> {
    let options = match options(query) {
        Ok(options) => options,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let Some(handle) = find_pod(kubelet, namespace, pod, None) else {
        return text(StatusCode::NOT_FOUND, format!("pod {pod:?} does not exist"));
    };
    let (id, path) = match instance(&handle, container, query.is_true(&["previous"])) {
        Ok(found) => found,
        Err((status, message)) => return text(status, message),
    };
    if !path.exists() {
        return text(
            StatusCode::NOT_FOUND,
            format!(
                "failed to try resolving symlinks in path {:?}: no such file or directory",
                path.display()
            ),
        );
    }
    let (sender, receiver) = mpsc::channel::<Bytes>(BUFFER);
    let shutdown = kubelet.shutdown.clone();
    kubelet.tracker.spawn(async move {
        let running = move || {
            let runtime = handle.runtime();
            runtime
                .containers
                .iter()
                .any(|record| record.id == id && record.state == State::Running)
        };
        if let Err(error) = logs::read(path.clone(), options, sender, running, shutdown).await {
            tracing::debug!(path = %path.display(), %error, "log not read to its end");
        }
    });
    let stream = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver
            .recv()
            .await
            .map(|bytes| (Ok::<_, std::io::Error>(Frame::data(bytes)), receiver))
    });
    let mut response = Response::new(StreamBody::new(stream.boxed()).boxed_unsync());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain"),
    );
    response
}
