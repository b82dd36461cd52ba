//! The ConfigMaps and Secrets that pods of this node refer to: each watched on its own as long as a pod refers to it, and
//! nothing else. A change wakes the pods.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, Weak};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use keelson_client::{Informer, InformerOptions, NamespacedName};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::kubelet::Kubelet;

/// An object is not to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{kind} {name:?} not found")]
    NotFound { kind: &'static str, name: String },
    #[error("failed to get {kind} {namespace}/{name}: {source}")]
    Get {
        kind: &'static str,
        namespace: String,
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
}

impl Error {
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

struct Entry<K> {
    informer: Informer<K>,
    /// UIDs of the pods that refer to the object.
    pods: HashSet<String>,
    stop: CancellationToken,
}

struct Cache<K> {
    kind: &'static str,
    entries: Mutex<HashMap<NamespacedName, Entry<K>>>,
}

/// The objects of one kubelet.
pub(crate) struct Objects {
    client: Client,
    kubelet: Weak<Kubelet>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
    config_maps: Cache<ConfigMap>,
    secrets: Cache<Secret>,
}

impl Objects {
    pub(crate) fn new(
        client: Client,
        kubelet: Weak<Kubelet>,
        tracker: TaskTracker,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            client,
            kubelet,
            tracker,
            shutdown,
            config_maps: Cache {
                kind: "configmap",
                entries: Mutex::default(),
            },
            secrets: Cache {
                kind: "secret",
                entries: Mutex::default(),
            },
        })
    }

    /// The ConfigMap, for the pod of that UID, which is woken when it changes.
    pub(crate) async fn config_map(
        &self,
        uid: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<ConfigMap>, Error> {
        self.get(&self.config_maps, uid, namespace, name).await
    }

    /// The Secret, likewise.
    pub(crate) async fn secret(&self, uid: &str, namespace: &str, name: &str) -> Result<Arc<Secret>, Error> {
        self.get(&self.secrets, uid, namespace, name).await
    }

    /// The pod refers to nothing any more.
    pub(crate) fn release(&self, uid: &str) {
        self.config_maps.release(uid);
        self.secrets.release(uid);
    }

    async fn get<K>(&self, cache: &Cache<K>, uid: &str, namespace: &str, name: &str) -> Result<Arc<K>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
    {
        let key = NamespacedName::new(namespace, name);
        let informer = self.watch(cache, uid, &key);
        if informer.has_synced() {
            let missing = || Error::NotFound {
                kind: cache.kind,
                name: name.to_owned(),
            };
            return informer.get(&key).ok_or_else(missing);
        }
        // The first use does not wait for the watch to be up.
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        match api.get_opt(name).await {
            Ok(Some(object)) => Ok(Arc::new(object)),
            Ok(None) => Err(Error::NotFound {
                kind: cache.kind,
                name: name.to_owned(),
            }),
            Err(source) => Err(Error::Get {
                kind: cache.kind,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                source: Box::new(source),
            }),
        }
    }

    fn watch<K>(&self, cache: &Cache<K>, uid: &str, key: &NamespacedName) -> Informer<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
    {
        let mut entries = cache.entries.lock();
        if let Some(entry) = entries.get_mut(key) {
            entry.pods.insert(uid.to_owned());
            return entry.informer.clone();
        }
        let stop = self.shutdown.child_token();
        let options = InformerOptions {
            fields: Some(format!("metadata.name={}", key.name)),
            ..InformerOptions::default()
        };
        let api = Api::<K>::namespaced(self.client.clone(), &key.namespace);
        let informer = Informer::spawn(api, options, &self.tracker, &stop);
        let (kubelet, key_, secrets) = (self.kubelet.clone(), key.clone(), cache.kind == "secret");
        informer.on_change(move |_| {
            if let Some(kubelet) = kubelet.upgrade() {
                let objects = kubelet.objects.clone();
                let pods = if secrets {
                    objects.secrets.pods(&key_)
                } else {
                    objects.config_maps.pods(&key_)
                };
                pods.iter().for_each(|uid| {
                    kubelet.pods.wake(uid);
                });
            }
        });
        let pods = HashSet::from([uid.to_owned()]);
        entries.insert(
            key.clone(),
            Entry {
                informer: informer.clone(),
                pods,
                stop,
            },
        );
        informer
    }
}

impl<K> Cache<K> {
    fn release(&self, uid: &str) {
        self.entries.lock().retain(|_, entry| {
            entry.pods.remove(uid);
            if entry.pods.is_empty() {
                entry.stop.cancel();
            }
            !entry.pods.is_empty()
        });
    }

    fn pods(&self, key: &NamespacedName) -> Vec<String> {
        self.entries
            .lock()
            .get(key)
            .map(|entry| entry.pods.iter().cloned().collect())
            .unwrap_or_default()
    }
}
