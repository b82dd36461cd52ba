//! Pods that carry the tracking finalizer but have no Job that could count them.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use keelson_client::{Informer, NamespacedName, Reconciled, WorkQueue};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::status::is_finished;
use super::{FINALIZER, has_finalizer};
use crate::shared::owner::{controller_of, name, namespace, uid};
use crate::shared::{ReconcileError, api_error};

/// Removes their finalizers.
pub(super) struct Orphans {
    pub(super) client: Client,
    pub(super) jobs: Informer<Job>,
    pub(super) pods: Informer<Pod>,
    pub(super) queue: WorkQueue<NamespacedName>,
}

impl Orphans {
    /// Queues the pod if nobody will count it.
    pub(super) fn consider(&self, pod: &Arc<Pod>) {
        // Before the Jobs are known every pod would look like an orphan; it is looked at again when it comes up.
        if has_finalizer(pod) && self.is_orphan(pod) {
            self.queue.add(NamespacedName::of(pod.as_ref()));
        }
    }

    fn is_orphan(&self, pod: &Pod) -> bool {
        let Some(owner) = controller_of(&pod.metadata).filter(|owner| owner.kind == "Job") else {
            return true;
        };
        let job = self.jobs.get(&NamespacedName::new(namespace(pod), &owner.name));
        let job = job.filter(|job| uid(job.as_ref()) == owner.uid);
        job.is_none_or(|job| job.status.as_ref().is_some_and(is_finished))
    }

    /// Removes the finalizer if the pod is still an orphan.
    pub(super) async fn release(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        if let Some(pod) = self
            .pods
            .get(key)
            .filter(|pod| has_finalizer(pod) && self.is_orphan(pod))
        {
            remove_finalizer(&self.client, &pod).await?;
        }
        Ok(Reconciled::Done)
    }
}

/// Removes the tracking finalizer; a pod that is gone is as good.
pub(super) async fn remove_finalizer(client: &Client, pod: &Pod) -> Result<(), kube::Error> {
    let patch = json!({"metadata": {"uid": uid(pod), "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
    let api = Api::<Pod>::namespaced(client.clone(), namespace(pod));
    match api
        .patch(name(pod), &PatchParams::default(), &Patch::Strategic(patch))
        .await
    {
        // A UID that does not fit: another pod has that name by now.
        Err(error)
            if api_error::is_not_found(&error)
                || api_error::is_conflict(&error)
                || api_error::is_invalid(&error) =>
        {
            Ok(())
        }
        other => other.map(|_| ()),
    }
}
