//! VolumeRestrictions: a claim with access mode ReadWriteOncePod is used by one pod at a time.
//!
//! Left out on purpose: upstream's restrictions of in-tree cloud disks, which no longer exist as such.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use keelson_client::NamespacedName;

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{
    ClusterEvent, CycleState, FilterPlugin, Framework, Handle, Lister, Outcome, Plugin, PreFilter,
    PreFilterPlugin, QueueingHint, Status,
};

/// The claims of the pod that nobody else may use, on any node.
#[derive(Clone)]
struct Exclusive {
    names: Vec<String>,
    /// How many other pods use one of them.
    users: i64,
}

impl Exclusive {
    fn uses(&self, pod: &PodInfo, other: &PodInfo) -> bool {
        other.key.namespace == pod.key.namespace
            && claim_names(other).any(|name| self.names.iter().any(|own| own == name))
    }
}

struct VolumeRestrictions {
    claims: Arc<dyn Lister<PersistentVolumeClaim>>,
}

pub(super) fn register(framework: &mut Framework, handle: &Handle) {
    let plugin = Arc::new(VolumeRestrictions {
        claims: handle.listers.claims.clone(),
    });
    framework.pre_filter(&plugin).filter(&plugin);
}

fn claim_names(pod: &PodInfo) -> impl Iterator<Item = &str> {
    let volumes = pod
        .spec()
        .and_then(|spec| spec.volumes.as_deref())
        .unwrap_or_default();
    volumes
        .iter()
        .filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.as_str()))
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn queueing_hint(&self, pod: &PodInfo, event: &ClusterEvent) -> QueueingHint {
        QueueingHint::queue_if(match event {
            ClusterEvent::AssignedPodDeleted(gone) => {
                gone.key.namespace == pod.key.namespace
                    && claim_names(gone).any(|name| claim_names(pod).any(|own| own == name))
            }
            ClusterEvent::ClaimChanged(claim) => {
                claim.metadata.namespace.as_deref() == Some(&*pod.key.namespace)
                    && claim_names(pod).any(|name| claim.metadata.name.as_deref() == Some(name))
            }
            _ => false,
        })
    }
}

impl PreFilterPlugin for VolumeRestrictions {
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<PreFilter, Status> {
        let exclusive = |name: &&str| {
            let claim = self.claims.get(&NamespacedName::new(&pod.key.namespace, name));
            let modes = claim
                .as_ref()
                .and_then(|claim| claim.spec.as_ref()?.access_modes.as_ref());
            modes.is_some_and(|modes| modes.iter().any(|mode| mode == "ReadWriteOncePod"))
        };
        let names: Vec<String> = claim_names(pod).filter(exclusive).map(str::to_owned).collect();
        if names.is_empty() {
            return Err(Status::skip());
        }
        let mut exclusive = Exclusive { names, users: 0 };
        for other in snapshot.nodes.iter().flat_map(|node| &node.pods) {
            exclusive.users += i64::from(exclusive.uses(pod, other));
        }
        state.write(exclusive);
        Ok(PreFilter::All)
    }

    fn add_pod(&self, state: &mut CycleState, pod: &PodInfo, added: &PodInfo, _node: &NodeInfo) {
        if let Some(exclusive) = state.get_mut::<Exclusive>() {
            exclusive.users += i64::from(exclusive.uses(pod, added));
        }
    }

    fn remove_pod(&self, state: &mut CycleState, pod: &PodInfo, removed: &PodInfo, _node: &NodeInfo) {
        if let Some(exclusive) = state.get_mut::<Exclusive>() {
            exclusive.users -= i64::from(exclusive.uses(pod, removed));
        }
    }
}

impl FilterPlugin for VolumeRestrictions {
    fn filter(&self, state: &CycleState, _pod: &PodInfo, _node: &NodeInfo) -> Outcome {
        if state
            .get::<Exclusive>()
            .is_some_and(|exclusive| exclusive.users > 0)
        {
            let reason = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
            return Err(Status::unschedulable(reason));
        }
        Ok(())
    }
}
