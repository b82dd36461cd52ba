//! Where a control plane keeps its objects: the embedded store, or etcd.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use keelson_store::embedded::{EmbeddedStore, Options};
use keelson_store::etcd::{EtcdOptions, EtcdStore, EtcdTls};
use keelson_store::{Error, Store};
use serde::{Deserialize, Serialize};

use crate::paths::Paths;
use crate::settings::ClusterSettings;

/// The etcd that a cluster keeps its objects in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdSettings {
    /// URLs of the members' client ports.
    pub servers: Vec<String>,
    /// The authority of the members' certificates, for `https` URLs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The certificate that etcd knows us by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

impl EtcdSettings {
    /// As the store takes them.
    fn options(&self) -> EtcdOptions {
        let mut options = EtcdOptions::new(&self.servers);
        options.tls = self.ca_file.as_ref().map(|ca_file| EtcdTls {
            ca_file: ca_file.clone(),
            identity: self.cert_file.clone().zip(self.key_file.clone()),
        });
        options
    }
}

/// A backend that is not open yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The embedded store in this directory.
    Embedded(PathBuf),
    /// This etcd.
    Etcd(EtcdSettings),
}

/// `the embedded store in DIR` or `etcd at URL, URL`.
impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(path) => write!(f, "the embedded store in {}", path.display()),
            Self::Etcd(etcd) => write!(f, "etcd at {}", etcd.servers.join(", ")),
        }
    }
}

/// An open store. [`OpenStore::close`] shuts it down in order.
pub enum OpenStore {
    /// The embedded one.
    Embedded(Arc<EmbeddedStore>),
    /// One in etcd.
    Etcd(EtcdStore),
}

impl Backend {
    /// The backend in `etcd`, or the embedded one of the cluster in `paths`.
    pub fn new(etcd: Option<EtcdSettings>, paths: &Paths) -> Self {
        match etcd {
            Some(etcd) => Self::Etcd(etcd),
            None => Self::Embedded(paths.store()),
        }
    }

    /// The backend of a cluster.
    pub fn of(settings: &ClusterSettings, paths: &Paths) -> Self {
        Self::new(settings.etcd.clone(), paths)
    }

    /// `embedded` or `etcd`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Embedded(_) => "embedded",
            Self::Etcd(_) => "etcd",
        }
    }

    /// Opens the store; the embedded one reads all of its data, off the runtime's threads.
    pub async fn open(&self) -> Result<OpenStore, Error> {
        match self {
            Self::Embedded(path) => {
                let path = path.clone();
                let opened =
                    tokio::task::spawn_blocking(move || EmbeddedStore::open(path, Options::default())).await;
                let opened = opened.map_err(|panic| Error::Backend {
                    operation: "open",
                    source: Box::new(panic),
                })?;
                opened.map(OpenStore::Embedded)
            }
            Self::Etcd(etcd) => EtcdStore::open(&etcd.options()).await.map(OpenStore::Etcd),
        }
    }
}

/// Connects to an etcd that shall be filled: it may hold a part of what it shall become.
pub(crate) async fn connect(etcd: &EtcdSettings) -> Result<EtcdStore, Error> {
    EtcdStore::connect(&etcd.options()).await
}

impl OpenStore {
    /// The store, for who reads and writes it.
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Embedded(store) => store.clone(),
            Self::Etcd(store) => Arc::new(store.clone()),
        }
    }

    /// Ends watches, finishes what is queued, lets go of files and connections.
    pub async fn close(self) {
        match self {
            Self::Embedded(store) => store.close().await,
            Self::Etcd(store) => store.close().await,
        }
    }
}
