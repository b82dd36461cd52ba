//! `keelson agent`: this machine as a node of a cluster that runs elsewhere.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keelson_kubelet::ServerConfig;
use keelson_pki::Certificate;
use keelson_pki::tls::ServingCertificate;
use tokio_util::sync::CancellationToken;

use crate::join::{self, NodeCredentials, NodeIdentity};
use crate::node::{self, NodeClients, NodeOptions};
use crate::paths::{Paths, write_atomically};
use crate::preflight;
use crate::published::{self, ClusterNetwork};
use crate::rotation::{CurrentClient, Rotation};
use crate::token::{JoinToken, MalformedToken};

/// How long the server may take to say what the cluster's networks are.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// The agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Joining failed.
    #[error(transparent)]
    Join(#[from] join::Error),
    /// The token is malformed.
    #[error(transparent)]
    Token(#[from] MalformedToken),
    /// The node's address is not known.
    #[error("cannot find out this machine's address towards {0}: use --node-ip")]
    NoAddress(String),
    /// The node's files cannot be read.
    #[error("cannot read {path}; delete the node's directory and join again with a new token", path = path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The cluster's networks are not known.
    #[error("cannot learn the cluster's networks from {server}; is the cluster up?")]
    Networks {
        /// The server.
        server: String,
        /// What it said, if it said anything.
        #[source]
        source: Option<published::Error>,
    },
    /// A file.
    #[error("cannot write {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The API cannot be reached.
    #[error(transparent)]
    Client(#[from] keelson_client::TransportError),
    /// The serving certificate.
    #[error("the kubelet's serving certificate cannot be used")]
    Pki(#[from] keelson_pki::Error),
    /// The task that renews certificates.
    #[error("renewing certificates failed")]
    Rotation(#[from] tokio::task::JoinError),
    /// The node.
    #[error(transparent)]
    Node(#[from] node::Error),
}

/// What an agent is told.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The directories.
    pub paths: Paths,
    /// URL of the API server.
    pub server: String,
    /// The token, for the first start.
    pub token: Option<String>,
    /// The Node object's name.
    pub name: String,
    /// The node's address; found out by the route to the server if `None`.
    pub ip: Option<IpAddr>,
    /// Registries configuration.
    pub registries: Option<PathBuf>,
    /// Another CRI runtime.
    pub container_runtime_endpoint: Option<String>,
}

/// Joins if this machine has not joined yet, then runs the node until `shutdown`.
pub async fn run(options: AgentOptions, shutdown: CancellationToken) -> Result<(), Error> {
    let token: Option<JoinToken> = options.token.as_deref().map(str::parse).transpose()?;
    let ip = match options.ip {
        Some(ip) => ip,
        None => own_address(&options.server)
            .await
            .ok_or_else(|| Error::NoAddress(options.server.clone()))?,
    };
    let directory = options.paths.pki();
    let identity = NodeIdentity {
        server: options.server.clone(),
        name: options.name.clone(),
        ip,
    };
    let credentials = join::ensure(&directory, token.as_ref(), &identity).await?;
    tracing::info!(node = options.name, server = options.server, "joined the cluster");
    let current =
        CurrentClient::new(keelson_client::client_from_kubeconfig(&credentials.kubeconfig, "kubelet").await?);
    let network = cluster_network(&current.client("keelson"), &options.server, &options.paths).await?;
    let serving = ServingCertificate::new(&join::serving_leaf(&credentials)?)?;
    let clients = NodeClients {
        kubelet: current.client("kubelet"),
        proxy: current.client("kube-proxy"),
        network: current.client("keelson-network"),
        dns: current.client("keelson-dns"),
    };
    let rotation = Rotation {
        directory,
        identity,
        client: current,
        serving: serving.clone(),
    };
    let node = NodeOptions {
        paths: options.paths,
        name: options.name,
        ip,
        network,
        registries: options.registries,
        container_runtime_endpoint: options.container_runtime_endpoint,
        server: kubelet_server(&credentials, serving)?,
        clients,
        store: None,
    };
    // Ends with the node, however that ends.
    let stop = shutdown.child_token();
    let rotating = tokio::spawn(rotation.run(stop.clone()));
    let result = node::run(node, shutdown).await;
    stop.cancel();
    rotating.await?;
    Ok(result?)
}

/// What the server has published; the copy of the last start when the server does not answer.
async fn cluster_network(
    client: &kube::Client,
    server: &str,
    paths: &Paths,
) -> Result<ClusterNetwork, Error> {
    let copy = paths.data.join("cluster-network.json");
    let read = tokio::time::timeout(ANSWER_PATIENCE, published::read(client)).await;
    let reason = match read {
        Ok(Ok(network)) => {
            let text = serde_json::to_vec_pretty(&network).map_err(std::io::Error::from);
            text.and_then(|text| write_atomically(&copy, &text))
                .map_err(|source| Error::Write { path: copy, source })?;
            return Ok(network);
        }
        Ok(Err(error)) => Some(error),
        Err(_) => None,
    };
    let known = std::fs::read(&copy).ok();
    match known.and_then(|text| serde_json::from_slice(&text).ok()) {
        Some(network) => {
            tracing::warn!(server, error = ?reason, "the server does not say the cluster's networks; they are taken to be those of before");
            Ok(network)
        }
        None => Err(Error::Networks {
            server: server.into(),
            source: reason,
        }),
    }
}

fn kubelet_server(
    credentials: &NodeCredentials,
    certificate: Arc<ServingCertificate>,
) -> Result<ServerConfig, Error> {
    let bad = |source| Error::Credentials {
        path: credentials.ca.clone(),
        source,
    };
    let authority = std::fs::read_to_string(&credentials.ca).map_err(|error| bad(error.into()))?;
    let authority = Certificate::from_pem(&authority).map_err(|error| bad(error.into()))?;
    Ok(ServerConfig {
        address: Ipv4Addr::UNSPECIFIED.into(),
        port: 10250,
        certificate,
        client_ca: vec![authority.der().clone()],
    })
}

/// The address that packets to the server leave from.
async fn own_address(server: &str) -> Option<IpAddr> {
    let url: http::Uri = server.parse().ok()?;
    let host = url.host()?.trim_matches(['[', ']']).to_owned();
    let targets: Vec<SocketAddr> = tokio::net::lookup_host((host, url.port_u16().unwrap_or(6443)))
        .await
        .ok()?
        .collect();
    targets.into_iter().find_map(preflight::source_address)
}
