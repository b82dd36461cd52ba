//! VolumeBinding: a pod's claims must exist and be bound, and their volumes must be usable on the node. Claims of classes with
//! WaitForFirstConsumer are bound here: to a matching volume, or by telling the provisioner the node (annotation
//! `volume.kubernetes.io/selected-node`).
//!
//! Left out on purpose: storage capacity tracking (CSIStorageCapacity) and scores by utilization (off by default upstream).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use keelson_client::NamespacedName;
use kube::Api;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;

use super::volume_matching::{allows_node, find_volume, fits_node};
use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{
    ClusterEvent, CycleState, FilterPlugin, Framework, Handle, Outcome, Plugin, PreBindPlugin, PreFilter,
    PreFilterPlugin, QueueingHint, ReservePlugin, Status,
};

const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const BIND_CONFLICT: &str = "node(s) didn't find available persistent volumes to bind";

/// The claims of the pod.
#[derive(Clone)]
struct Claims {
    bound: Vec<Arc<PersistentVolumeClaim>>,
    /// To be bound when the node is known.
    delayed: Vec<(Arc<PersistentVolumeClaim>, Arc<StorageClass>)>,
}

/// What is to be done on the chosen node.
#[derive(Clone, Default)]
struct Decisions {
    bind: Vec<(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>)>,
    provision: Vec<Arc<PersistentVolumeClaim>>,
}

struct VolumeBinding {
    handle: Handle,
    /// Volumes that pods on their way have taken, and for which claim.
    taken: Mutex<HashMap<String, NamespacedName>>,
}

pub(super) fn register(framework: &mut Framework, handle: &Handle) {
    let plugin = Arc::new(VolumeBinding {
        handle: handle.clone(),
        taken: Mutex::default(),
    });
    framework
        .pre_filter(&plugin)
        .filter(&plugin)
        .reserve(&plugin)
        .pre_bind(&plugin);
}

fn name_of(claim: &PersistentVolumeClaim) -> &str {
    claim.metadata.name.as_deref().unwrap_or_default()
}

fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.as_deref())
        .unwrap_or_default()
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let completed = claim.metadata.annotations.as_ref();
    let completed = completed.is_some_and(|all| all.contains_key("pv.kubernetes.io/bind-completed"));
    !volume_name(claim).is_empty() && (completed || phase(claim) == "Bound")
}

/// Names of the pod's claims, and whether each was made for the pod itself.
fn claim_names(pod: &PodInfo) -> Vec<(String, bool)> {
    let volumes = pod
        .spec()
        .and_then(|spec| spec.volumes.as_deref())
        .unwrap_or_default();
    let name = |volume: &k8s_openapi::api::core::v1::Volume| {
        if let Some(claim) = &volume.persistent_volume_claim {
            return Some((claim.claim_name.clone(), false));
        }
        volume
            .ephemeral
            .as_ref()
            .map(|_| (format!("{}-{}", pod.key.name, volume.name), true))
    };
    volumes.iter().filter_map(name).collect()
}

impl VolumeBinding {
    fn claim(&self, pod: &PodInfo, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.handle
            .listers
            .claims
            .get(&NamespacedName::new(&pod.key.namespace, name))
    }

    fn checked_claim(
        &self,
        pod: &PodInfo,
        name: &str,
        own: bool,
    ) -> Result<Arc<PersistentVolumeClaim>, String> {
        let Some(claim) = self.claim(pod, name) else {
            return Err(if own {
                format!(
                    "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                )
            } else {
                format!("persistentvolumeclaim {name:?} not found")
            });
        };
        if phase(&claim) == "Lost" {
            let volume = volume_name(&claim);
            return Err(format!(
                "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
            ));
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
        }
        let mut owners = claim.metadata.owner_references.iter().flatten();
        if own && !owners.any(|owner| owner.uid == *pod.uid) {
            let namespace = &pod.key.namespace;
            let pod = &pod.key.name;
            return Err(format!(
                "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
            ));
        }
        Ok(claim)
    }

    fn class_of(&self, claim: &PersistentVolumeClaim) -> Option<Arc<StorageClass>> {
        let name = claim.spec.as_ref()?.storage_class_name.as_deref()?;
        self.handle
            .listers
            .storage_classes
            .get(&NamespacedName::new("", name))
    }

    /// What would have to be done on the node, or why it will not do.
    fn decide(&self, claims: &Claims, node: &NodeInfo) -> Result<Decisions, Status> {
        for claim in &claims.bound {
            let Some(volume) = self
                .handle
                .listers
                .volumes
                .get(&NamespacedName::new("", volume_name(claim)))
            else {
                let reason = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
                return Err(Status::unresolvable(reason));
            };
            if !fits_node(&volume, node) {
                return Err(Status::unresolvable(
                    "node(s) didn't match PersistentVolume's node affinity",
                ));
            }
        }
        let mut decisions = Decisions::default();
        if claims.delayed.is_empty() {
            return Ok(decisions);
        }
        let volumes = self.handle.listers.volumes.list();
        let taken = self.taken.lock();
        for (claim, class) in &claims.delayed {
            let key = NamespacedName::of(&**claim);
            let free = |volume: &PersistentVolume| {
                let name = volume.metadata.name.as_deref().unwrap_or_default();
                taken.get(name).is_none_or(|by| *by == key)
                    && !decisions
                        .bind
                        .iter()
                        .any(|(_, chosen)| chosen.metadata.name == volume.metadata.name)
            };
            if let Some(volume) = find_volume(claim, &volumes, node, free) {
                decisions.bind.push((claim.clone(), volume));
            } else if class.provisioner != NO_PROVISIONER && allows_node(class, node) {
                decisions.provision.push(claim.clone());
            } else {
                return Err(Status::unresolvable(BIND_CONFLICT));
            }
        }
        Ok(decisions)
    }

    async fn write(&self, decisions: &Decisions, node: &str) -> Result<(), kube::Error> {
        let client = &self.handle.client;
        let params = PatchParams::default();
        for (claim, volume) in &decisions.bind {
            let meta = &claim.metadata;
            let reference = json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": meta.namespace, "name": meta.name, "uid": meta.uid, "resourceVersion": meta.resource_version,
            });
            let patch = json!({
                "metadata": {
                    "resourceVersion": volume.metadata.resource_version,
                    "annotations": {BOUND_BY_CONTROLLER: "yes"},
                },
                "spec": {"claimRef": reference},
            });
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            Api::<PersistentVolume>::all(client.clone())
                .patch(name, &params, &Patch::Merge(patch))
                .await?;
        }
        for claim in &decisions.provision {
            let patch =
                json!({"metadata": {"uid": claim.metadata.uid, "annotations": {SELECTED_NODE: node}}});
            let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
            let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
            api.patch(name_of(claim), &params, &Patch::Merge(patch)).await?;
        }
        Ok(())
    }

    /// Whether all claims are bound by now; an error if one of them will not be.
    fn all_bound(
        &self,
        pod: &PodInfo,
        decisions: &Decisions,
        seen: &mut BTreeMap<String, bool>,
    ) -> Result<bool, Status> {
        let mut all = true;
        for claim in decisions
            .bind
            .iter()
            .map(|(claim, _)| claim)
            .chain(&decisions.provision)
        {
            let name = name_of(claim);
            let Some(now) = self.claim(pod, name) else {
                return Err(Status::error(format!("persistentvolumeclaim {name:?} not found")));
            };
            let selected = now
                .metadata
                .annotations
                .as_ref()
                .is_some_and(|all| all.contains_key(SELECTED_NODE));
            let was_selected = seen.entry(name.to_owned()).or_insert(selected);
            // The provisioner takes the annotation away when it cannot make a volume there.
            if *was_selected && !selected {
                return Err(Status::error(format!("provisioning failed for PVC {name:?}")));
            }
            *was_selected = selected;
            all &= is_bound(&now);
        }
        Ok(all)
    }
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn queueing_hint(&self, pod: &PodInfo, event: &ClusterEvent) -> QueueingHint {
        QueueingHint::queue_if(match event {
            ClusterEvent::ClaimChanged(claim) => {
                claim.metadata.namespace.as_deref() == Some(&*pod.key.namespace)
                    && claim_names(pod).iter().any(|(name, _)| name == name_of(claim))
            }
            ClusterEvent::VolumeChanged | ClusterEvent::StorageClassChanged | ClusterEvent::NodeAdded(_) => {
                true
            }
            ClusterEvent::NodeUpdated { change, .. } => change.labels,
            _ => false,
        })
    }
}

impl PreFilterPlugin for VolumeBinding {
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        _snapshot: &Snapshot,
    ) -> Result<PreFilter, Status> {
        let names = claim_names(pod);
        if names.is_empty() {
            return Err(Status::skip());
        }
        let mut claims = Claims {
            bound: Vec::new(),
            delayed: Vec::new(),
        };
        let mut immediate = false;
        for (name, own) in names {
            let claim = self
                .checked_claim(pod, &name, own)
                .map_err(Status::unresolvable)?;
            if is_bound(&claim) {
                claims.bound.push(claim);
                continue;
            }
            let waits =
                |class: &StorageClass| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
            match self.class_of(&claim) {
                // A claim that names its volume is bound by the volume controller alone.
                Some(class) if waits(&class) && volume_name(&claim).is_empty() => {
                    claims.delayed.push((claim, class))
                }
                _ => immediate = true,
            }
        }
        if immediate {
            return Err(Status::unresolvable(
                "pod has unbound immediate PersistentVolumeClaims",
            ));
        }
        state.write(claims);
        Ok(PreFilter::All)
    }
}

impl FilterPlugin for VolumeBinding {
    fn filter(&self, state: &CycleState, _pod: &PodInfo, node: &NodeInfo) -> Outcome {
        let Some(claims) = state.get::<Claims>() else {
            return Ok(());
        };
        self.decide(claims, node).map(|_| ())
    }
}

impl ReservePlugin for VolumeBinding {
    fn reserve(&self, state: &mut CycleState, _pod: &PodInfo, node: &Arc<NodeInfo>) -> Outcome {
        let Some(claims) = state.get::<Claims>() else {
            return Ok(());
        };
        let decisions = self.decide(claims, node)?;
        let mut taken = self.taken.lock();
        for (claim, volume) in &decisions.bind {
            taken.insert(
                volume.metadata.name.clone().unwrap_or_default(),
                NamespacedName::of(&**claim),
            );
        }
        drop(taken);
        state.write(decisions);
        Ok(())
    }

    fn unreserve(&self, state: &CycleState, _pod: &PodInfo, _node: &str) {
        let Some(decisions) = state.get::<Decisions>() else {
            return;
        };
        let mut taken = self.taken.lock();
        for (_, volume) in &decisions.bind {
            taken.remove(volume.metadata.name.as_deref().unwrap_or_default());
        }
    }
}

#[async_trait]
impl PreBindPlugin for VolumeBinding {
    async fn pre_bind(&self, state: &CycleState, pod: &PodInfo, node: &str) -> Outcome {
        let Some(decisions) = state.get::<Decisions>() else {
            return Ok(());
        };
        if decisions.bind.is_empty() && decisions.provision.is_empty() {
            return Ok(());
        }
        let mut changes = self.handle.claim_changes.subscribe();
        self.write(decisions, node)
            .await
            .map_err(|error| Status::error(error.to_string()))?;
        let deadline = tokio::time::Instant::now() + self.handle.config.bind_timeout;
        let mut seen = decisions
            .provision
            .iter()
            .map(|claim| (name_of(claim).to_owned(), false))
            .collect();
        while !self.all_bound(pod, decisions, &mut seen)? {
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                _ => return Err(Status::error("binding volumes: context deadline exceeded")),
            }
        }
        // From here on the volumes themselves say whose they are.
        self.unreserve(state, pod, node);
        Ok(())
    }
}
