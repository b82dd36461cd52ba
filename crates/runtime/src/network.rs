//! What the runtime needs of a pod network; the network crate (or a CNI plugin) is behind it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

/// A pod that gets a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetworkRequest {
    /// Sandbox id, unique on the node.
    pub sandbox_id: String,
    /// The pod's network namespace, pinned at this path; its `lo` is up.
    pub netns: PathBuf,
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Pod uid.
    pub uid: String,
    /// Annotations of the sandbox, for example bandwidth limits.
    pub annotations: Vec<(String, String)>,
    /// Host ports.
    pub port_mappings: Vec<PortMapping>,
}

/// A host port that leads to the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the host.
    pub host_port: u16,
    /// Address on the host; none is all.
    pub host_ip: Option<IpAddr>,
}

/// Addresses of a pod; the first is the pod's IP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodIps(pub Vec<IpAddr>);

/// Why the pod network failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct NetworkError {
    /// For people.
    pub message: String,
    /// The cause, if there is one.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl NetworkError {
    /// An error with no further cause.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            source: None,
        }
    }
}

/// Connects pods. Implementations are called concurrently for different pods.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Connects a pod. After an error the caller tears down.
    async fn setup(&self, request: &PodNetworkRequest) -> Result<PodIps, NetworkError>;

    /// Disconnects a pod. Idempotent; the namespace may be gone already.
    async fn teardown(&self, request: &PodNetworkRequest) -> Result<(), NetworkError>;

    /// Whether pods can be connected; the error's text becomes the NetworkReady condition's message.
    async fn status(&self) -> Result<(), NetworkError>;
}

/// Loopback only: pods get no address. For tests and for host-network-only nodes.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNetwork;

#[async_trait]
impl PodNetwork for NoNetwork {
    async fn setup(&self, _request: &PodNetworkRequest) -> Result<PodIps, NetworkError> {
        Ok(PodIps::default())
    }

    async fn teardown(&self, _request: &PodNetworkRequest) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn status(&self) -> Result<(), NetworkError> {
        Ok(())
    }
}

/// Where the network namespace of a sandbox is pinned.
pub(crate) fn netns_path(run_dir: &Path, sandbox_id: &str) -> PathBuf {
    run_dir.join("netns").join(sandbox_id)
}
