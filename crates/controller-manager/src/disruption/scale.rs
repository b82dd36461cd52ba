//! How many pods the controllers of a set of pods want.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use keelson_client::{Index, Informer, NamespacedName, WorkQueue};
use kube::Client;

use crate::served::Served;
use crate::shared::Object;
use crate::shared::owner::{controller_of, name, namespace, uid};
use crate::shared::{ReconcileError, api_error};

/// Controllers of pods and their sizes.
pub(super) struct Scales {
    pub(super) client: Client,
    pub(super) replica_sets: Informer<ReplicaSet>,
    pub(super) deployments: Informer<Deployment>,
    pub(super) stateful_sets: Informer<StatefulSet>,
    pub(super) replication_controllers: Informer<ReplicationController>,
}

/// UID and wanted size of a controller.
type Scale = (String, i32);

impl Scales {
    pub(super) async fn synced(&self) {
        tokio::join!(
            self.replica_sets.synced(),
            self.deployments.synced(),
            self.stateful_sets.synced(),
            self.replication_controllers.synced()
        );
    }

    /// Queues the budgets of a namespace in which the size of a controller changes.
    pub(super) fn on_change(
        &self,
        queue: &WorkQueue<NamespacedName>,
        budgets: &Index<String, PodDisruptionBudget>,
    ) {
        watch(&self.replica_sets, queue, budgets, |set| {
            set.spec.as_ref().and_then(|spec| spec.replicas)
        });
        watch(&self.deployments, queue, budgets, |set| {
            set.spec.as_ref().and_then(|spec| spec.replicas)
        });
        watch(&self.stateful_sets, queue, budgets, |set| {
            set.spec.as_ref().and_then(|spec| spec.replicas)
        });
        watch(&self.replication_controllers, queue, budgets, |set| {
            set.spec.as_ref().and_then(|spec| spec.replicas)
        });
    }

    /// The sum over the controllers of `pods`, each once. A pod without a controller is an error, as upstream has it.
    pub(super) async fn expected(&self, pods: &[&Pod]) -> Result<i32, ReconcileError> {
        let mut sizes: HashMap<String, i32> = HashMap::new();
        for pod in pods {
            let Some(controller) = controller_of(&pod.metadata) else {
                continue;
            };
            if sizes.contains_key(&controller.uid) {
                continue;
            }
            if let Some((owner, size)) = self.scale_of(namespace(*pod), controller).await? {
                sizes.insert(owner, size);
            }
        }
        Ok(sizes.values().sum())
    }

    async fn scale_of(
        &self,
        namespace: &str,
        controller: &OwnerReference,
    ) -> Result<Option<Scale>, ReconcileError> {
        let key = NamespacedName::new(namespace, &controller.name);
        let group = controller
            .api_version
            .split_once('/')
            .map_or("", |(group, _)| group);
        let known = match (group, controller.kind.as_str()) {
            ("apps", "ReplicaSet") => {
                let Some(set) = same(&self.replica_sets, &key, &controller.uid) else {
                    return Ok(None);
                };
                let deployment = controller_of(&set.metadata)
                    .filter(|owner| owner.kind == "Deployment")
                    .and_then(|owner| {
                        same(
                            &self.deployments,
                            &NamespacedName::new(namespace, &owner.name),
                            &owner.uid,
                        )
                    });
                let replicas = match &deployment {
                    Some(deployment) => deployment.spec.as_ref().and_then(|spec| spec.replicas),
                    None => set.spec.as_ref().and_then(|spec| spec.replicas),
                };
                let owner = deployment.map_or_else(
                    || uid(set.as_ref()).to_owned(),
                    |found| uid(found.as_ref()).to_owned(),
                );
                return Ok(Some((owner, replicas.unwrap_or(1))));
            }
            ("apps", "StatefulSet") => same(&self.stateful_sets, &key, &controller.uid)
                .map(|set| set.spec.as_ref().and_then(|spec| spec.replicas)),
            ("", "ReplicationController") => same(&self.replication_controllers, &key, &controller.uid)
                .map(|set| set.spec.as_ref().and_then(|spec| spec.replicas)),
            _ => return self.by_subresource(namespace, controller).await,
        };
        Ok(known.map(|replicas| (controller.uid.clone(), replicas.unwrap_or(1))))
    }

    async fn by_subresource(
        &self,
        namespace: &str,
        controller: &OwnerReference,
    ) -> Result<Option<Scale>, ReconcileError> {
        let served = Served::discover(&self.client).await?;
        let Some(resource) = served.of_kind(&controller.api_version, &controller.kind) else {
            let (kind, version) = (&controller.kind, &controller.api_version);
            return Err(ReconcileError::Invalid(format!(
                "no matches for kind {kind:?} in version {version:?}"
            )));
        };
        let api = resource.objects(&self.client, if resource.namespaced { namespace } else { "" });
        match api.get_scale(&controller.name).await {
            Ok(scale) => {
                let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
                let same = scale.metadata.uid.as_deref() == Some(controller.uid.as_str());
                Ok(same.then(|| (controller.uid.clone(), replicas)))
            }
            Err(error) if !api_error::is_not_found(&error) => Err(error.into()),
            Err(_) if api.get_metadata_opt(&controller.name).await?.is_none() => Ok(None),
            Err(_) => {
                let what = resource.group_resource();
                Err(ReconcileError::Invalid(format!(
                    "{what} does not implement the scale subresource"
                )))
            }
        }
    }
}

fn same<K: Object>(informer: &Informer<K>, key: &NamespacedName, wanted: &str) -> Option<Arc<K>> {
    informer
        .get(key)
        .filter(|found| uid(found.as_ref()) == wanted && !name(found.as_ref()).is_empty())
}

fn watch<K: Object>(
    informer: &Informer<K>,
    queue: &WorkQueue<NamespacedName>,
    budgets: &Index<String, PodDisruptionBudget>,
    replicas: fn(&K) -> Option<i32>,
) {
    let (queue, budgets) = (queue.clone(), budgets.clone());
    informer.on_change(move |change| {
        if matches!(change, keelson_client::Change::Updated(old, new) if replicas(old) == replicas(new)) {
            return;
        }
        for budget in budgets.get(namespace(change.object().as_ref())) {
            queue.add(NamespacedName::of(budget.as_ref()));
        }
    });
}
