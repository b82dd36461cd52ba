//! From watches to the kernel: changed Services are collected while a synchronisation runs and go into the next one.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_client::{Index, Informer, InformerOptions, NamespacedName};
use keelson_sys::netns::NetNs;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Config;
use crate::health::{ProxyHealth, ServiceHealthServers, serve_healthz, serve_metrics};
use crate::http::listen;
use crate::model::{Location, PROXY_NAME_LABEL, service_model};
use crate::proxier::{self, Models, Proxier};

/// First and longest wait between attempts while the kernel refuses.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Upstream's: the cluster autoscaler is about to remove the node.
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// Why the proxy could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel side.
    #[error(transparent)]
    Proxier(#[from] proxier::Error),
    /// A port is taken, or the namespace is gone.
    #[error("cannot serve {what} on {address}: {source}")]
    Listen {
        /// What would be served.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// A worker thread panicked.
    #[error("a synchronisation panicked")]
    Panicked,
}

#[derive(Default)]
struct Dirty {
    services: Mutex<HashSet<NamespacedName>>,
    notify: Notify,
}

impl Dirty {
    fn add(&self, service: NamespacedName) {
        self.services.lock().insert(service);
        self.notify.notify_one();
    }
}

struct Sources {
    services: Informer<Service>,
    slices: Index<NamespacedName, EndpointSlice>,
    slice_informer: Informer<EndpointSlice>,
    nodes: Informer<Node>,
    node_name: String,
    ipv6: bool,
}

fn service_of(slice: &EndpointSlice) -> Option<NamespacedName> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some(NamespacedName::new(
        slice.metadata.namespace.as_deref().unwrap_or_default(),
        name,
    ))
}

fn zone(node: &Node) -> Option<String> {
    node.metadata.labels.as_ref()?.get(ZONE_LABEL).cloned()
}

fn eligible(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    node.metadata.deletion_timestamp.is_none() && !taints.any(|t| t.key == TO_BE_DELETED_TAINT)
}

impl Sources {
    fn models(&self, service: &NamespacedName) -> Option<Models> {
        let object = self.services.get(service)?;
        let node = self.nodes.get(&NamespacedName::new("", &self.node_name));
        let location = Location {
            node: self.node_name.clone(),
            zone: node.as_deref().and_then(zone),
        };
        let slices = self.slices.get(service);
        let slices: Vec<&EndpointSlice> = slices.iter().map(AsRef::as_ref).collect();
        let v6 = if self.ipv6 {
            service_model(&object, &slices, &location, true)
        } else {
            Default::default()
        };
        Some(Models {
            v4: service_model(&object, &slices, &location, false),
            v6,
        })
    }
}

/// Runs the proxy until `shutdown`. Rules stay in the kernel when it returns, so that Services work while keelson restarts.
pub async fn run(config: Config, client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    let netns = match &config.netns {
        Some(path) => Some(NetNs::open(path).map_err(proxier::Error::Namespace)?),
        None => None,
    };
    let proxier = blocking({
        let config = config.clone();
        move || Proxier::new(config)
    })
    .await??;
    let health = Arc::new(ProxyHealth::default());
    let tracker = TaskTracker::new();
    // What ends early, by an error here, takes its tasks along.
    let stop = shutdown.child_token();
    let _guard = stop.clone().drop_guard();
    if let Some(address) = config.healthz_bind_address {
        let fail = |source| Error::Listen {
            what: "health checks",
            address,
            source,
        };
        let listener = listen(netns.clone(), address).await.map_err(fail)?;
        tracker.spawn(serve_healthz(health.clone(), listener, stop.clone()));
    }
    if let Some(address) = config.metrics_bind_address {
        let fail = |source| Error::Listen {
            what: "metrics",
            address,
            source,
        };
        let listener = listen(netns.clone(), address).await.map_err(fail)?;
        tracker.spawn(serve_metrics(health.clone(), listener, stop.clone()));
    }
    let dirty = Arc::new(Dirty::default());
    let sources = watch(&config, &client, &dirty, &health, &tracker, &stop);
    let mut service_health = ServiceHealthServers::new(netns, health.clone());
    let result = synchronise(proxier, &sources, &dirty, &health, &mut service_health, &stop).await;
    stop.cancel();
    service_health.shut_down().await;
    tracker.close();
    tracker.wait().await;
    result
}

fn watch(
    config: &Config,
    client: &Client,
    dirty: &Arc<Dirty>,
    health: &Arc<ProxyHealth>,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) -> Sources {
    let ours = InformerOptions {
        labels: Some(format!("!{PROXY_NAME_LABEL}")),
        fields: None,
    };
    let this_node = InformerOptions {
        labels: None,
        fields: Some(format!("metadata.name={}", config.node_name)),
    };
    let (services, service_task) = Informer::<Service>::new(Api::all(client.clone()), ours.clone());
    let (slices, slice_task) = Informer::<EndpointSlice>::new(Api::all(client.clone()), ours);
    let (nodes, node_task) = Informer::<Node>::new(Api::all(client.clone()), this_node);
    let index = slices.index(|slice: &EndpointSlice| service_of(slice).into_iter().collect());
    let (d, h) = (dirty.clone(), health.clone());
    services.on_change(move |change| {
        h.changed(false);
        d.add(NamespacedName::of(change.object().as_ref()));
    });
    let (d, h) = (dirty.clone(), health.clone());
    slices.on_change(move |change| {
        h.changed(true);
        if let keelson_client::Change::Updated(old, _) = change {
            service_of(old).into_iter().for_each(|s| d.add(s));
        }
        service_of(change.object()).into_iter().for_each(|s| d.add(s));
    });
    let (d, h, all) = (dirty.clone(), health.clone(), services.clone());
    nodes.on_change(move |change| {
        let deleted = matches!(change, keelson_client::Change::Deleted(_));
        h.set_node_eligible(!deleted && eligible(change.object()));
        let moved = match change {
            keelson_client::Change::Updated(old, new) => zone(old) != zone(new),
            _ => true,
        };
        if moved {
            all.list()
                .iter()
                .for_each(|s| d.add(NamespacedName::of(s.as_ref())));
        }
    });
    let synced = (services.clone(), slices.clone(), nodes.clone());
    let d = dirty.clone();
    tracker.spawn(service_task.run(stop.clone()));
    tracker.spawn(slice_task.run(stop.clone()));
    tracker.spawn(node_task.run(stop.clone()));
    let waiting = stop.clone();
    tracker.spawn(async move {
        tokio::select! {
            () = waiting.cancelled() => {}
            () = async { tokio::join!(synced.0.synced(), synced.1.synced(), synced.2.synced()); } => d.notify.notify_one(),
        }
    });
    Sources {
        services,
        slices: index,
        slice_informer: slices,
        nodes,
        node_name: config.node_name.clone(),
        ipv6: config.ipv6,
    }
}

async fn synchronise(
    mut proxier: Proxier,
    sources: &Sources,
    dirty: &Arc<Dirty>,
    health: &ProxyHealth,
    service_health: &mut ServiceHealthServers,
    stop: &CancellationToken,
) -> Result<(), Error> {
    // A half-known state would refuse clients of Services whose endpoints are still to come.
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = async { tokio::join!(sources.services.synced(), sources.slice_informer.synced(), sources.nodes.synced()); } => {}
    }
    let mut wait = BACKOFF.0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = dirty.notify.notified() => {}
        }
        let keys: Vec<NamespacedName> = dirty.services.lock().drain().collect();
        let changes: Vec<_> = keys
            .iter()
            .map(|key| (key.clone(), sources.models(key)))
            .collect();
        for (service, models) in &changes {
            let check = models
                .as_ref()
                .and_then(|m| m.v4.health_check.as_ref().or(m.v6.health_check.as_ref()));
            service_health.set(service, check).await;
        }
        let start = Instant::now();
        let (back, result) = blocking(move || {
            let result = proxier.sync(changes);
            (proxier, result)
        })
        .await?;
        proxier = back;
        match result {
            Ok(synced) => {
                wait = BACKOFF.0;
                health.synced(start.elapsed(), synced.full, dirty.services.lock().is_empty());
                tracing::debug!(services = keys.len(), ?synced, elapsed = ?start.elapsed(), "proxy rules synchronised");
            }
            Err(error) => {
                health.failed();
                tracing::error!(%error, retry_in = ?wait, "proxy rules could not be synchronised");
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(wait) => {}
                }
                wait = (wait * 2).min(BACKOFF.1);
                keys.into_iter().for_each(|key| dirty.add(key));
                dirty.notify.notify_one();
            }
        }
    }
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(f).await.map_err(|_| Error::Panicked)
}
