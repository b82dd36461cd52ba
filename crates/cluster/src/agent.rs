//! `keelson agent`: this machine as a node of a cluster that runs elsewhere.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::Ipv4Net;
use keelson_kubelet::ServerConfig;
use keelson_pki::tls::ServingCertificate;
use keelson_pki::{Certificate, Leaf, PrivateKey};
use tokio_util::sync::CancellationToken;

use crate::join::{self, NodeCredentials};
use crate::node::{self, NodeClients, NodeOptions};
use crate::paths::Paths;
use crate::preflight;
use crate::token::{JoinToken, MalformedToken};

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
    /// The API cannot be reached.
    #[error(transparent)]
    Client(#[from] keelson_client::TransportError),
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

/// The ranges of every cluster so far: they are the server's defaults.
struct Ranges {
    cluster: Ipv4Net,
    service: Ipv4Net,
    load_balancer: Ipv4Net,
    dns: Ipv4Addr,
}

impl Ranges {
    fn defaults() -> Self {
        let net = |a, b, prefix| {
            Ipv4Net::new(Ipv4Addr::new(a, b, 0, 0), prefix).expect("invariant: a literal prefix is valid")
        };
        Self {
            cluster: net(10, 244, 16),
            service: net(10, 96, 12),
            load_balancer: net(10, 112, 16),
            dns: Ipv4Addr::new(10, 96, 0, 10),
        }
    }
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
    let credentials = join::ensure(&directory, &options.server, token.as_ref(), &options.name, ip).await?;
    tracing::info!(node = options.name, server = options.server, "joined the cluster");
    let client = keelson_client::client_from_kubeconfig(&credentials.kubeconfig).await?;
    let ranges = Ranges::defaults();
    let node = NodeOptions {
        paths: options.paths,
        name: options.name,
        ip,
        cluster_cidr: ranges.cluster,
        service_cidr: ranges.service,
        load_balancer_cidr: ranges.load_balancer,
        dns: ranges.dns,
        registries: options.registries,
        container_runtime_endpoint: options.container_runtime_endpoint,
        server: kubelet_server(&credentials)?,
        clients: NodeClients {
            kubelet: client.clone(),
            proxy: client.clone(),
            network: client.clone(),
            dns: client,
        },
    };
    node::run(node, shutdown).await.map_err(Error::from)
}

fn kubelet_server(credentials: &NodeCredentials) -> Result<ServerConfig, Error> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|source| Error::Credentials {
            path: path.clone(),
            source: source.into(),
        })
    };
    let bad = |path: &PathBuf| {
        let path = path.clone();
        move |source: keelson_pki::Error| Error::Credentials {
            path,
            source: source.into(),
        }
    };
    let certificate_path = &credentials.serving_certificate;
    let certificate = Certificate::from_pem(&read(certificate_path)?).map_err(bad(certificate_path))?;
    let key_path = &credentials.serving_key;
    let key = PrivateKey::from_pem(&read(key_path)?).map_err(bad(key_path))?;
    let authority = Certificate::from_pem(&read(&credentials.ca)?).map_err(bad(&credentials.ca))?;
    let serving: Arc<ServingCertificate> =
        ServingCertificate::new(&Leaf { certificate, key }).map_err(bad(certificate_path))?;
    Ok(ServerConfig {
        address: Ipv4Addr::UNSPECIFIED.into(),
        port: 10250,
        certificate: serving,
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
