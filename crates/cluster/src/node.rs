//! One node: runtime, pod network, kubelet, service proxy and DNS in this process, each a client with its own identity.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;
use keelson_kubelet::{Cri, KubeletConfig, ServerConfig};
use keelson_network::{HostPort, PodNetwork, PodRequest, Protocol, Vxlan};
use keelson_runtime::images::{ImageConfig, ImageStore};
use keelson_runtime::{
    Config as RuntimeConfig, NetworkError, PodIps, PodNetworkRequest, PortMapping, Runtime,
};
use keelson_store::Store;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::control;
use crate::paths::Paths;
use crate::published::ClusterNetwork;

/// The node cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image store.
    #[error("cannot open the image store")]
    Images(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The runtime.
    #[error("cannot open the container runtime")]
    Runtime(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The runtime's socket.
    #[error("cannot serve CRI on {path}", path = path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The pod network.
    #[error("cannot set up the pod network")]
    Network(#[from] keelson_network::Error),
    /// The runtime endpoint is not a socket.
    #[error(transparent)]
    Cri(#[from] keelson_kubelet::CriError),
    /// A component ended.
    #[error("{component} failed")]
    Component {
        /// Which.
        component: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What a node is told.
pub struct NodeOptions {
    /// The directories.
    pub paths: Paths,
    /// The Node object's name.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
    /// What all nodes agree on.
    pub network: ClusterNetwork,
    /// Registries configuration.
    pub registries: Option<PathBuf>,
    /// Another CRI runtime in place of the built-in one.
    pub container_runtime_endpoint: Option<String>,
    /// The kubelet's server.
    pub server: ServerConfig,
    /// Clients of the parts.
    pub clients: NodeClients,
    /// The cluster's store, where the server process is: for backups.
    pub store: Option<Arc<dyn Store>>,
}

/// One identity for each part of a node.
pub struct NodeClients {
    /// `system:node:NAME`.
    pub kubelet: Client,
    /// `system:kube-proxy`.
    pub proxy: Client,
    /// Reads nodes.
    pub network: Client,
    /// Reads services and endpoints.
    pub dns: Client,
}

/// Makes the network of pods the runtime's.
struct Adapter(Arc<PodNetwork>);

#[async_trait]
impl keelson_runtime::PodNetwork for Adapter {
    async fn setup(&self, request: &PodNetworkRequest) -> Result<PodIps, NetworkError> {
        let (network, pod) = (self.0.clone(), pod_request(request));
        blocking(move || network.setup(&pod)).await.map(PodIps)
    }

    async fn teardown(&self, request: &PodNetworkRequest) -> Result<(), NetworkError> {
        let (network, id) = (self.0.clone(), request.sandbox_id.clone());
        blocking(move || network.teardown(&id)).await
    }

    async fn status(&self) -> Result<(), NetworkError> {
        self.0.ready().map_err(network_error)
    }
}

fn network_error(error: keelson_network::Error) -> NetworkError {
    NetworkError {
        message: error.to_string(),
        source: Some(Box::new(error)),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, keelson_network::Error> + Send + 'static,
) -> Result<T, NetworkError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(network_error),
        Err(_) => Err(NetworkError::new("the pod network panicked")),
    }
}

fn pod_request(request: &PodNetworkRequest) -> PodRequest {
    let host_port = |mapping: &PortMapping| HostPort {
        host_ip: mapping.host_ip,
        host_port: mapping.host_port,
        container_port: mapping.container_port,
        protocol: match mapping.protocol {
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => Protocol::Tcp,
        },
    };
    PodRequest {
        netns: request.netns.clone(),
        id: request.sandbox_id.clone(),
        namespace: request.namespace.clone(),
        name: request.name.clone(),
        uid: request.uid.clone(),
        host_ports: request.port_mappings.iter().map(host_port).collect(),
    }
}

/// The network configuration of the node in `paths`; the same for setting up and for taking down.
pub fn network_config(paths: &Paths, node: &str) -> keelson_network::Config {
    let id = paths.id();
    let mut config = keelson_network::Config::new(node, paths.node().join("network"));
    config.bridge = format!("kp-{id}");
    config.vxlan = Some(Vxlan {
        name: format!("kv-{id}"),
        ..Vxlan::default()
    });
    config.table = format!("keelson-network-{id}");
    config.cni_conf_dir = Some("/etc/cni/net.d".into());
    config
}

/// The service proxy's configuration of the node in `paths`.
pub fn proxy_config(paths: &Paths, node: &str) -> keelson_kube_proxy::Config {
    let mut config = keelson_kube_proxy::Config::new(node);
    config.table = format!("kube-proxy-{}", paths.id());
    config
}

/// Opens the image store of the node in `paths`.
pub async fn image_store(paths: &Paths, registries: Option<&PathBuf>) -> Result<ImageStore, Error> {
    let mut config = ImageConfig::new(paths.node().join("images"));
    if let Some(file) = registries {
        config.registries =
            keelson_runtime::images::RegistriesConfig::load(file).map_err(|e| Error::Images(Box::new(e)))?;
    }
    // Reads the index and clears what a crash left: blocking.
    let opened = tokio::task::spawn_blocking(move || ImageStore::open(config)).await;
    match opened {
        Ok(result) => result.map_err(|e| Error::Images(Box::new(e))),
        Err(panic) => Err(Error::Images(Box::new(panic))),
    }
}

/// Runs the node until `shutdown`. Containers go on running afterwards.
pub async fn run(options: NodeOptions, shutdown: CancellationToken) -> Result<(), Error> {
    let cluster_cidrs = vec![IpNet::V4(options.network.cluster_cidr)];
    let service_cidrs = vec![IpNet::V4(options.network.service_cidr)];
    let mut network = network_config(&options.paths, &options.name);
    network.cluster_cidrs = cluster_cidrs.clone();
    network.service_cidrs = service_cidrs.clone();
    network.load_balancer_cidrs = vec![IpNet::V4(options.network.load_balancer_cidr)];
    let network = Arc::new(PodNetwork::new(network)?);
    let stop = shutdown.child_token();
    let (cri, built_in) = match &options.container_runtime_endpoint {
        Some(endpoint) => (Cri::connect(endpoint)?, None),
        None => {
            let (runtime, images) = built_in_runtime(&options, &network).await?;
            (
                Cri::in_process(runtime.clone(), runtime.clone()),
                Some((runtime, images)),
            )
        }
    };
    let mut parts = tokio::task::JoinSet::new();
    if let Some((runtime, images)) = &built_in {
        let (served, path, token) = (runtime.clone(), options.paths.cri_socket(), stop.clone());
        parts.spawn(async move { part("CRI socket", keelson_runtime::serve(served, &path, token).await) });
        let served = control::Served {
            images: images.clone(),
            runtime: cri.clone(),
            store: options.store.clone(),
        };
        let (path, token) = (options.paths.control_socket(), stop.clone());
        parts.spawn(async move { part("control socket", control::serve(served, &path, token).await) });
    }
    let (pods, client, token) = (network.clone(), options.clients.network, stop.clone());
    parts.spawn(async move { part("pod network", keelson_network::run(pods, client, token).await) });
    let dns = keelson_network::dns::Config {
        cluster_domain: options.network.domain.clone(),
        cluster_addresses: vec![options.network.dns.into()],
        ranges: [cluster_cidrs.clone(), service_cidrs.clone()].concat(),
        ..keelson_network::dns::Config::default()
    };
    let (client, token) = (options.clients.dns, stop.clone());
    parts.spawn(async move { part("DNS", keelson_network::dns::run(dns, client, token).await) });
    let mut proxy = proxy_config(&options.paths, &options.name);
    proxy.cluster_cidrs = cluster_cidrs;
    proxy.service_cidrs = service_cidrs;
    let (client, token) = (options.clients.proxy, stop.clone());
    parts.spawn(async move { part("kube-proxy", keelson_kube_proxy::run(proxy, client, token).await) });

    let root = options.paths.node().join("kubelet");
    let mut kubelet = KubeletConfig::new(options.name, &root, cri);
    kubelet.node_ips = vec![options.ip];
    kubelet.server = Some(options.server);
    kubelet.cluster_dns = vec![options.network.dns.into()];
    kubelet.cluster_domain = options.network.domain;
    kubelet.cgroup_root = options.paths.cgroup();
    kubelet.static_pod_path = Some(options.paths.node().join("manifests"));
    let (client, token) = (options.clients.kubelet, stop.clone());
    parts.spawn(async move { part("kubelet", keelson_kubelet::run(kubelet, client, token).await) });

    let result = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        Some(ended) = parts.join_next() => ended.unwrap_or_else(|panic| part("node", Err(panic))),
    };
    stop.cancel();
    // Event streams end with the runtime, and the kubelet with them.
    let close = async {
        if let Some((runtime, _)) = &built_in {
            runtime.close().await;
        }
    };
    tokio::join!(close, async { while parts.join_next().await.is_some() {} });
    result
}

fn part<E>(component: &'static str, result: Result<(), E>) -> Result<(), Error>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    result.map_err(|source| Error::Component {
        component,
        source: source.into(),
    })
}

async fn built_in_runtime(
    options: &NodeOptions,
    network: &Arc<PodNetwork>,
) -> Result<(Runtime, ImageStore), Error> {
    let images = image_store(&options.paths, options.registries.as_ref()).await?;
    let mut config = RuntimeConfig::new(
        options.paths.node().join("runtime"),
        options.paths.run.join("runtime"),
        Arc::new(Adapter(network.clone())),
    );
    config.shim_command = vec!["/proc/self/exe".into(), "internal".into(), "shim".into()];
    config.seccomp_root = options.paths.node().join("kubelet/seccomp");
    let runtime = Runtime::open(config, images.clone())
        .await
        .map_err(|e| Error::Runtime(Box::new(e)))?;
    Ok((runtime, images))
}
