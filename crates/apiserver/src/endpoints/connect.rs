//! Streams: exec, attach, port-forward and log of pods, and the proxies of pods, services and nodes.
//!
//! Exec, attach, port-forward and logs go to the kubelet of the pod's node with the server's client certificate; what the
//! client and the kubelet agree on (WebSocket, SPDY) passes through untouched as bytes. Logs over WebSocket are made here.

use std::sync::Arc;

use http::header::{LOCATION, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use keelson_api::status::Status;
use serde_json::{Map, Value, json};

use super::log::log;
use super::request::Incoming;
use super::rewrite::rewrite;
use super::upstream::{self, Target};
use crate::admission::{Attributes, Operation};
use crate::http::{Body, RequestBody};
use crate::registry::{Kind, metadata};
use crate::request_info::RequestInfo;
use keelson_api::gvk::GroupVersionKind;

pub(crate) use super::upstream::KubeletProxy;

/// Whether the request is for a stream.
pub(super) fn is_connect(info: &RequestInfo) -> bool {
    if !info.api_group.is_empty() {
        return false;
    }
    matches!(
        (info.resource.as_str(), info.subresource.as_str()),
        ("pods", "exec" | "attach" | "portforward" | "log" | "proxy") | ("nodes" | "services", "proxy")
    )
}

/// Answers a stream request.
pub(super) async fn connect(
    incoming: &Incoming<'_>,
    kind: &Arc<Kind>,
    parts: &Parts,
    body: RequestBody,
    upgrade: Option<hyper::upgrade::OnUpgrade>,
) -> Result<Response<Body>, Status> {
    let info = incoming.info;
    let is_log = info.subresource == "log";
    if info.subresource != "proxy" {
        let served = kind
            .info
            .subresource(&info.subresource)
            .is_some_and(|s| s.has_verb(&info.verb));
        if !served {
            return Err(Status::method_not_allowed());
        }
    }
    if !is_log {
        admit(incoming, kind).await?;
    }
    let target = match (info.resource.as_str(), info.subresource.as_str()) {
        ("nodes", _) => node_target(incoming)?,
        ("services", _) => service_target(incoming)?,
        ("pods", "proxy") => pod_target(incoming)?,
        _ => kubelet_target(incoming, kind).await?,
    };
    if is_log {
        return log(incoming, target, parts, upgrade).await;
    }
    if info.subresource != "proxy" {
        return upstream::forward(incoming, target, parts, body, upgrade).await;
    }
    if let Some(redirect) = to_directory(incoming, parts)? {
        return Ok(redirect);
    }
    let (prefix, authority) = (prefix(incoming, parts), target.authority());
    let answer = upstream::forward(incoming, target, parts, body, upgrade).await?;
    Ok(rewrite(answer, prefix, &authority))
}

/// The path up to and with `/proxy`, as the client wrote it.
fn prefix<'a>(incoming: &Incoming<'_>, parts: &'a Parts) -> &'a str {
    let mut path = parts.uri.path().trim_end_matches('/');
    for _ in incoming.info.parts.iter().skip(3) {
        path = path.rsplit_once('/').map_or(path, |(before, _)| before);
    }
    path
}

/// Sends who reads `.../proxy` on to `.../proxy/`, where relative links of the target's root hold.
fn to_directory(incoming: &Incoming<'_>, parts: &Parts) -> Result<Option<Response<Body>>, Status> {
    let reads = matches!(parts.method, Method::GET | Method::HEAD) && !parts.headers.contains_key(UPGRADE);
    let path = parts.uri.path();
    if !reads || incoming.info.parts.len() > 3 || path.ends_with('/') {
        return Ok(None);
    }
    let query = parts.uri.query().map(|query| format!("?{query}"));
    let location = format!("{path}/{}", query.unwrap_or_default());
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let location = HeaderValue::try_from(location).map_err(Status::internal)?;
    response.headers_mut().insert(LOCATION, location);
    Ok(Some(response))
}

async fn admit(incoming: &Incoming<'_>, kind: &Arc<Kind>) -> Result<(), Status> {
    let info = incoming.info;
    let options_kind = match (info.resource.as_str(), info.subresource.as_str()) {
        ("pods", "exec") => "PodExecOptions",
        ("pods", "attach") => "PodAttachOptions",
        ("pods", "portforward") => "PodPortForwardOptions",
        ("pods", _) => "PodProxyOptions",
        ("services", _) => "ServiceProxyOptions",
        _ => "NodeProxyOptions",
    };
    let mut options = Map::new();
    for (key, value) in incoming.query.iter() {
        match key.as_ref() {
            "stdin" | "stdout" | "stderr" | "tty" => {
                options.insert(key.into_owned(), json!(!matches!(value.as_ref(), "false" | "0")));
            }
            "command" => {
                let list = options.entry("command").or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.push(json!(value));
                }
            }
            _ => {
                options.insert(key.into_owned(), json!(value));
            }
        }
    }
    options.insert("kind".to_owned(), json!(options_kind));
    options.insert("apiVersion".to_owned(), json!("v1"));
    let mut object = Value::Object(options);
    let gvk = GroupVersionKind::new("", "v1", options_kind);
    let mut cx = incoming.context("CreateOptions")?;
    cx.options.dry_run = false;
    let attributes = Attributes {
        operation: Operation::Connect,
        resource: &kind.gvr,
        kind: &gvk,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        user: incoming.user,
        old_object: None,
        options: &Value::Null,
        dry_run: false,
        notes: incoming.notes,
    };
    incoming
        .server
        .registry
        .admit_connect(&cx, &attributes, &mut object)
        .await
}

/// The kubelet's path and query for a pod's stream.
async fn kubelet_target(incoming: &Incoming<'_>, kind: &Arc<Kind>) -> Result<Target, Status> {
    let info = incoming.info;
    let (namespace, name) = (info.namespace.as_str(), info.name.as_str());
    let pod = incoming
        .server
        .registry
        .get(kind, namespace, name, None)
        .await?
        .parse();
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(Status::bad_request(format!(
            "pod {name} does not have a host assigned"
        )));
    }
    let mut query = Vec::new();
    let path = match info.subresource.as_str() {
        "portforward" => {
            for port in incoming.query.all("ports") {
                query.push(("port", port));
            }
            format!("/portForward/{namespace}/{name}")
        }
        "log" => {
            let container = container(incoming, &pod, name)?;
            for key in [
                "follow",
                "previous",
                "timestamps",
                "sinceSeconds",
                "sinceTime",
                "tailLines",
                "limitBytes",
                "stream",
            ] {
                if let Some(value) = incoming.query.get(key) {
                    query.push((key, value.into_owned()));
                }
            }
            format!("/containerLogs/{namespace}/{name}/{container}")
        }
        stream => {
            let container = container(incoming, &pod, name)?;
            for (given, wanted) in [
                ("stdin", "input"),
                ("stdout", "output"),
                ("stderr", "error"),
                ("tty", "tty"),
            ] {
                if incoming.query.flag(given) {
                    query.push((wanted, "1".to_owned()));
                }
            }
            for argument in incoming.query.all("command") {
                query.push(("command", argument));
            }
            format!("/{stream}/{namespace}/{name}/{container}")
        }
    };
    let path = upstream::with_query(&path, &query);
    node_address(incoming, node, None, "https").map(|(host, port)| Target::kubelet(host, port, path))
}

/// The container that the request names or means.
fn container(incoming: &Incoming<'_>, pod: &Value, name: &str) -> Result<String, Status> {
    let names = |field: &str| -> Vec<String> {
        let list = pod["spec"][field].as_array().into_iter().flatten();
        list.filter_map(|c| c["name"].as_str().map(str::to_owned))
            .collect()
    };
    let (containers, init, ephemeral) = (
        names("containers"),
        names("initContainers"),
        names("ephemeralContainers"),
    );
    let given = incoming.query.get("container").unwrap_or_default();
    if given.is_empty() {
        let annotated = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
        if let Some(annotated) = annotated.filter(|a| containers.iter().any(|c| c == a)) {
            return Ok(annotated.to_owned());
        }
        if let [one] = containers.as_slice() {
            return Ok(one.clone());
        }
        let mut text = format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            containers.join(" ")
        );
        if !init.is_empty() {
            text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
        }
        if !ephemeral.is_empty() {
            text.push_str(&format!(
                " or one of the ephemeral containers: [{}]",
                ephemeral.join(" ")
            ));
        }
        return Err(Status::bad_request(text));
    }
    if containers
        .iter()
        .chain(&init)
        .chain(&ephemeral)
        .any(|c| *c == given)
    {
        return Ok(given.into_owned());
    }
    Err(Status::bad_request(format!(
        "container {given} is not valid for pod {name}"
    )))
}

/// Host and port of a node's kubelet, or of another port on the node.
fn node_address(
    incoming: &Incoming<'_>,
    node: &str,
    port: Option<u16>,
    _scheme: &str,
) -> Result<(String, u16), Status> {
    let object = incoming
        .server
        .registry
        .resources()
        .resource("", "nodes")
        .get("", node);
    let gr = keelson_api::gvk::GroupResource::new("", "nodes");
    let object = object.ok_or_else(|| Status::not_found(&gr, node))?.parse();
    let addresses = object["status"]["addresses"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let preferred = [
        "InternalIP",
        "Hostname",
        "InternalDNS",
        "ExternalDNS",
        "ExternalIP",
    ];
    let host = preferred
        .iter()
        .find_map(|kind| addresses.iter().find(|a| a["type"] == *kind)?["address"].as_str())
        .ok_or_else(|| {
            Status::internal(format!(
                "no preferred addresses found; known addresses: {addresses:?}"
            ))
        })?;
    let kubelet = object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port
        .or_else(|| kubelet.and_then(|p| u16::try_from(p).ok()))
        .unwrap_or(10250);
    Ok((host.to_owned(), port))
}

/// `scheme:name:port` as the names of proxied objects may be.
struct ProxyName<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> ProxyName<'a> {
    fn parse(text: &'a str) -> Result<Self, Status> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return Err(Status::bad_request(format!("invalid proxy request {text:?}"))),
        };
        if !matches!(scheme, "" | "http" | "https") {
            return Err(Status::bad_request(format!("invalid proxy request {text:?}")));
        }
        Ok(Self { scheme, name, port })
    }

    fn is_tls(&self) -> bool {
        self.scheme == "https"
    }
}

/// What follows `/proxy` in the path, with the query.
fn rest_of_path(incoming: &Incoming<'_>) -> String {
    let parts = &incoming.info.parts;
    let mut path = String::new();
    for part in parts.iter().skip(3) {
        path.push('/');
        path.push_str(&upstream::escape(part));
    }
    if path.is_empty() || incoming.info.path.ends_with('/') {
        path.push('/');
    }
    if !incoming.query.raw().is_empty() {
        path.push('?');
        path.push_str(incoming.query.raw());
    }
    path
}

fn node_target(incoming: &Incoming<'_>) -> Result<Target, Status> {
    let name = ProxyName::parse(&incoming.info.name)?;
    let port = match name.port {
        "" => None,
        port => Some(
            port.parse()
                .map_err(|_| Status::bad_request(format!("invalid port {port:?}")))?,
        ),
    };
    let (host, port) = node_address(incoming, name.name, port, name.scheme)?;
    Ok(Target::kubelet(host, port, rest_of_path(incoming)))
}

fn pod_target(incoming: &Incoming<'_>) -> Result<Target, Status> {
    let name = ProxyName::parse(&incoming.info.name)?;
    let reader = incoming.server.registry.resources().resource("", "pods");
    let gr = keelson_api::gvk::GroupResource::new("", "pods");
    let pod = reader.get(&incoming.info.namespace, name.name);
    let pod = pod.ok_or_else(|| Status::not_found(&gr, name.name))?.parse();
    let ip = pod["status"]["podIP"].as_str().unwrap_or_default();
    if ip.is_empty() {
        return Err(Status::bad_request("address not allowed"));
    }
    let port = match name.port {
        "" => pod["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|c| c["ports"].as_array()?.first()?["containerPort"].as_u64())
            .and_then(|p| u16::try_from(p).ok())
            .unwrap_or(80),
        port => port
            .parse()
            .map_err(|_| Status::bad_request(format!("invalid port {port:?}")))?,
    };
    Ok(Target::plain(
        ip.to_owned(),
        port,
        rest_of_path(incoming),
        name.is_tls(),
    ))
}

fn service_target(incoming: &Incoming<'_>) -> Result<Target, Status> {
    let name = ProxyName::parse(&incoming.info.name)?;
    let resources = incoming.server.registry.resources();
    let namespace = incoming.info.namespace.as_str();
    let gr = keelson_api::gvk::GroupResource::new("", "services");
    let service = resources.resource("", "services").get(namespace, name.name);
    let service = service.ok_or_else(|| Status::not_found(&gr, name.name))?.parse();
    let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let port = match name.port {
        "" if ports.len() == 1 => ports.first(),
        "" => ports
            .iter()
            .find(|p| p["name"].as_str().unwrap_or_default().is_empty()),
        wanted => ports.iter().find(|p| p["name"] == wanted || is_port(p, wanted)),
    };
    let unavailable = || {
        Status::service_unavailable(format!(
            "no endpoints available for service {:?}",
            metadata::text(&service, "name")
        ))
    };
    let port = port.ok_or_else(|| {
        Status::service_unavailable(format!(
            "no service port {:?} found for service {:?}",
            name.port, name.name
        ))
    })?;
    let port_name = port["name"].as_str().unwrap_or_default();
    for slice in resources
        .resource("discovery.k8s.io", "endpointslices")
        .list(Some(namespace))
    {
        if slice.label("kubernetes.io/service-name") != Some(name.name) {
            continue;
        }
        let slice = slice.parse();
        let ports = slice["ports"].as_array().into_iter().flatten();
        let number = ports
            .filter(|p| p["name"].as_str().unwrap_or_default() == port_name)
            .find_map(|p| u16::try_from(p["port"].as_u64()?).ok());
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let address = endpoints
            .filter(|e| e["conditions"]["ready"] != json!(false))
            .find_map(|e| e["addresses"][0].as_str().map(str::to_owned));
        if let (Some(address), Some(number)) = (address, number) {
            return Ok(Target::plain(
                address,
                number,
                rest_of_path(incoming),
                name.is_tls(),
            ));
        }
    }
    Err(unavailable())
}

fn is_port(port: &Value, wanted: &str) -> bool {
    port["port"].as_u64().is_some_and(|p| wanted.parse() == Ok(p))
}
