//! exec, attach and port-forward: the runtime gives a URL for the session, and the client's upgraded connection is joined
//! with an upgraded connection to that URL, whatever protocol the two speak (SPDY or WebSocket).

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use keelson_cri::v1 as cri;
use tokio::net::TcpStream;

use super::router::{Body, Query, find_pod, full, text};
use crate::container::rpc_error;
use crate::kubelet::Kubelet;
use crate::pod::handle::PodHandle;

/// Namespace, name and, where the client gave it, UID.
type PodKey<'a> = (&'a str, &'a str, Option<&'a str>);

/// The pod and the ID of its running container.
fn running(
    kubelet: &Kubelet,
    key: PodKey<'_>,
    container: &str,
) -> Result<(Arc<PodHandle>, String), Box<Response<Body>>> {
    let not_found = |message: String| Box::new(text(StatusCode::NOT_FOUND, message));
    let handle =
        find_pod(kubelet, key.0, key.1, key.2).ok_or_else(|| not_found("pod does not exist".into()))?;
    let runtime = handle.runtime();
    let record = runtime.running().find(|record| record.name == container);
    let id = record
        .map(|record| record.id.clone())
        .ok_or_else(|| not_found(format!("container not found ({container:?})")))?;
    Ok((handle, id))
}

pub(super) async fn exec(
    kubelet: &Arc<Kubelet>,
    request: Request<Incoming>,
    key: PodKey<'_>,
    container: &str,
    query: &Query,
) -> Response<Body> {
    let (_, container_id) = match running(kubelet, key, container) {
        Ok(found) => found,
        Err(response) => return *response,
    };
    let tty = query.is_true(&["tty"]);
    let asked = cri::ExecRequest {
        container_id,
        cmd: query.all("command"),
        tty,
        stdin: query.is_true(&["input", "stdin"]),
        stdout: query.is_true(&["output", "stdout"]),
        // A terminal has one output.
        stderr: !tty && query.is_true(&["error", "stderr"]),
    };
    if asked.cmd.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify at least one command");
    }
    if !(asked.stdin || asked.stdout || asked.stderr) {
        return text(
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 of stdin, stdout, stderr",
        );
    }
    match kubelet.config.cri.runtime().exec(asked).await {
        Ok(response) => tunnel(kubelet, request, &response.into_inner().url).await,
        Err(status) => text(StatusCode::INTERNAL_SERVER_ERROR, rpc_error(&status)),
    }
}

pub(super) async fn attach(
    kubelet: &Arc<Kubelet>,
    request: Request<Incoming>,
    key: PodKey<'_>,
    container: &str,
    query: &Query,
) -> Response<Body> {
    let (handle, container_id) = match running(kubelet, key, container) {
        Ok(found) => found,
        Err(response) => return *response,
    };
    // What the container was made with decides, not what the client believes.
    let spec = crate::pod::spec::container(&handle.pod(), container).unwrap_or_default();
    let tty = spec.tty.unwrap_or_default();
    let asked = cri::AttachRequest {
        container_id,
        tty,
        stdin: query.is_true(&["input", "stdin"]),
        stdout: query.is_true(&["output", "stdout"]),
        stderr: !tty && query.is_true(&["error", "stderr"]),
    };
    match kubelet.config.cri.runtime().attach(asked).await {
        Ok(response) => tunnel(kubelet, request, &response.into_inner().url).await,
        Err(status) => text(StatusCode::INTERNAL_SERVER_ERROR, rpc_error(&status)),
    }
}

pub(super) async fn port_forward(
    kubelet: &Arc<Kubelet>,
    request: Request<Incoming>,
    key: PodKey<'_>,
    query: &Query,
) -> Response<Body> {
    let Some(handle) = find_pod(kubelet, key.0, key.1, key.2) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let runtime = handle.runtime();
    let Some(sandbox) = runtime.sandboxes.iter().find(|sandbox| sandbox.ready) else {
        return text(
            StatusCode::BAD_REQUEST,
            format!("pod not found ({:?})", handle.uid),
        );
    };
    let ports = query
        .all("port")
        .iter()
        .chain(&query.all("ports"))
        .flat_map(|list| list.split(','))
        .filter_map(|port| port.parse().ok())
        .collect();
    let asked = cri::PortForwardRequest {
        pod_sandbox_id: sandbox.id.clone(),
        port: ports,
    };
    match kubelet.config.cri.runtime().port_forward(asked).await {
        Ok(response) => tunnel(kubelet, request, &response.into_inner().url).await,
        Err(status) => text(StatusCode::INTERNAL_SERVER_ERROR, rpc_error(&status)),
    }
}

/// Headers of the request that are the kubelet's business, not the runtime's.
fn forwarded(headers: &HeaderMap, host: &str) -> HeaderMap {
    let mut forwarded = headers.clone();
    forwarded.remove(header::AUTHORIZATION);
    if let Ok(value) = header::HeaderValue::from_str(host) {
        forwarded.insert(header::HOST, value);
    }
    forwarded
}

/// Repeats the client's upgrade at `url` and joins the two connections.
async fn tunnel(kubelet: &Arc<Kubelet>, mut request: Request<Incoming>, url: &str) -> Response<Body> {
    let fails = |message: String| {
        text(
            StatusCode::BAD_GATEWAY,
            format!("error dialing the container runtime: {message}"),
        )
    };
    if !request.headers().contains_key(header::UPGRADE) {
        return text(StatusCode::BAD_REQUEST, "Upgrade request required");
    }
    let Ok(uri) = url.parse::<Uri>() else {
        return fails(format!("{url:?} is not a URL"));
    };
    let (Some(host), port) = (uri.host(), uri.port_u16().unwrap_or(80)) else {
        return fails(format!("{url:?} names no host"));
    };
    let stream = match TcpStream::connect((host.trim_matches(['[', ']']), port)).await {
        Ok(stream) => stream,
        Err(error) => return fails(error.to_string()),
    };
    let (mut sender, connection) = match http1::handshake(TokioIo::new(stream)).await {
        Ok(parts) => parts,
        Err(error) => return fails(error.to_string()),
    };
    let shutdown = kubelet.shutdown.clone();
    kubelet.tracker.spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            result = connection.with_upgrades() => if let Err(error) = result {
                tracing::debug!(%error, "streaming connection to the runtime ended");
            }
        }
    });
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let mut outgoing = Request::new(Empty::<Bytes>::new());
    *outgoing.method_mut() = request.method().clone();
    *outgoing.headers_mut() = forwarded(request.headers(), &format!("{host}:{port}"));
    match path.parse() {
        Ok(path) => *outgoing.uri_mut() = path,
        Err(_) => return fails(format!("{path:?} is not a path")),
    }
    let mut response = match sender.send_request(outgoing).await {
        Ok(response) => response,
        Err(error) => return fails(error.to_string()),
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = response.into_parts();
        let bytes = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        return Response::from_parts(parts, full(bytes));
    }
    let (client, runtime) = (
        hyper::upgrade::on(&mut request),
        hyper::upgrade::on(&mut response),
    );
    let shutdown = kubelet.shutdown.clone();
    kubelet.tracker.spawn(async move {
        let join = async {
            let (client, runtime) = tokio::try_join!(client, runtime)?;
            let (mut client, mut runtime) = (TokioIo::new(client), TokioIo::new(runtime));
            // Either side may reset the connection when it is done.
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut runtime).await {
                tracing::debug!(%error, "streaming session ended");
            }
            Ok::<(), hyper::Error>(())
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            result = join => if let Err(error) = result {
                tracing::debug!(%error, "streaming connection not upgraded");
            }
        }
    });
    let (parts, _) = response.into_parts();
    Response::from_parts(parts, full(Bytes::new()))
}
