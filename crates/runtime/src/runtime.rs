//! The runtime itself: what it owns and how it opens.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use keelson_cri::v1;
use parking_lot::{Mutex, RwLock};
use rand::RngCore;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroup::{self, Cgroups};
use crate::config::Config;
use crate::images::ImageStore;
use crate::network::{PodNetworkRequest, PortMapping, netns_path};
use crate::protocol::Event;
use crate::records::{ContainerRecord, SandboxRecord};
use crate::seccomp::Programs;
use crate::shim_client::ShimClient;
use crate::shim_launcher::Launcher;
use crate::spec::SandboxFiles;
use crate::state::{Container, Phase, Sandbox};
use crate::streaming::StreamingServer;

/// Events that a slow subscriber may lag behind before its stream ends with an error.
const EVENT_BACKLOG: usize = 1024;

/// Why the runtime could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory cannot be used.
    #[error("cannot use {path}: {source}", path = .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The machine has no usable cgroups.
    #[error(transparent)]
    Cgroups(#[from] cgroup::Error),
    /// The streaming server cannot listen.
    #[error("cannot start the streaming server")]
    Streaming(#[source] io::Error),
}

/// The built-in container runtime; clones share it.
#[derive(Debug, Clone)]
pub struct Runtime(pub(crate) Arc<Inner>);

/// What clones share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) images: ImageStore,
    pub(crate) cgroups: Cgroups,
    pub(crate) sandboxes: RwLock<HashMap<String, Arc<Sandbox>>>,
    pub(crate) containers: RwLock<HashMap<String, Arc<Container>>>,
    /// Names of sandboxes and containers that exist or are being made, with their ids.
    pub(crate) names: Mutex<HashMap<String, String>>,
    /// Exit codes of exec processes that somebody waits for.
    pub(crate) execs: Mutex<HashMap<String, tokio::sync::oneshot::Sender<i32>>>,
    pub(crate) events: broadcast::Sender<v1::ContainerEventResponse>,
    pub(crate) programs: Programs,
    pub(crate) launcher: Launcher,
    pub(crate) streaming: StreamingServer,
    pub(crate) tasks: TaskTracker,
    pub(crate) closing: CancellationToken,
}

impl Runtime {
    /// Opens the runtime: finds the sandboxes and containers of an earlier process, connects to their shims, and
    /// cleans up what has ended meanwhile.
    ///
    /// # Errors
    /// When a directory cannot be used, or the machine has no cgroups.
    pub async fn open(config: Config, images: ImageStore) -> Result<Self, OpenError> {
        let directories = [
            config.root.join("sandboxes"),
            config.root.join("containers"),
            config.run.join("netns"),
            config.run.join("shm"),
            config.run.join("shims"),
        ];
        for path in directories {
            make_private_dir(&path).map_err(|source| OpenError::Directory { path, source })?;
        }
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        let launcher = Launcher::new(
            config.shim_command.clone(),
            config.root.clone(),
            tasks.clone(),
            closing.clone(),
        );
        let runtime = Self(Arc::new(Inner {
            cgroups: Cgroups::detect()?,
            streaming: StreamingServer::bind().await.map_err(OpenError::Streaming)?,
            config,
            images,
            sandboxes: RwLock::default(),
            containers: RwLock::default(),
            names: Mutex::default(),
            execs: Mutex::default(),
            programs: Programs::default(),
            launcher,
            events: broadcast::Sender::new(EVENT_BACKLOG),
            tasks,
            closing,
        }));
        runtime.recover().await?;
        let server = runtime.0.streaming.clone();
        let (weak, closing) = (Arc::downgrade(&runtime.0), runtime.0.closing.clone());
        runtime
            .0
            .tasks
            .spawn(async move { server.run(weak, closing).await });
        Ok(runtime)
    }

    /// Lets go of the shims and ends all tasks; containers go on.
    pub async fn close(&self) {
        self.0.closing.cancel();
        for sandbox in self.0.sandboxes.read().values() {
            if let Some(shim) = sandbox.shim() {
                shim.close();
            }
        }
        self.0.launcher.close().await;
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// The image store that containers are made from.
    pub fn images(&self) -> &ImageStore {
        &self.0.images
    }

    pub(crate) fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.0.config.root.join("sandboxes").join(id)
    }

    pub(crate) fn container_dir(&self, id: &str) -> PathBuf {
        self.0.config.root.join("containers").join(id)
    }

    /// A sandbox by id or unique prefix of one.
    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, tonic::Status> {
        find(&self.0.sandboxes.read(), id).ok_or_else(|| {
            tonic::Status::not_found(format!(
                "an error occurred when try to find sandbox: not found: {id}"
            ))
        })
    }

    /// A container by id or unique prefix of one.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, tonic::Status> {
        find(&self.0.containers.read(), id).ok_or_else(|| {
            tonic::Status::not_found(format!(
                "an error occurred when try to find container \"{id}\": not found"
            ))
        })
    }

    /// The containers of a sandbox, oldest first.
    pub(crate) fn containers_of(&self, sandbox_id: &str) -> Vec<Arc<Container>> {
        let mut containers: Vec<_> = self
            .0
            .containers
            .read()
            .values()
            .filter(|container| container.sandbox_id == sandbox_id)
            .cloned()
            .collect();
        containers.sort_by_key(|container| container.record.lock().created_at);
        containers
    }

    /// Makes the in-memory form of a sandbox.
    pub(crate) fn make_sandbox(&self, record: SandboxRecord, config: v1::PodSandboxConfig) -> Sandbox {
        let id = record.id.clone();
        let directory = self.sandbox_dir(&id);
        let name = if config.hostname.is_empty() {
            nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default()
        } else {
            config.hostname.clone()
        };
        let files = SandboxFiles {
            hostname: directory.join("hostname"),
            hosts: directory.join("hosts"),
            resolv_conf: directory.join("resolv.conf"),
            shm: self.0.config.run.join("shm").join(&id),
            name,
        };
        let namespaces = config
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref())
            .and_then(|context| context.namespace_options.as_ref());
        let host_network =
            namespaces.is_some_and(|options| options.network == v1::NamespaceMode::Node as i32);
        let metadata = config.metadata.clone().unwrap_or_default();
        let network = (!host_network).then(|| PodNetworkRequest {
            sandbox_id: id.clone(),
            netns: netns_path(&self.0.config.run, &id),
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            annotations: config.annotations.clone().into_iter().collect(),
            port_mappings: config.port_mappings.iter().filter_map(port_mapping).collect(),
        });
        Sandbox {
            socket_dir: self.0.config.run.join("shims").join(&id),
            id,
            config,
            directory,
            files,
            network,
            record: Mutex::new(record),
            shim: Mutex::new(None),
            pause: Mutex::new(None),
            changes: tokio::sync::Mutex::new(()),
        }
    }

    /// Makes the in-memory form of a container.
    pub(crate) fn make_container(
        &self,
        record: ContainerRecord,
        config: v1::ContainerConfig,
        sandbox: Option<&Sandbox>,
    ) -> Container {
        let log_path = sandbox
            .map(|sandbox| &sandbox.config.log_directory)
            .filter(|directory| !directory.is_empty() && !config.log_path.is_empty())
            .map(|directory| Path::new(directory).join(&config.log_path));
        Container {
            id: record.id.clone(),
            sandbox_id: record.sandbox_id.clone(),
            directory: self.container_dir(&record.id),
            config: Mutex::new(config),
            log_path,
            record: Mutex::new(record),
            phase: tokio::sync::watch::Sender::new(Phase::Created),
            changes: tokio::sync::Mutex::new(()),
            last_cpu: Mutex::new(None),
        }
    }

    /// Uses a connected shim for a sandbox and follows its events until it is gone.
    pub(crate) fn adopt_shim(
        &self,
        sandbox: &Arc<Sandbox>,
        client: Arc<ShimClient>,
        events: mpsc::Receiver<Event>,
    ) {
        *sandbox.shim.lock() = Some(client);
        let weak = Arc::downgrade(&self.0);
        self.0.tasks.spawn(follow(weak, Arc::clone(sandbox), events));
    }
}

/// Applies what a shim tells, until it is gone.
async fn follow(weak: Weak<Inner>, sandbox: Arc<Sandbox>, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        let Some(inner) = weak.upgrade() else { return };
        Runtime(inner).shim_event(event);
    }
    let Some(inner) = weak.upgrade() else { return };
    // Also when we are closing: then the shim and its containers go on.
    if !inner.closing.is_cancelled() {
        Runtime(inner).shim_gone(&sandbox).await;
    }
}

fn find<T>(map: &HashMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if let Some(found) = map.get(id) {
        return Some(Arc::clone(found));
    }
    // crictl shows and takes the first characters of an id.
    if id.len() < 4 {
        return None;
    }
    let mut matches = map.iter().filter(|(known, _)| known.starts_with(id));
    match (matches.next(), matches.next()) {
        (Some((_, found)), None) => Some(Arc::clone(found)),
        _ => None,
    }
}

fn port_mapping(mapping: &v1::PortMapping) -> Option<PortMapping> {
    let port = |number: i32| u16::try_from(number).ok().filter(|port| *port > 0);
    Some(PortMapping {
        protocol: match v1::Protocol::try_from(mapping.protocol).unwrap_or_default() {
            v1::Protocol::Tcp => "tcp",
            v1::Protocol::Udp => "udp",
            v1::Protocol::Sctp => "sctp",
        },
        container_port: port(mapping.container_port)?,
        host_port: port(mapping.host_port)?,
        host_ip: mapping.host_ip.parse().ok(),
    })
}

/// A new id: 64 hexadecimal digits.
pub(crate) fn new_id() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// A directory for root alone.
pub(crate) fn make_private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path)
}
