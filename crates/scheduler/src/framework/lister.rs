//! Read access to what informers hold; a trait so that plugins can be tested with fixed objects.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Namespace, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use keelson_client::{Index, Informer, NamespacedName};
use kube::Resource;
use serde::de::DeserializeOwned;

/// Objects of a kind by key.
pub(crate) trait Lister<K>: Send + Sync {
    fn get(&self, key: &NamespacedName) -> Option<Arc<K>>;
    fn list(&self) -> Vec<Arc<K>>;
    /// The objects of one namespace.
    fn list_in(&self, namespace: &str) -> Vec<Arc<K>>;
}

impl<K: Resource + Send + Sync + 'static> Lister<K> for Informer<K> {
    fn get(&self, key: &NamespacedName) -> Option<Arc<K>> {
        Informer::get(self, key)
    }

    fn list(&self) -> Vec<Arc<K>> {
        Informer::list(self)
    }

    fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        self.list_where(|object| object.meta().namespace.as_deref() == Some(namespace))
    }
}

/// An informer with an index by namespace.
pub(crate) struct ByNamespace<K> {
    informer: Informer<K>,
    index: Index<String, K>,
}

impl<K> ByNamespace<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    pub(crate) fn new(informer: &Informer<K>) -> Self {
        let index = informer.index(|object: &K| object.meta().namespace.iter().cloned().collect());
        Self {
            informer: informer.clone(),
            index,
        }
    }
}

impl<K: Resource + Send + Sync + 'static> Lister<K> for ByNamespace<K> {
    fn get(&self, key: &NamespacedName) -> Option<Arc<K>> {
        self.informer.get(key)
    }

    fn list(&self) -> Vec<Arc<K>> {
        self.informer.list()
    }

    fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        self.index.get(namespace)
    }
}

/// Everything plugins look up.
#[derive(Clone)]
pub(crate) struct Listers {
    pub(crate) pods: Arc<dyn Lister<Pod>>,
    pub(crate) namespaces: Arc<dyn Lister<Namespace>>,
    pub(crate) services: Arc<dyn Lister<Service>>,
    pub(crate) replication_controllers: Arc<dyn Lister<ReplicationController>>,
    pub(crate) replica_sets: Arc<dyn Lister<ReplicaSet>>,
    pub(crate) stateful_sets: Arc<dyn Lister<StatefulSet>>,
    pub(crate) budgets: Arc<dyn Lister<PodDisruptionBudget>>,
    pub(crate) claims: Arc<dyn Lister<PersistentVolumeClaim>>,
    pub(crate) volumes: Arc<dyn Lister<PersistentVolume>>,
    pub(crate) storage_classes: Arc<dyn Lister<StorageClass>>,
}
