//! The server: its parts, how they start, and how they end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keelson_api::status::Status;
use keelson_pki::tls::ServingCertificate;
use keelson_pki::{Certificate, Leaf, PrivateKey};
use keelson_store::{Revision, Store};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::{self, Connections};
use crate::aggregation::{self, Aggregator, LocalApi};
use crate::audit::{Audit, AuditError};
use crate::authentication::{self, AuthenticationConfigError, Authenticator, DiscoveryDocuments, External};
use crate::authorization::{AuthorizationConfigError, Authorizer, Plan};
use crate::bootstrap;
use crate::config::{ApiServerConfig, CertificateAndKey};
use crate::custom::Definitions;
use crate::discovery::DiscoveryCache;
use crate::encryption::EncryptedStore;
use crate::endpoints::reviews::ReviewHandlers;
use crate::endpoints::{KubeletProxy, dispatch};
use crate::flow::Flow;
use crate::http::{RequestBody, serve};
use crate::local::LocalService;
use crate::masters;
use crate::metrics::Metrics;
use crate::registry::{Registry, ServiceAllocator, builtin_specs};
use crate::resources::Resources;
use crate::user::UserInfo;
use crate::watch_cache::{CacheSet, WatchCacheError};

/// `--etcd-compaction-interval`.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(300);

/// The server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Keys or certificates cannot be used.
    #[error("the serving certificate cannot be used: {0}")]
    Pki(#[from] keelson_pki::Error),
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store cannot be read.
    #[error("the store cannot be read: {0}")]
    Cache(#[from] WatchCacheError),
    /// The audit backends cannot be opened.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Authentication cannot work as it is configured.
    #[error(transparent)]
    Authentication(#[from] AuthenticationConfigError),
    /// Authorization cannot work as it is configured.
    #[error(transparent)]
    Authorization(#[from] AuthorizationConfigError),
    /// What is stored cannot be decrypted with the keys that are configured.
    #[error("encrypted data in the store cannot be read: {0}")]
    Encryption(#[source] keelson_store::Error),
    /// What must exist in every cluster could not be created.
    #[error("bootstrap failed: {0}")]
    Bootstrap(Box<Status>),
}

impl From<Status> for StartError {
    fn from(status: Status) -> Self {
        Self::Bootstrap(Box::new(status))
    }
}

/// Everything that requests need.
pub(crate) struct Inner {
    pub(crate) config: ApiServerConfig,
    pub(crate) registry: Registry,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) reviews: ReviewHandlers,
    pub(crate) token_documents: Option<DiscoveryDocuments>,
    pub(crate) metrics: Metrics,
    pub(crate) discovery: DiscoveryCache,
    pub(crate) aggregator: Aggregator,
    pub(crate) audit: Option<Arc<Audit>>,
    pub(crate) flow: Flow,
    pub(crate) kubelets: Option<KubeletProxy>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) streams: TaskTracker,
    local: SocketAddr,
    serving: Arc<ServingCertificate>,
    started: AtomicBool,
}

impl Inner {
    pub(crate) fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// `host:port` that clients in the cluster use.
    pub(crate) fn address(&self) -> String {
        SocketAddr::new(self.config.advertise_address, self.local.port()).to_string()
    }
}

/// A running API server. Cheap to clone; it runs until [`ApiServer::shutdown`].
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Inner>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl ApiServer {
    /// Fills the caches, creates what every cluster has, and listens. The server is ready when this returns.
    pub async fn start(mut config: ApiServerConfig) -> Result<Self, StartError> {
        let (acceptor, serving) = acceptor(&config)?;
        let kubelets = config
            .kubelet_client
            .as_ref()
            .map(KubeletProxy::new)
            .transpose()?;
        let listener = TcpListener::bind(config.bind_address)
            .await
            .map_err(|source| StartError::Bind {
                address: config.bind_address,
                source,
            })?;
        let local = listener.local_addr().map_err(|source| StartError::Bind {
            address: config.bind_address,
            source,
        })?;
        let audit = match config.audit.take() {
            Some(audit) => Some(Arc::new(Audit::open(audit).await?)),
            None => None,
        };
        let proxy_client = config
            .proxy_client
            .as_ref()
            .map(|files| chain(files).map(|(leaf, _)| leaf))
            .transpose()?;
        let (shutdown, streams) = (CancellationToken::new(), TaskTracker::new());
        let metrics = crate::metrics::Registry::new();
        let connections = Connections {
            tasks: streams.clone(),
            shutdown: shutdown.clone(),
        };
        let (external, followed) = External::open(&config, &connections)?;
        let authorizers = Plan::open(&config.authorization, &connections)?;
        if let Some(encryption) = config.encryption.take() {
            let store = EncryptedStore::new(config.store.clone(), encryption);
            let rewritten = store.rewrite().await.map_err(StartError::Encryption)?;
            if rewritten > 0 {
                tracing::info!(rewritten, "stored values were encrypted anew");
            }
            config.store = Arc::new(store);
        }
        let caches = CacheSet::new(config.store.clone(), builtin_specs());
        let stream = caches.fill().await?;
        let feeder = tokio::spawn(caches.clone().run(stream, shutdown.clone()));
        let resources = Resources::new(caches.clone());
        let registry = Registry::new(&config, resources.clone());
        let prepared = prepare(&config, &registry, local.port(), &connections).await;
        let definitions = match prepared {
            Ok(definitions) => definitions,
            Err(error) => {
                shutdown.cancel();
                if let Err(error) = feeder.await {
                    tracing::error!(%error, "the watch cache's task failed");
                }
                return Err(error);
            }
        };
        let kinds = registry.kind_source();
        let (authorizers, following) = authorizers.start(&resources, &shutdown);
        let chain = admission::build(&config, &resources, kinds, &connections, authorizers.clone());
        registry.set_admission(chain);
        let authentication = authentication::build(&config, &resources, external);
        let inner = Arc::new(Inner {
            reviews: authentication::reviews(&config, &resources, &authentication, &authorizers),
            token_documents: authentication::discovery_documents(&config),
            flow: Flow::new(&resources, &metrics),
            metrics: Metrics::new(metrics),
            discovery: DiscoveryCache::default(),
            audit,
            aggregator: Aggregator::new(&resources, proxy_client, &streams, &shutdown),
            kubelets,
            shutdown: shutdown.clone(),
            streams,
            started: AtomicBool::new(true),
            registry,
            authenticator: authentication.authenticator,
            authorizer: authorizers,
            config,
            local,
            serving,
        });
        let definitions = tokio::spawn(definitions.run(shutdown.clone()));
        let policies = tokio::spawn(admission::watch_policies(
            inner.registry.clone(),
            shutdown.clone(),
        ));
        let aggregation = tokio::spawn(aggregation::run(inner.clone(), shutdown.clone()));
        let followed = followed.map(|followed| followed.start(shutdown.clone()));
        let handler_inner = inner.clone();
        let compactor = tokio::spawn(compact(inner.config.store.clone(), shutdown.clone()));
        let listener = tokio::spawn(serve(
            listener,
            acceptor,
            move |request, connection| {
                let server = handler_inner.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    dispatch(&server, parts, RequestBody::Incoming(body), &connection).await
                }
            },
            shutdown,
        ));
        let mut tasks = vec![listener, definitions, policies, aggregation, feeder, compactor];
        tasks.extend(followed.into_iter().chain(following));
        Ok(Self {
            inner,
            tasks: Arc::new(Mutex::new(tasks)),
        })
    }

    /// Where the server listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local
    }

    /// Takes renewed certificates, for connections from now on: the one that it serves, with what stands behind it, and its
    /// own towards kubelets and towards extension servers.
    pub fn renew(
        &self,
        serving: &CertificateAndKey,
        kubelet_client: &CertificateAndKey,
        proxy_client: &CertificateAndKey,
    ) -> Result<(), keelson_pki::Error> {
        let (leaf, _issuers) = chain(serving)?;
        let (front_proxy, _) = chain(proxy_client)?;
        self.inner.serving.replace(&leaf)?;
        if let (Some(kubelets), Some(config)) = (&self.inner.kubelets, &self.inner.config.kubelet_client) {
            let mut config = config.clone();
            config.identity = kubelet_client.clone();
            kubelets.renew(&config)?;
        }
        self.inner.aggregator.renew(front_proxy);
        Ok(())
    }

    /// In-process read access to everything stored.
    pub fn resources(&self) -> &Resources {
        self.inner.registry.resources()
    }

    /// The registry: writes without authorization; for the server's own parts.
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// A transport inside the process for one identity; requests are authorized and admitted as on the wire.
    pub fn local_service(&self, user: UserInfo) -> LocalService {
        LocalService::new(self.inner.clone(), user)
    }

    /// Serves a group version by an extension server inside this process, and makes its APIService unless there is one.
    pub async fn serve_locally(&self, api: LocalApi) -> Result<(), Status> {
        aggregation::register(&self.inner, api).await
    }

    /// Stops listening, ends watches and streams, lets running requests finish, and returns when all is over. The store
    /// stays open: it belongs to the caller.
    pub async fn shutdown(&self) {
        self.inner.shutdown.cancel();
        self.inner.streams.close();
        self.inner.streams.wait().await;
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the API server failed");
            }
        }
        if let Some(audit) = &self.inner.audit {
            audit.close().await;
        }
    }
}

/// Forgets history that is older than one to two intervals, as upstream's compactor does.
async fn compact(store: Arc<dyn Store>, shutdown: CancellationToken) {
    let mut earlier: Option<Revision> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(COMPACTION_INTERVAL) => {}
        }
        if let Some(revision) = earlier
            && let Err(error) = store.compact(revision).await
        {
            tracing::warn!(%error, "compaction failed; trying again at the next interval");
        }
        earlier = store.revision().await.ok();
    }
}

async fn prepare(
    config: &ApiServerConfig,
    registry: &Registry,
    port: u16,
    connections: &Connections,
) -> Result<Definitions, StartError> {
    let allocator = ServiceAllocator::new(config);
    allocator.repair(registry).await?;
    let cidrs: Vec<String> = config.service_cidrs.iter().map(ToString::to_string).collect();
    masters::defaults(registry, &cidrs).await?;
    if let Some(ip) = allocator.kubernetes_ip() {
        masters::kubernetes_service(registry, ip, config.advertise_address, port).await?;
    }
    bootstrap::run(config, registry).await?;
    registry.resources().caches().wait_until_current().await?;
    let mut definitions = Definitions::new(registry, connections);
    if let Err(error) = definitions.pass().await {
        // It is tried again, and one definition must not keep the server from starting.
        tracing::error!(%error, "custom resource definitions could not be brought into effect");
    }
    Ok(definitions)
}

fn acceptor(config: &ApiServerConfig) -> Result<(TlsAcceptor, Arc<ServingCertificate>), StartError> {
    let (leaf, issuers) = chain(&config.serving)?;
    let cas = Certificate::all_from_pem(&String::from_utf8_lossy(&config.client_ca_pem))?;
    let hints: Vec<&Certificate> = cas.iter().collect();
    let serving = ServingCertificate::with_chain(&leaf, &issuers)?;
    let tls = keelson_pki::tls::server_config(serving.clone(), &hints)?;
    Ok((TlsAcceptor::from(Arc::new(tls)), serving))
}

/// The certificate that comes first, and those behind it.
fn chain(files: &CertificateAndKey) -> Result<(Leaf, Vec<Certificate>), keelson_pki::Error> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut chain = Certificate::all_from_pem(&text(&files.certificate_pem))?;
    let issuers = chain.split_off(chain.len().min(1));
    let certificate = match chain.pop() {
        Some(certificate) => certificate,
        None => Certificate::from_pem(&text(&files.certificate_pem))?,
    };
    let key = PrivateKey::from_pem(&text(&files.key_pem))?;
    Ok((Leaf { certificate, key }, issuers))
}
