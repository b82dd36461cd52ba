//! Requests, and the loop that they keep awake.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keelson_api::status::{Reason, Status};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::answer::{self, Resource};
use crate::scrape;
use crate::storage::{NodePoints, RESOLUTION, Storage};

/// A kubelet that takes longer is left out.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);
/// Between the two points of the first answer.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
/// So long a request waits for the first answer.
const WARM_UP: Duration = Duration::from_secs(5);
/// Scraping goes on so long after the last request.
const AWAKE: Duration = Duration::from_secs(300);
/// So many kubelets are read at once.
const AT_ONCE: usize = 16;

/// The metrics API of one cluster. Cheap to clone: a `tower::Service`.
#[derive(Clone)]
pub struct MetricsServer {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    storage: RwLock<Storage>,
    /// Counts requests; the loop waits for the next.
    asked: watch::Sender<u64>,
    last_request: Mutex<Instant>,
    /// Whether there are two points of everything that answers.
    ready: watch::Sender<bool>,
}

impl MetricsServer {
    /// Reads the cluster through `client`, which must be allowed to list nodes and pods and to `get` `nodes/proxy`.
    pub fn new(client: Client) -> Self {
        Self {
            inner: Arc::new(Inner {
                client,
                storage: RwLock::default(),
                asked: watch::Sender::new(0),
                last_request: Mutex::new(Instant::now()),
                ready: watch::Sender::new(false),
            }),
        }
    }

    /// Reads kubelets while somebody asks, until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut asked = self.inner.asked.subscribe();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = asked.changed() => if changed.is_err() { return },
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.inner.stay_awake() => {}
            }
            asked.mark_unchanged();
        }
    }
}

impl Inner {
    /// Scrapes until nobody has asked for a while, then forgets everything.
    async fn stay_awake(&self) {
        tracing::debug!("resource metrics are collected");
        self.scrape().await;
        // The rate is measured over this time.
        tokio::time::sleep(FIRST_WINDOW).await;
        self.scrape().await;
        self.ready.send_replace(true);
        let mut interval = tokio::time::interval(RESOLUTION);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        interval.tick().await;
        while self.last_request.lock().elapsed() < AWAKE {
            interval.tick().await;
            self.scrape().await;
        }
        self.ready.send_replace(false);
        self.storage.write().clear();
        tracing::debug!("resource metrics rest: nobody asks for them");
    }

    /// Takes one point of everything.
    async fn scrape(&self) {
        let nodes = match Api::<Node>::all(self.client.clone())
            .list_metadata(&ListParams::default())
            .await
        {
            Ok(nodes) => nodes,
            Err(error) => {
                tracing::warn!(%error, "nodes cannot be listed; their metrics stay as they are");
                return;
            }
        };
        let names = nodes.items.into_iter().map(|node| node.name_any());
        let batch: HashMap<String, NodePoints> = stream::iter(names)
            .map(|name| self.scrape_node(name))
            .buffer_unordered(AT_ONCE)
            .filter_map(|points| async { points })
            .collect()
            .await;
        self.storage.write().store(batch);
    }

    async fn scrape_node(&self, name: String) -> Option<(String, NodePoints)> {
        let path = format!("/api/v1/nodes/{name}/proxy/metrics/resource");
        let request = match Request::get(path).body(Vec::new()) {
            Ok(request) => request,
            Err(error) => {
                tracing::warn!(node = name, %error, "Failed to scrape node");
                return None;
            }
        };
        match tokio::time::timeout(SCRAPE_TIMEOUT, self.client.request_text(request)).await {
            Ok(Ok(text)) => Some((name, scrape::parse(&text, Timestamp::now()))),
            Ok(Err(error)) => {
                tracing::warn!(node = name, %error, "Failed to scrape node");
                None
            }
            Err(_) => {
                tracing::warn!(node = name, "Failed to scrape node: timeout");
                None
            }
        }
    }

    /// Says that somebody asks, and waits until there is something to say.
    async fn wake(&self) {
        *self.last_request.lock() = Instant::now();
        let mut ready = self.ready.subscribe();
        self.asked.send_modify(|count| *count += 1);
        // Without an answer in time there are no metrics yet, which clients understand.
        if tokio::time::timeout(WARM_UP, ready.wait_for(|ready| *ready))
            .await
            .is_err()
        {
            tracing::debug!("metrics are not ready");
        }
    }

    async fn answer(&self, request: &Request<Bytes>) -> (StatusCode, Value) {
        match self.respond(request).await {
            Ok(value) => (StatusCode::OK, value),
            Err(status) => answer::failure(&status),
        }
    }

    async fn respond(&self, request: &Request<Bytes>) -> Result<Value, Status> {
        let path = request.uri().path().trim_end_matches('/');
        let rest = path
            .strip_prefix("/apis/metrics.k8s.io/v1beta1")
            .ok_or_else(Status::path_not_found)?;
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Status::method_not_allowed());
        }
        let parts: Vec<&str> = rest.split('/').filter(|p| !p.is_empty()).collect();
        let (resource, namespace, name) = match parts.as_slice() {
            [] => return Ok(answer::resources()),
            ["nodes"] => (Resource::Nodes, None, None),
            ["nodes", name] => (Resource::Nodes, None, Some(*name)),
            ["pods"] => (Resource::Pods, None, None),
            ["namespaces", namespace, "pods"] => (Resource::Pods, Some(*namespace), None),
            ["namespaces", namespace, "pods", name] => (Resource::Pods, Some(*namespace), Some(*name)),
            _ => return Err(Status::path_not_found()),
        };
        self.wake().await;
        let query = Query::of(request)?;
        let found = self.objects(resource, namespace, name, &query).await?;
        let now = Timestamp::now();
        let items: Vec<Value> = {
            let storage = self.storage.read();
            found
                .iter()
                .filter_map(|meta| metrics(&storage, resource, meta, now))
                .collect()
        };
        let wants_table = wants_table(request);
        match (name, items) {
            (_, items) if wants_table && (name.is_none() || !items.is_empty()) => Ok(answer::table(&items)),
            (None, items) => Ok(answer::list(resource, items)),
            (Some(name), items) => items.into_iter().next().ok_or_else(|| {
                let full = namespace.map_or_else(|| name.to_owned(), |ns| format!("{ns}/{name}"));
                resource.not_found(&full)
            }),
        }
    }

    /// Metadata of the nodes or pods that are asked for.
    async fn objects(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: Option<&str>,
        query: &Query,
    ) -> Result<Vec<ObjectMeta>, Status> {
        let mut params = ListParams::default();
        params.label_selector.clone_from(&query.labels);
        params.field_selector.clone_from(&query.fields);
        if let Some(name) = name {
            params = params.fields(&format!("metadata.name={name}"));
        }
        let client = self.client.clone();
        let result = match (resource, namespace) {
            (Resource::Nodes, _) => {
                let list = Api::<Node>::all(client).list_metadata(&params).await;
                list.map(|l| l.items.into_iter().map(|o| o.metadata).collect())
            }
            (Resource::Pods, namespace) => {
                let api: Api<Pod> = match namespace {
                    Some(namespace) => Api::namespaced(client, namespace),
                    None => Api::all(client),
                };
                let list = api.list_metadata(&params).await;
                list.map(|l| l.items.into_iter().map(|o| o.metadata).collect())
            }
        };
        result.map_err(|error| match error {
            kube::Error::Api(status) => {
                let reason = if status.code == 400 {
                    Reason::BadRequest
                } else {
                    Reason::InternalError
                };
                Status::failure(status.code, reason, status.message.clone())
            }
            other => Status::internal(other),
        })
    }
}

fn metrics(storage: &Storage, resource: Resource, meta: &ObjectMeta, now: Timestamp) -> Option<Value> {
    let name = meta.name.as_deref()?;
    match resource {
        Resource::Nodes => Some(answer::node(meta, &storage.node(name)?, now)),
        Resource::Pods => {
            let namespace = meta.namespace.as_deref().unwrap_or_default();
            Some(answer::pod(meta, &storage.pod(namespace, name)?, now))
        }
    }
}

/// Selectors of a list.
struct Query {
    labels: Option<String>,
    fields: Option<String>,
}

impl Query {
    fn of(request: &Request<Bytes>) -> Result<Self, Status> {
        let raw = request.uri().query().unwrap_or_default();
        let mut query = Self {
            labels: None,
            fields: None,
        };
        for (key, value) in url::form_urlencoded::parse(raw.as_bytes()) {
            match key.as_ref() {
                "labelSelector" if !value.is_empty() => query.labels = Some(value.into_owned()),
                "fieldSelector" if !value.is_empty() => query.fields = Some(value.into_owned()),
                "watch" if !matches!(value.as_ref(), "0" | "false") => {
                    return Err(Status::method_not_allowed());
                }
                _ => {}
            }
        }
        Ok(query)
    }
}

/// Whether the first form that the client takes is a table.
fn wants_table(request: &Request<Bytes>) -> bool {
    let accept = request.headers().get(ACCEPT).and_then(|a| a.to_str().ok());
    for clause in accept.unwrap_or_default().split(',') {
        let parameters: Vec<&str> = clause.split(';').map(str::trim).collect();
        if !parameters.iter().any(|p| p.starts_with("as=")) {
            return false;
        }
        if ["as=Table", "g=meta.k8s.io", "v=v1"]
            .iter()
            .all(|p| parameters.contains(p))
        {
            return true;
        }
    }
    false
}

impl tower::Service<Request<Bytes>> for MetricsServer {
    type Response = Response<Bytes>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Bytes>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let inner = self.inner.clone();
        Box::pin(async move {
            let (code, value) = inner.answer(&request).await;
            let mut response = Response::new(Bytes::from(value.to_string()));
            *response.status_mut() = code;
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Ok(response)
        })
    }
}
