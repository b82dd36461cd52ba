//! Whether an extension server is there, and what it says about itself.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::Value;

use super::proxy::identify;
use super::view::{Aggregator, Document, Entry, Remote};
use crate::outbound::{Client, ServiceRef, endpoints, resolve};
use crate::resources::Resources;
use crate::user::UserInfo;

const ATTEMPTS: usize = 5;
const ATTEMPT: Duration = Duration::from_secs(5);
const ALL_ATTEMPTS: Duration = Duration::from_secs(6);
/// Largest discovery document that is read.
const MAX_DOCUMENT: usize = 8 << 20;

/// The condition `Available` as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) status: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Condition {
    fn unavailable(reason: &'static str, message: String) -> Self {
        Self {
            status: "False",
            reason,
            message,
        }
    }

    /// Of an APIService that is served in this process.
    pub(super) fn local() -> Self {
        Self {
            status: "True",
            reason: "Local",
            message: "Local APIServices are always available".to_owned(),
        }
    }
}

/// Looks at Service, endpoints and discovery of a remote APIService.
pub(super) async fn check(
    aggregator: &Aggregator,
    resources: &Resources,
    entry: &Entry,
    remote: &Remote,
) -> (Condition, Option<Document>) {
    if let Err(condition) = check_service(resources, &remote.service) {
        return (condition, None);
    }
    let failed = |message| (Condition::unavailable("FailedDiscoveryCheck", message), None);
    // Who owns the network may lie about availability; upstream does not verify here either.
    let client = match aggregator.client(&remote.service, &[], true) {
        Ok(client) => client,
        Err(message) => return failed(message),
    };
    let path = format!("/apis/{}/{}", entry.group, entry.version);
    let url = match resolve(resources, &remote.service) {
        Ok((host, port)) => format!("https://{host}:{port}{path}"),
        Err(status) => return failed(status.message),
    };
    let mut last = format!("timed out waiting for {url}");
    let attempts = async {
        for _ in 0..ATTEMPTS {
            match tokio::time::timeout(ATTEMPT, get(&client, &path)).await {
                Ok(Ok(body)) => return Some(body),
                Ok(Err(error)) => last = format!("failing or missing response from {url}: {error}"),
                Err(_) => last = format!("failing or missing response from {url}: i/o timeout"),
            }
        }
        None
    };
    let Ok(Some(body)) = tokio::time::timeout(ALL_ATTEMPTS, attempts).await else {
        return failed(last);
    };
    let passed = Condition {
        status: "True",
        reason: "Passed",
        message: "all checks passed".to_owned(),
    };
    let document = match serde_json::from_slice::<Value>(&body) {
        Ok(resources) => Some(Document {
            resources,
            openapi_hash: openapi_hash(&client, &path).await,
            fresh: true,
        }),
        Err(error) => {
            tracing::warn!(name = entry.name, %error, "an extension server's discovery is no JSON document");
            None
        }
    };
    (passed, document)
}

/// What upstream finds wrong before it asks the server itself.
pub(super) fn check_service(resources: &Resources, service: &ServiceRef) -> Result<(), Condition> {
    let (namespace, name, port) = (&service.namespace, &service.name, service.port);
    let Some(object) = resources.resource("", "services").get(namespace, name) else {
        let message = format!("service/{name} in {namespace:?} is not present");
        return Err(Condition::unavailable("ServiceNotFound", message));
    };
    let spec = &object.value()["spec"];
    if spec["type"] != "ClusterIP" {
        return Ok(());
    }
    let found = spec["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|p| p["port"].as_u64() == Some(u64::from(port)));
    let Some(found) = found else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Err(Condition::unavailable("ServicePortError", message));
    };
    let port_name = found["name"].as_str().unwrap_or_default();
    let (addresses, slices) = endpoints(resources, namespace, name, port_name);
    if slices == 0 {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Err(Condition::unavailable("EndpointsNotFound", message));
    }
    if addresses.is_empty() {
        let message = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
        );
        return Err(Condition::unavailable("MissingEndpoints", message));
    }
    Ok(())
}

async fn get(client: &Client, path: &str) -> Result<Bytes, String> {
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = client.uri(path).map_err(|e| e.to_string())?;
    let user = UserInfo {
        name: "system:kube-aggregator".to_owned(),
        groups: vec![crate::user::SYSTEM_MASTERS.to_owned()],
        ..UserInfo::default()
    };
    identify(request.headers_mut(), &user).map_err(|status| status.message)?;
    let answer = client
        .exchange(request, MAX_DOCUMENT)
        .await
        .map_err(|e| e.to_string())?;
    match answer.status() {
        code if code.is_success() => Ok(answer.into_body()),
        StatusCode::NOT_MODIFIED => Ok(answer.into_body()),
        code => Err(format!("bad status from {path}: {}", code.as_u16())),
    }
}

/// The hash in the server's index of OpenAPI v3 documents; `None` when it has none for this path.
async fn openapi_hash(client: &Client, path: &str) -> Option<String> {
    let answer = tokio::time::timeout(ATTEMPT, get(client, "/openapi/v3"))
        .await
        .ok()?;
    let index: Value = serde_json::from_slice(&answer.ok()?).ok()?;
    let url = index["paths"][path.trim_start_matches('/')]["serverRelativeURL"].as_str()?;
    let (_, query) = url.split_once('?').unwrap_or((url, ""));
    let hash = query.split('&').find_map(|pair| pair.strip_prefix("hash="));
    Some(hash.unwrap_or_default().to_owned())
}
