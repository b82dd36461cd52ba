//! The reconciliation of one Deployment.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use keelson_client::{
    EventRecorder, EventType, Index, Informer, NamespacedName, Reconciled, object_reference,
};
use kube::Client;

use super::rollout::Rollout;
use super::spec::{Wanted, replicas};
use super::{revision, status};
use crate::shared::owner::{OwnerKey, claim_owned, is_deleting, name, uid};
use crate::shared::{ReconcileError, api_error, selector};

pub(super) struct Syncer {
    pub(super) client: Client,
    pub(super) recorder: EventRecorder,
    pub(super) deployments: Informer<Deployment>,
    pub(super) sets_by_owner: Index<OwnerKey, ReplicaSet>,
    pub(super) pods_by_owner: Index<OwnerKey, Pod>,
}

impl Syncer {
    pub(super) async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let Some(cached) = self.deployments.get(key) else {
            return Ok(Reconciled::Done);
        };
        let deployment = Deployment::clone(&cached);
        match self.reconcile(deployment).await {
            // A newer state is on its way to the cache and brings the key back, but a conflict may also stem from a set.
            Err(ReconcileError::Api(error)) if api_error::is_conflict(&error) => {
                Err(ReconcileError::Retry(api_error::message(&error)))
            }
            // In a namespace that is being deleted nothing more can come of it.
            Err(ReconcileError::Api(error)) if api_error::is_namespace_terminating(&error) => {
                Ok(Reconciled::Done)
            }
            other => other,
        }
    }

    async fn reconcile(&self, deployment: Deployment) -> Result<Reconciled, ReconcileError> {
        let Some(spec) = deployment.spec.as_ref() else {
            return Ok(Reconciled::Done);
        };
        let selector = selector::parse(&spec.selector)?;
        if selector.is_everything() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.event(
                &object_reference(&deployment),
                EventType::Warning,
                "SelectingAll",
                message,
            );
            return Ok(Reconciled::Done);
        }
        let sets = claim_owned(&self.client, &deployment, &selector, &self.sets_by_owner, None).await?;
        let mut sets: Vec<_> = sets.iter().map(|set| ReplicaSet::clone(set)).collect();
        sets.sort_by_key(|set| {
            (
                set.metadata.creation_timestamp.as_ref().map(|time| time.0),
                name(set).to_owned(),
            )
        });
        let new = revision::find_new(&deployment, &sets).cloned();
        let new_uid = new.as_ref().map(uid);
        let old = sets
            .iter()
            .filter(|set| Some(uid(*set)) != new_uid)
            .cloned()
            .collect();
        let wanted = Wanted::of(&deployment);
        let mut rollout = Rollout {
            client: self.client.clone(),
            recorder: self.recorder.clone(),
            deployment,
            wanted,
            new,
            old,
        };
        self.steer(&mut rollout).await?;
        let now = Timestamp::now();
        let deployment = &rollout.deployment;
        let status = deployment.status.clone().unwrap_or_default();
        let wait = if wanted.paused {
            None
        } else {
            status::next_check(deployment, &wanted, &status, now)
        };
        Ok(wait.map_or(Reconciled::Done, Reconciled::After))
    }

    async fn steer(&self, rollout: &mut Rollout) -> Result<(), ReconcileError> {
        let wanted = rollout.wanted;
        if is_deleting(&rollout.deployment) {
            return Ok(self.sync_status(rollout).await?);
        }
        note_pause(rollout).await?;
        if wanted.paused {
            rollout.ensure_new(false).await?;
            rollout.scale().await?;
            rollout.clean_up().await?;
            return Ok(self.sync_status(rollout).await?);
        }
        if rollout.is_scaling() {
            rollout.ensure_new(false).await?;
            rollout.scale().await?;
            return Ok(self.sync_status(rollout).await?);
        }
        if wanted.recreate {
            self.recreate(rollout).await
        } else {
            self.roll(rollout).await
        }
    }

    async fn roll(&self, rollout: &mut Rollout) -> Result<(), ReconcileError> {
        rollout.ensure_new(true).await?;
        if !rollout.roll().await? {
            self.clean_up_when_complete(rollout).await?;
        }
        self.sync_rollout(rollout).await
    }

    async fn recreate(&self, rollout: &mut Rollout) -> Result<(), ReconcileError> {
        rollout.ensure_new(false).await?;
        let none = vec![0; rollout.old.len()];
        if rollout.old.iter().any(|set| replicas(set) > 0) && rollout.scale_old(&none).await? {
            return self.sync_rollout(rollout).await;
        }
        if rollout.old_pods_running(&self.pods_by_owner) {
            return self.sync_rollout(rollout).await;
        }
        rollout.ensure_new(true).await?;
        rollout.scale_new(rollout.wanted.replicas).await?;
        self.clean_up_when_complete(rollout).await?;
        self.sync_rollout(rollout).await
    }

    async fn clean_up_when_complete(&self, rollout: &Rollout) -> Result<(), kube::Error> {
        let status = rollout.deployment.status.clone().unwrap_or_default();
        if status::complete(&rollout.deployment, &rollout.wanted, &status) {
            rollout.clean_up().await?;
        }
        Ok(())
    }

    async fn sync_status(&self, rollout: &mut Rollout) -> Result<(), kube::Error> {
        let (all, new, now) = (rollout.all(), rollout.new.clone(), Timestamp::now());
        let status = status::calculate(&rollout.deployment, &rollout.wanted, &all, new.as_ref(), now);
        rollout.write_status(status).await
    }

    async fn sync_rollout(&self, rollout: &mut Rollout) -> Result<(), ReconcileError> {
        let (all, new, now) = (rollout.all(), rollout.new.clone(), Timestamp::now());
        let status = status::rollout(&rollout.deployment, &rollout.wanted, &all, new.as_ref(), now);
        Ok(rollout.write_status(status).await?)
    }
}

/// Says in the Progressing condition that the rollout was paused or resumed, so that the deadline does not run meanwhile.
async fn note_pause(rollout: &mut Rollout) -> Result<(), kube::Error> {
    if rollout.wanted.progress_deadline_seconds.is_none() {
        return Ok(());
    }
    let status = rollout.deployment.status.get_or_insert_default();
    let reason = status::condition(status, status::PROGRESSING).and_then(|found| found.reason.as_deref());
    if reason == Some(status::TIMED_OUT) {
        return Ok(());
    }
    let (reason, message) = match (rollout.wanted.paused, reason == Some(status::PAUSED)) {
        (true, false) => (status::PAUSED, "Deployment is paused"),
        (false, true) => ("DeploymentResumed", "Deployment is resumed"),
        _ => return Ok(()),
    };
    let noted = status::new_condition(status::PROGRESSING, "Unknown", reason, message, Timestamp::now());
    status::set_condition(status, noted);
    rollout.update_status().await
}
