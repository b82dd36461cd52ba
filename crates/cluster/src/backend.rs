//! Where a control plane keeps its objects: the embedded store, or etcd.

use std::path::PathBuf;
use std::sync::Arc;

use keelson_store::embedded::{EmbeddedStore, Options};
use keelson_store::etcd::{EtcdOptions, EtcdStore};
use keelson_store::{Error, Store};

/// A backend that is not open yet.
#[derive(Clone, Debug)]
pub enum Backend {
    /// The embedded store in this directory.
    Embedded(PathBuf),
    /// This etcd.
    Etcd(EtcdOptions),
}

/// An open store. [`OpenStore::close`] shuts it down in order.
pub enum OpenStore {
    /// The embedded one.
    Embedded(Arc<EmbeddedStore>),
    /// One in etcd.
    Etcd(EtcdStore),
}

impl Backend {
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
            Self::Etcd(options) => EtcdStore::open(options).await.map(OpenStore::Etcd),
        }
    }
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
