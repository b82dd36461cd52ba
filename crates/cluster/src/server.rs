//! The server process: control plane and this machine's node, wired by the in-memory transport.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use keelson_apiserver::{
    ApiServer, ApiServerConfig, CertificateAndKey, EncryptionConfig, EncryptionConfigError,
    KubeletClientConfig, ServiceAccountConfig,
};
use keelson_kubelet::ServerConfig;
use keelson_pki::tls::ServingCertificate;
use keelson_pki::{ClusterNames, Identity, Leaf, Pki};
use keelson_store::Store;
use tokio_util::sync::CancellationToken;

use crate::addons;
use crate::backend::Backend;
use crate::discovery::ClusterInfo;
use crate::identities::Identities;
use crate::lock::DataLock;
use crate::node::{self, NodeClients, NodeOptions};
use crate::paths::{Paths, write_atomically};
use crate::process::ProcessRecord;
use crate::progress::{Progress, Report};
use crate::renewal::Renewal;
use crate::settings::{self, ClusterSettings};

/// EncryptionConfiguration, in the directory of keys: Secrets by AES-GCM.
const ENCRYPTION_FILE: &str = "encryption-config.yaml";

/// The server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings.
    #[error(transparent)]
    Settings(#[from] settings::Error),
    /// There is no cluster.
    #[error("there is no cluster in {0}; start one with `keelson up`")]
    NoCluster(std::path::PathBuf),
    /// Another server runs.
    #[error("a server process (pid {0}) is running already for this data directory")]
    Running(i32),
    /// Keys and certificates.
    #[error("keys and certificates cannot be used")]
    Pki(#[from] keelson_pki::Error),
    /// The encryption configuration.
    #[error("{path} cannot be used; restore it from a backup: without it the Secrets in the store cannot be read", path = path.display())]
    Encryption {
        /// The file.
        path: std::path::PathBuf,
        /// The cause.
        #[source]
        source: EncryptionConfigError,
    },
    /// The store.
    #[error("the store cannot be opened: {backend}")]
    Store {
        /// Which.
        backend: Backend,
        /// The cause.
        #[source]
        source: keelson_store::Error,
    },
    /// Another command works on the data directory.
    #[error(transparent)]
    Lock(#[from] crate::lock::Error),
    /// The API server.
    #[error("the API server did not start")]
    ApiServer(#[from] keelson_apiserver::StartError),
    /// A file.
    #[error("cannot write {path}", path = path.display())]
    Write {
        /// The file.
        path: std::path::PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// What every cluster has.
    #[error("cannot create {object}")]
    Addon {
        /// What.
        object: &'static str,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// The network of sandboxed nodes.
    #[error(transparent)]
    Underlay(#[from] crate::underlay::Error),
    /// The node.
    #[error(transparent)]
    Node(#[from] node::Error),
    /// A part of the control plane ended.
    #[error("{component} failed")]
    Component {
        /// Which.
        component: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Runs the control plane and this machine's node until `shutdown`; containers go on running afterwards.
pub async fn run(paths: &Paths, report: Report<'_>, shutdown: CancellationToken) -> Result<(), Error> {
    let progress = Progress::new(report);
    let settings = ClusterSettings::read(paths)?.ok_or_else(|| Error::NoCluster(paths.data.clone()))?;
    let record = paths.server_record();
    if let Some(running) = ProcessRecord::read_running(&record) {
        return Err(Error::Running(running.pid));
    }
    // Held until the process ends.
    let _lock = DataLock::acquire(paths)?;
    let write = |source| Error::Write {
        path: record.clone(),
        source,
    };
    ProcessRecord::current()
        .and_then(|current| current.write(&record))
        .map_err(write)?;

    let underlay = settings.underlay(paths);
    if settings.node_ip == underlay.gateway() {
        underlay.ensure().await?;
    }
    let pki = ensure_pki(paths, &settings)?;
    write_admin_kubeconfig(paths, &settings, &pki)?;
    progress.done("keys and certificates");

    let backend = Backend::of(&settings, paths);
    let opened = backend.open().await;
    let open = opened.map_err(|source| Error::Store { backend, source })?;
    let result = serve(paths, &settings, &pki, open.store(), &progress, shutdown).await;
    open.close().await;
    // The next start finds a record of a process that is gone, which is as good as none.
    let _ = std::fs::remove_file(&record);
    result
}

/// Runs the API server on the store, and all else on the API server.
async fn serve(
    paths: &Paths,
    settings: &ClusterSettings,
    pki: &Pki,
    store: Arc<dyn Store>,
    progress: &Progress<'_>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let api = ApiServer::start(api_server_config(settings, pki, store.clone())?).await?;
    progress.done("API server ready");
    let parts = Parts {
        paths,
        settings,
        pki,
        api: &api,
        store,
    };
    let result = parts.run(progress, shutdown).await;
    api.shutdown().await;
    result
}

/// Writes the administrator's kubeconfig.
pub(crate) fn write_admin_kubeconfig(
    paths: &Paths,
    settings: &ClusterSettings,
    pki: &Pki,
) -> Result<(), Error> {
    let kubeconfig = pki.kubeconfig(Identity::Admin, "keelson", &settings.local_url());
    let path = paths.admin_kubeconfig();
    write_atomically(&path, kubeconfig.as_bytes()).map_err(|source| Error::Write { path, source })
}

/// Makes or renews everything below `pki/`.
pub fn ensure_pki(paths: &Paths, settings: &ClusterSettings) -> Result<Pki, keelson_pki::Error> {
    let underlay = settings.underlay(paths);
    let mut extra = vec![
        settings.node_name.clone(),
        settings.node_ip.to_string(),
        underlay.gateway().to_string(),
    ];
    extra.extend(settings.tls_sans.iter().cloned());
    let first: IpAddr = Ipv4Addr::from(u32::from(settings.service_cidr.network()).saturating_add(1)).into();
    let names = ClusterNames {
        cluster_domain: settings.cluster_domain.clone(),
        hosts: extra,
        service_ip: first,
    };
    Pki::ensure(&paths.pki(), &names, Timestamp::now())
}

/// The API server's certificate, with the authority behind it: a joining machine compares that with its token.
pub(crate) fn serving(pki: &Pki) -> CertificateAndKey {
    let mut serving = pem(pki.leaf(Identity::Apiserver));
    serving
        .certificate_pem
        .extend(pki.ca.certificate().to_pem().into_bytes());
    serving
}

/// A serving certificate for this machine's kubelet.
pub(crate) fn kubelet_leaf(settings: &ClusterSettings, pki: &Pki) -> Result<Leaf, keelson_pki::Error> {
    let name = &settings.node_name;
    pki.issue_node_server(
        name,
        &[name.clone(), settings.node_ip.to_string()],
        Timestamp::now(),
    )
}

pub(crate) fn pem(leaf: &Leaf) -> CertificateAndKey {
    CertificateAndKey {
        certificate_pem: leaf.certificate.to_pem().into_bytes(),
        key_pem: leaf.key.to_pem().into_bytes(),
    }
}

fn api_server_config(
    settings: &ClusterSettings,
    pki: &Pki,
    store: Arc<dyn Store>,
) -> Result<ApiServerConfig, Error> {
    let ca = pki.ca.certificate().to_pem().into_bytes();
    let mut config = ApiServerConfig::new(store, serving(pki), ca.clone());
    config.bind_address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, settings.api_port));
    config.advertise_address = settings.node_ip;
    config.request_header_ca_pem = Some(pki.front_proxy_ca.certificate().to_pem().into_bytes());
    config.request_header_allowed_names = vec!["front-proxy-client".into()];
    config.proxy_client = Some(pem(pki.leaf(Identity::FrontProxyClient)));
    config.encryption = Some(encryption(pki)?);
    config.service_cidrs = vec![IpNet::V4(settings.service_cidr)];
    config.kubelet_client = Some(KubeletClientConfig {
        identity: pem(pki.leaf(Identity::ApiserverKubeletClient)),
        ca_pem: Some(ca),
    });
    let keys = pki.token_verification_keys()?;
    config.service_account = ServiceAccountConfig {
        signing_key_pem: pki.service_account_key.to_pem().into_bytes(),
        verification_keys_pem: keys.iter().map(|key| key.to_pem().into_bytes()).collect(),
        issuer: format!("https://kubernetes.default.svc.{}", settings.cluster_domain),
        ..ServiceAccountConfig::default()
    };
    Ok(config)
}

/// What is encrypted in the store, and with which keys: made once, kept with the other keys. What an older cluster has in
/// the clear is read, and is encrypted at the start.
fn encryption(pki: &Pki) -> Result<EncryptionConfig, Error> {
    let path = pki.directory().join(ENCRYPTION_FILE);
    let unusable = |source| Error::Encryption {
        path: path.clone(),
        source,
    };
    let text = match keelson_pki::file::read(&path)? {
        Some(text) => text,
        None => {
            let text = EncryptionConfig::generate().map_err(unusable)?;
            keelson_pki::file::write(&path, text.as_bytes(), keelson_pki::file::SECRET)?;
            text
        }
    };
    EncryptionConfig::parse(&text).map_err(unusable)
}

/// What the parts of the server process are made of.
struct Parts<'a> {
    paths: &'a Paths,
    settings: &'a ClusterSettings,
    pki: &'a Pki,
    api: &'a ApiServer,
    store: Arc<dyn Store>,
}

impl Parts<'_> {
    /// Runs them until `shutdown`, or until one ends by itself.
    async fn run(&self, progress: &Progress<'_>, shutdown: CancellationToken) -> Result<(), Error> {
        let (settings, pki, api) = (self.settings, self.pki, self.api);
        let identities = Identities::new(api.clone());
        self.publish(&identities).await?;
        let stop = shutdown.child_token();
        let mut parts = tokio::task::JoinSet::new();
        let kubelet = kubelet_leaf(settings, pki)?;
        let kubelet_serving = ServingCertificate::new(&kubelet)?;
        let renewal = Renewal {
            paths: self.paths.clone(),
            settings: settings.clone(),
            pki: pki.clone(),
            api: api.clone(),
            kubelet,
            kubelet_serving: kubelet_serving.clone(),
        };
        let token = stop.clone();
        parts.spawn(async move {
            renewal.run(token).await;
            Ok(())
        });
        let node_options = self.node_options(&identities, kubelet_serving);
        let token = stop.clone();
        parts.spawn(async move { node::run(node_options, token).await.map_err(Error::from) });
        crate::control_plane::spawn(&mut parts, settings, pki, api, &stop);
        progress.done("scheduler, controllers and node started");
        progress.finished("server process running");
        let result = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            Some(ended) = parts.join_next() => match ended {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error),
                Err(panic) => Err(Error::Component { component: "server", source: panic.into() }),
            },
        };
        stop.cancel();
        while parts.join_next().await.is_some() {}
        result
    }

    /// Creates what every cluster has.
    async fn publish(&self, identities: &Identities) -> Result<(), Error> {
        let admin = identities.client("keelson", "kubernetes-admin", &["kubeadm:cluster-admins"]);
        let info = ClusterInfo {
            server: self.settings.advertised_url(),
            ca_pem: self.pki.ca.certificate().to_pem(),
        };
        addons::ensure(&admin, &self.settings.network(), &info)
            .await
            .map_err(|(object, source)| Error::Addon {
                object,
                source: Box::new(source),
            })
    }

    fn node_options(&self, identities: &Identities, certificate: Arc<ServingCertificate>) -> NodeOptions {
        let name = &self.settings.node_name;
        let node = format!("system:node:{name}");
        NodeOptions {
            paths: self.paths.clone(),
            name: name.clone(),
            ip: self.settings.node_ip,
            network: self.settings.network(),
            registries: self.settings.registries.clone(),
            container_runtime_endpoint: None,
            server: ServerConfig {
                address: Ipv4Addr::UNSPECIFIED.into(),
                port: 10250,
                certificate,
                client_ca: vec![self.pki.ca.certificate().der().clone()],
            },
            clients: NodeClients {
                kubelet: identities.client("kubelet", &node, &["system:nodes"]),
                proxy: identities.client("kube-proxy", "system:kube-proxy", &["system:node-proxier"]),
                network: identities.client("keelson-network", "system:keelson-network", &[]),
                dns: identities.client("keelson-dns", "system:keelson-network", &[]),
            },
            store: Some(self.store.clone()),
        }
    }
}
