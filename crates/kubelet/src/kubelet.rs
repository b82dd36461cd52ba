//! The kubelet as a whole: what its parts share, and how it starts and ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use keelson_client::{EventRecorder, EventSource, EventType, Informer, InformerOptions, NamespacedName};
use keelson_cri::v1 as cri;
use kube::api::PatchParams;
use kube::{Api, Client};
use parking_lot::RwLock;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::KubeletConfig;
use crate::container::images::ImageManager;
use crate::machine::Machine;
use crate::objects::Objects;
use crate::pod::admission::AdmissionNode;
use crate::pod::cgroup::Cgroups;
use crate::pod::manager::{self, PodManager};
use crate::pod::pleg::{self, Pleg};
use crate::pod::status_manager::StatusManager;
use crate::pod::{spec, static_pods};
use crate::probe::ProbeManager;
use crate::volume::VolumeManager;
use crate::{container, eviction, node, server};

/// Waits between attempts to reach the runtime at the start.
const RUNTIME_RETRY: Duration = Duration::from_millis(200);

/// Who `managedFields` say wrote what the kubelet patches.
pub(crate) fn patch_params() -> PatchParams {
    PatchParams {
        field_manager: Some("kubelet".into()),
        ..PatchParams::default()
    }
}

/// The kubelet cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory cannot be made.
    #[error("cannot create {path}")]
    Directory {
        /// The directory.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The machine's capacity cannot be read.
    #[error("cannot read the machine's capacity")]
    Machine(#[from] crate::machine::Error),
    /// The HTTPS server cannot start.
    #[error("cannot start the kubelet's server")]
    Server(#[from] server::Error),
}

/// What all parts share.
pub(crate) struct Kubelet {
    pub(crate) config: KubeletConfig,
    pub(crate) client: Client,
    pub(crate) runtime_name: String,
    pub(crate) runtime_version: String,
    pub(crate) machine: Machine,
    pub(crate) recorder: EventRecorder,
    pub(crate) api_pods: Informer<Pod>,
    pub(crate) services: Informer<Service>,
    nodes: Informer<Node>,
    pub(crate) pods: PodManager,
    pub(crate) pleg: Pleg,
    pub(crate) status: Arc<StatusManager>,
    pub(crate) volumes: VolumeManager,
    pub(crate) images: ImageManager,
    pub(crate) objects: Arc<Objects>,
    pub(crate) probes: ProbeManager,
    pub(crate) cgroups: Cgroups,
    pub(crate) pressure: eviction::Pressure,
    pub(crate) usage: crate::stats::UsageCache,
    runtime_state: RwLock<node::RuntimeState>,
    sources_ready: AtomicBool,
    pub(crate) tracker: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

impl Kubelet {
    /// The node's addresses as strings; the first is the primary one.
    pub(crate) fn host_ips(&self) -> Vec<String> {
        self.config.node_ips.iter().map(ToString::to_string).collect()
    }

    /// This node's object, once it is known.
    pub(crate) fn node(&self) -> Option<Arc<Node>> {
        self.nodes.get(&NamespacedName::new("", &self.config.node_name))
    }

    /// What admission needs of the node.
    pub(crate) fn admission_node(&self) -> AdmissionNode {
        AdmissionNode {
            node: self.node(),
            allocatable: node::capacity::allocatable(&self.config, &self.machine),
            max_pods: self.config.max_pods,
            allowed_sysctls: self.config.allowed_unsafe_sysctls.clone(),
        }
    }

    /// Why pods with their own network cannot start at present.
    pub(crate) fn network_not_ready(&self) -> Option<String> {
        self.runtime_state.read().network_error.clone()
    }

    /// The runtime's state as last asked.
    pub(crate) fn runtime_state(&self) -> node::RuntimeState {
        self.runtime_state.read().clone()
    }

    /// Keeps the runtime's state; wakes all pods when the network becomes ready.
    pub(crate) fn set_runtime_state(&self, state: node::RuntimeState) {
        let before = std::mem::replace(&mut *self.runtime_state.write(), state.clone());
        if before.network_error.is_some() && state.network_error.is_none() {
            self.pods.list().iter().for_each(|handle| handle.wake());
        }
    }

    /// Whether the API's pods are all known, so that what runs besides them is an orphan.
    pub(crate) fn sources_ready(&self) -> bool {
        self.sources_ready.load(Ordering::Acquire)
    }

    /// Whether the pod ran before this kubelet knew it.
    pub(crate) fn was_running(&self, uid: &str) -> bool {
        pleg::was_seen(self, uid)
    }

    /// An event about a pod.
    pub(crate) fn pod_event(&self, pod: &Pod, kind: EventType, reason: &str, message: impl Into<String>) {
        self.recorder
            .event(&keelson_client::object_reference(pod), kind, reason, message);
    }

    /// An event about a container of a pod.
    pub(crate) fn container_event(
        &self,
        pod: &Pod,
        container: &str,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let mut object = keelson_client::object_reference(pod);
        object.field_path = Some(spec::field_path(pod, container));
        self.recorder.event(&object, kind, reason, message);
    }

    /// An event about this node.
    pub(crate) fn node_event(&self, kind: EventType, reason: &str, message: impl Into<String>) {
        let object = k8s_openapi::api::core::v1::ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.config.node_name.clone()),
            uid: Some(self.config.node_name.clone()),
            ..Default::default()
        };
        self.recorder.event(&object, kind, reason, message);
    }
}

/// Runs a node agent until `shutdown`, then ends its tasks. Containers go on running.
///
/// # Errors
/// What cannot work at all: directories, the machine's capacity, the server's port. A runtime or API server that does not
/// answer is waited for.
pub async fn run(config: KubeletConfig, client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    for dir in [config.root_dir.join("pods"), config.pod_logs_dir.clone()] {
        std::fs::create_dir_all(&dir).map_err(|source| Error::Directory {
            path: dir.display().to_string(),
            source,
        })?;
    }
    let machine = Machine::read(&config)?;
    let Some(version) = runtime_version(&config, &shutdown).await else {
        return Ok(());
    };
    let tracker = TaskTracker::new();
    // Everything below ends with this token, also when the start fails half-way.
    let stop = shutdown.child_token();
    let kubelet = assemble(config, client, machine, version, tracker.clone(), stop.clone());
    let result = serve(&kubelet, &stop).await;
    stop.cancel();
    tracker.close();
    tracker.wait().await;
    result
}

async fn runtime_version(
    config: &KubeletConfig,
    shutdown: &CancellationToken,
) -> Option<cri::VersionResponse> {
    let mut warned = false;
    loop {
        match config
            .cri
            .runtime()
            .version(cri::VersionRequest {
                version: "0.1.0".into(),
            })
            .await
        {
            Ok(response) => return Some(response.into_inner()),
            Err(status) if !warned => {
                warned = true;
                tracing::warn!(endpoint = config.cri.endpoint(), %status, "waiting for the container runtime");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = sleep(RUNTIME_RETRY) => {}
        }
    }
}

fn assemble(
    config: KubeletConfig,
    client: Client,
    machine: Machine,
    version: cri::VersionResponse,
    tracker: TaskTracker,
    shutdown: CancellationToken,
) -> Arc<Kubelet> {
    let on_this_node = InformerOptions {
        fields: Some(format!("spec.nodeName={}", config.node_name)),
        ..InformerOptions::default()
    };
    let this_node = InformerOptions {
        fields: Some(format!("metadata.name={}", config.node_name)),
        ..InformerOptions::default()
    };
    let api_pods = Informer::spawn(Api::all(client.clone()), on_this_node, &tracker, &shutdown);
    let nodes = Informer::spawn(Api::all(client.clone()), this_node, &tracker, &shutdown);
    let services = Informer::spawn(
        Api::all(client.clone()),
        InformerOptions::default(),
        &tracker,
        &shutdown,
    );
    let source = EventSource {
        component: "kubelet".into(),
        host: Some(config.node_name.clone()),
    };
    let recorder = EventRecorder::start(client.clone(), source, &tracker, shutdown.clone());
    Arc::new_cyclic(|weak| Kubelet {
        status: Arc::new(StatusManager::new(client.clone(), api_pods.clone())),
        images: ImageManager::new(&config),
        objects: Objects::new(client.clone(), weak.clone(), tracker.clone(), shutdown.clone()),
        cgroups: Cgroups::new(&config),
        volumes: VolumeManager::default(),
        probes: ProbeManager::default(),
        pods: PodManager::default(),
        pleg: Pleg::default(),
        pressure: eviction::Pressure::default(),
        usage: crate::stats::UsageCache::default(),
        runtime_state: RwLock::default(),
        sources_ready: AtomicBool::new(false),
        runtime_name: version.runtime_name,
        runtime_version: version.runtime_version,
        machine,
        recorder,
        api_pods,
        services,
        nodes,
        tracker,
        shutdown,
        client,
        config,
    })
}

async fn serve(kubelet: &Arc<Kubelet>, stop: &CancellationToken) -> Result<(), Error> {
    let tracker = &kubelet.tracker;
    if kubelet.config.server.is_some() {
        let listener = server::bind(kubelet).await?;
        tracker.spawn(server::serve(kubelet.clone(), listener));
    }
    kubelet.node_event(EventType::Normal, "Starting", "Starting kubelet.");
    let allocatable = node::capacity::allocatable(&kubelet.config, &kubelet.machine);
    let cpu = crate::quantity::milli_of(Some(&allocatable), "cpu");
    let memory = crate::quantity::value_of(Some(&allocatable), "memory");
    if let Err(error) = kubelet.cgroups.create_root(cpu, memory) {
        tracing::error!(%error, cause = std::error::Error::source(&error).map(ToString::to_string), "the tree of pod groups is not complete");
    }
    let pressure = eviction::Monitor::new(kubelet.clone());
    tracker.spawn(node::run(kubelet.clone()));
    tracker.spawn(node::lease::run(kubelet.clone()));
    tracker.spawn(kubelet.status.clone().run(stop.clone()));
    // What runs already, before the first pod is looked at.
    if let Err(status) = pleg::relist(kubelet).await {
        tracing::warn!(%status, "cannot list what runs already");
    }
    if let Some(dir) = kubelet.config.static_pod_path.clone() {
        tracker.spawn(static_pods::run(kubelet.clone(), dir));
    }
    tracker.spawn(container::gc::run(kubelet.clone()));
    tracker.spawn(container::rotation::run(kubelet.clone()));
    tracker.spawn(pressure.run());
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = kubelet.api_pods.synced() => {}
    }
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = kubelet.services.synced() => {}
    }
    // Oldest first, so that admission after a restart comes to what it came to before.
    let mut pods = kubelet.api_pods.list();
    pods.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    for pod in pods.into_iter().filter(|pod| !spec::is_mirror(pod)) {
        manager::add_or_update(kubelet, pod);
    }
    let weak = Arc::downgrade(kubelet);
    kubelet.api_pods.on_change(move |change| {
        if let Some(kubelet) = weak.upgrade() {
            manager::apply(&kubelet, change);
        }
    });
    kubelet.sources_ready.store(true, Ordering::Release);
    tracker.spawn(pleg::run(kubelet.clone()));
    stop.cancelled().await;
    Ok(())
}
