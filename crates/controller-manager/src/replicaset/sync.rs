//! The reconciliation of one set.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSetStatus;
use k8s_openapi::api::core::v1::Pod;
use keelson_client::{Index, Informer, NamespacedName, Reconciled};
use kube::Api;
use kube::api::PostParams;

use super::kind::Replicated;
use super::status::{self, Failure, Observation};
use crate::shared::expectations::{Expectations, TIMEOUT};
use crate::shared::owner::{OwnerKey, claim_owned, controller_of, is_deleting, name, namespace, uid};
use crate::shared::pod::{from_template, is_active, next_availability};
use crate::shared::pod_control::{PodControl, slow_start};
use crate::shared::pod_rank::pods_to_delete;
use crate::shared::{ReconcileError, api_error};

/// Most pods that one reconciliation creates or deletes.
const BURST: usize = 500;

pub(super) struct Syncer<O> {
    pub(super) pods: PodControl,
    pub(super) sets: Informer<O>,
    pub(super) sets_by_owner: Index<OwnerKey, O>,
    pub(super) pods_by_owner: Index<OwnerKey, Pod>,
    pub(super) expectations: Arc<Expectations>,
}

/// What to do about the number of pods.
#[derive(Debug, PartialEq, Eq)]
enum Scale {
    Nothing,
    Create(usize),
    Delete(usize),
}

fn decide(active: usize, replicas: i32) -> Scale {
    let wanted = usize::try_from(replicas).unwrap_or(0);
    match wanted.checked_sub(active) {
        Some(0) => Scale::Nothing,
        Some(missing) => Scale::Create(missing.min(BURST)),
        None => Scale::Delete((active - wanted).min(BURST)),
    }
}

impl<O: Replicated> Syncer<O> {
    pub(super) async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let Some(set) = self.sets.get(key) else {
            return Ok(Reconciled::Done);
        };
        let selector = set.selector()?;
        let quiet = self.expectations.satisfied(uid(set.as_ref()));
        let client = self.pods.client();
        let owned = claim_owned(client, set.as_ref(), &selector, &self.pods_by_owner, None).await?;
        let outcome = if quiet && !is_deleting(set.as_ref()) {
            let active: Vec<_> = owned.iter().filter(|pod| is_active(pod)).cloned().collect();
            self.scale(set.as_ref(), active).await
        } else {
            Ok(())
        };
        let (failure, result) = match outcome {
            Ok(()) => (None, Ok(())),
            Err((reason, error)) => {
                let failure = Failure {
                    reason,
                    message: api_error::message(&error),
                };
                (Some(failure), Err(error))
            }
        };
        let now = Timestamp::now();
        let old = set.status();
        let new = status::compute(
            &old,
            &Observation {
                pods: &owned,
                template: set.template(),
                min_ready_seconds: set.min_ready_seconds(),
                generation: set.meta().generation,
                failure,
                now,
            },
        );
        self.write_status(set.as_ref(), &old, new).await?;
        result?;
        let pods = owned.iter().map(Arc::as_ref).filter(|pod| is_active(pod));
        let wait = next_availability(pods, set.min_ready_seconds(), now);
        let wait = if quiet {
            wait
        } else {
            Some(wait.map_or(TIMEOUT, |wait| wait.min(TIMEOUT)))
        };
        Ok(wait.map_or(Reconciled::Done, Reconciled::After))
    }

    async fn scale(&self, set: &O, active: Vec<Arc<Pod>>) -> Result<(), (&'static str, kube::Error)> {
        match decide(active.len(), set.replicas()) {
            Scale::Nothing => Ok(()),
            Scale::Create(count) => self
                .create(set, count)
                .await
                .map_err(|error| ("FailedCreate", error)),
            Scale::Delete(count) => {
                let related = self.related(set, &active);
                let victims = pods_to_delete(active, &related, count, Timestamp::now());
                self.delete(set, victims)
                    .await
                    .map_err(|error| ("FailedDelete", error))
            }
        }
    }

    async fn create(&self, set: &O, count: usize) -> Result<(), kube::Error> {
        let Some(template) = set.template() else {
            return Ok(());
        };
        let owner = uid(set);
        self.expectations.expect_creations(owner, count);
        let pod = from_template(template, set);
        let batch = slow_start(vec![&pod; count], |pod| async move {
            match self.pods.create(set, pod).await {
                Ok(_) => Ok(()),
                Err(error) => {
                    self.expectations.creation_observed(owner);
                    Err(error)
                }
            }
        })
        .await;
        self.expectations.creations_skipped(owner, batch.skipped);
        match batch.error {
            Some(error) if !api_error::is_namespace_terminating(&error) => Err(error),
            _ => Ok(()),
        }
    }

    async fn delete(&self, set: &O, victims: Vec<Arc<Pod>>) -> Result<(), kube::Error> {
        let owner = uid(set);
        self.expectations
            .expect_deletions(owner, victims.iter().map(|pod| uid(pod.as_ref()).to_owned()));
        let deletions = victims.iter().map(async |pod| {
            let result = self.pods.delete(set, pod).await;
            if result.is_err() {
                self.expectations.deletion_observed(owner, uid(pod.as_ref()));
            }
            result
        });
        futures::future::join_all(deletions).await.into_iter().collect()
    }

    /// The pods of all sets that have the same owner, e.g. all revisions of one Deployment.
    fn related(&self, set: &O, own: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(owner) = controller_of(set.meta()) else {
            return own.to_vec();
        };
        let siblings = self.sets_by_owner.get(&OwnerKey::Controller(owner.uid.clone()));
        let of = |sibling: &Arc<O>| {
            self.pods_by_owner
                .get(&OwnerKey::Controller(uid(sibling.as_ref()).to_owned()))
        };
        siblings.iter().flat_map(of).collect()
    }

    async fn write_status(
        &self,
        set: &O,
        old: &ReplicaSetStatus,
        new: ReplicaSetStatus,
    ) -> Result<(), kube::Error> {
        let mut set = set.clone();
        set.set_status(new);
        if set.status() == *old {
            return Ok(());
        }
        let api = Api::<O>::namespaced(self.pods.client().clone(), namespace(&set));
        match api.replace_status(name(&set), &PostParams::default(), &set).await {
            // A newer state is on its way to the cache, and brings the key back.
            Err(error) if api_error::is_conflict(&error) || api_error::is_not_found(&error) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions() {
        assert_eq!(decide(0, 3), Scale::Create(3));
        assert_eq!(decide(3, 3), Scale::Nothing);
        assert_eq!(decide(5, 3), Scale::Delete(2));
        assert_eq!(decide(2, -1), Scale::Delete(2));
        assert_eq!(decide(0, 10_000), Scale::Create(500));
        assert_eq!(decide(10_000, 0), Scale::Delete(500));
    }
}
