//! ephemeral-volume-controller: makes the claims of pods' generic ephemeral volumes. Their deletion is the garbage
//! collector's: the pod owns them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimTemplate, Pod, Volume};
use keelson_client::{
    Change, EventRecorder, EventType, Index, Informer, NamespacedName, Reconciled, WorkQueue,
    object_reference,
};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::Context;
use crate::shared::owner::{controller_reference, is_controlled_by, is_deleting, name, namespace, uid};
use crate::shared::{ReconcileError, api_error};

/// `--concurrent-ephemeralvolume-syncs`.
const WORKERS: usize = 5;
/// Source of the events.
const COMPONENT: &str = "ephemeral_volume";

struct Syncer {
    client: Client,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    recorder: EventRecorder,
}

/// The pod's ephemeral volumes with their templates.
fn templates(pod: &Pod) -> impl Iterator<Item = (&Volume, &PersistentVolumeClaimTemplate)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| {
        let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
        Some((volume, template))
    })
}

fn claim_name(pod: &Pod, volume: &Volume) -> String {
    format!("{}-{}", name(pod), volume.name)
}

fn needs_claims(pod: &Pod) -> bool {
    !is_deleting(pod) && templates(pod).next().is_some()
}

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let pods = context.informer::<Pod>();
    let claims = context.informer::<PersistentVolumeClaim>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let by_claim: Index<NamespacedName, Pod> = pods.index(|pod: &Pod| {
        let names = templates(pod).map(|(volume, _)| claim_name(pod, volume));
        names
            .map(|claim| NamespacedName::new(namespace(pod), claim))
            .collect()
    });
    let sink = queue.clone();
    pods.on_change(move |change| {
        // What a pod's volumes are never changes.
        if let Change::Added(pod) = change
            && needs_claims(pod)
        {
            sink.add(NamespacedName::of(pod.as_ref()));
        }
    });
    let sink = queue.clone();
    claims.on_change(move |change| {
        if let Change::Deleted(claim) = change {
            let users = by_claim.get(&NamespacedName::of(claim.as_ref()));
            users
                .iter()
                .for_each(|pod| sink.add(NamespacedName::of(pod.as_ref())));
        }
    });
    let syncer = Arc::new(Syncer {
        client: context.client(),
        pods: pods.clone(),
        claims: claims.clone(),
        recorder: context.recorder(COMPONENT),
    });
    let ready = async {
        tokio::join!(pods.synced(), claims.synced());
    };
    context
        .work_after(ready, queue, WORKERS, syncer, |syncer, key| async move {
            syncer.sync(&key).await
        })
        .await;
}

impl Syncer {
    async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let Some(pod) = self.pods.get(key).filter(|pod| needs_claims(pod)) else {
            return Ok(Reconciled::Done);
        };
        for (volume, template) in templates(&pod) {
            if let Err(error) = self.provide(&pod, volume, template).await {
                let message = format!("ephemeral volume {}: {error}", volume.name);
                let reference = object_reference(pod.as_ref());
                self.recorder
                    .event(&reference, EventType::Warning, "FailedBinding", message);
                return Err(error);
            }
        }
        Ok(Reconciled::Done)
    }

    async fn provide(
        &self,
        pod: &Pod,
        volume: &Volume,
        template: &PersistentVolumeClaimTemplate,
    ) -> Result<(), ReconcileError> {
        let claim = claim_name(pod, volume);
        if let Some(found) = self.claims.get(&NamespacedName::new(namespace(pod), &claim)) {
            return if is_controlled_by(&found.metadata, uid(pod)) {
                Ok(())
            } else {
                let message = format!(
                    "PVC {}/{claim} was not created for pod {}/{} (pod is not owner)",
                    namespace(pod),
                    namespace(pod),
                    name(pod)
                );
                Err(ReconcileError::Invalid(message))
            };
        }
        let wanted = new_claim(pod, &claim, template);
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace(pod));
        match api.create(&PostParams::default(), &wanted).await {
            Ok(_) => Ok(()),
            Err(error) if api_error::is_namespace_terminating(&error) => Ok(()),
            // The cache shows it soon, and whose it is.
            Err(error) if api_error::is_already_exists(&error) => Err(error.into()),
            Err(error) => {
                let message = format!("create PVC {claim}: {}", api_error::message(&error));
                Err(ReconcileError::Retry(message))
            }
        }
    }
}

fn new_claim(pod: &Pod, claim: &str, template: &PersistentVolumeClaimTemplate) -> PersistentVolumeClaim {
    let meta = template.metadata.clone().unwrap_or_default();
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    }
}
