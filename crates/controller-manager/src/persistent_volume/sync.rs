//! One claim, one volume.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keelson_client::{EventRecorder, EventType, Informer, NamespacedName, Reconciled, object_reference};
use kube::api::PostParams;
use kube::{Api, Client};

use super::matching::{best, claim_ref, class_of_claim, refers_to, suits};
use crate::shared::owner::{is_deleting, name, uid};
use crate::shared::pod::annotation;
use crate::shared::{ReconcileError, api_error};

const BOUND_BY: &str = "pv.kubernetes.io/bound-by-controller";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONER: [&str; 2] = [
    "volume.beta.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/storage-provisioner",
];
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

pub(super) struct Syncer {
    pub(super) client: Client,
    pub(super) recorder: EventRecorder,
    pub(super) claims: Informer<PersistentVolumeClaim>,
    pub(super) volumes: Informer<PersistentVolume>,
    pub(super) classes: Informer<StorageClass>,
}

type Outcome = Result<Reconciled, ReconcileError>;

/// Whether the claim has no volume yet.
pub(super) fn is_unbound(claim: &PersistentVolumeClaim) -> bool {
    annotation(claim, BIND_COMPLETED).is_none()
}

fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim
        .spec
        .as_ref()?
        .volume_name
        .as_deref()
        .filter(|name| !name.is_empty())
}

impl Syncer {
    pub(super) async fn claim(&self, key: &NamespacedName) -> Outcome {
        let Some(claim) = self.claims.get(key) else {
            return Ok(Reconciled::Done);
        };
        let named = volume_name(&claim).map(|name| self.volumes.get(&NamespacedName::new("", name)));
        match named {
            Some(None) if !is_unbound(&claim) => {
                let why = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
                self.lose(&claim, "ClaimLost", why).await
            }
            // The volume that it names is to come.
            Some(None) => self.set_phase(&claim, "Pending").await,
            Some(Some(volume)) => match claim_ref(&volume) {
                Some(reference) if refers_to(reference, &claim) => self.bind(&volume, &claim).await,
                Some(_) if is_unbound(&claim) => self.set_phase(&claim, "Pending").await,
                Some(_) => {
                    let why = "Two claims are bound to the same volume, this one is bound incorrectly";
                    self.lose(&claim, "ClaimMisbound", why).await
                }
                None if is_deleting(claim.as_ref()) => Ok(Reconciled::Done),
                None if suits(&volume, &claim) => self.bind(&volume, &claim).await,
                None => {
                    let message = format!(
                        "Cannot bind to requested volume {:?}: it does not match the claim",
                        name(volume.as_ref())
                    );
                    self.event(&claim, EventType::Warning, "VolumeMismatch", &message);
                    self.set_phase(&claim, "Pending").await
                }
            },
            None if is_deleting(claim.as_ref()) => Ok(Reconciled::Done),
            None => match best(&self.volumes.list(), &claim) {
                Some(volume) if !self.must_wait(&claim) || claim_ref(&volume).is_some() => {
                    self.bind(&volume, &claim).await
                }
                _ => self.without_volume(&claim).await,
            },
        }
    }

    fn class(&self, claim: &PersistentVolumeClaim) -> Option<std::sync::Arc<StorageClass>> {
        self.classes.get(&NamespacedName::new("", class_of_claim(claim)))
    }

    /// Whether the scheduler has to choose a node first.
    fn must_wait(&self, claim: &PersistentVolumeClaim) -> bool {
        let late =
            |class: &StorageClass| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
        annotation(claim, SELECTED_NODE).is_none() && self.class(claim).is_some_and(|class| late(&class))
    }

    async fn without_volume(&self, claim: &PersistentVolumeClaim) -> Outcome {
        if self.must_wait(claim) {
            let why = "waiting for first consumer to be created before binding";
            self.event(claim, EventType::Normal, "WaitForFirstConsumer", why);
            return self.set_phase(claim, "Pending").await;
        }
        let class_name = class_of_claim(claim);
        if class_name.is_empty() {
            let why = "no persistent volumes available for this claim and no storage class is set";
            self.event(claim, EventType::Normal, "FailedBinding", why);
            return self.set_phase(claim, "Pending").await;
        }
        let Some(class) = self.class(claim) else {
            let why = format!("storageclass.storage.k8s.io {class_name:?} not found");
            self.event(claim, EventType::Warning, "ProvisioningFailed", &why);
            return self.set_phase(claim, "Pending").await;
        };
        if class.provisioner == NO_PROVISIONER {
            let why = "no persistent volumes available for this claim and no storage class is set";
            self.event(claim, EventType::Normal, "FailedBinding", why);
            return self.set_phase(claim, "Pending").await;
        }
        if PROVISIONER
            .iter()
            .all(|key| annotation(claim, key) == Some(&class.provisioner))
        {
            let why = format!(
                "Waiting for a volume to be created either by the external provisioner '{}' or manually by the system \
                 administrator. If volume creation is delayed, please verify that the provisioner is running and correctly \
                 registered.",
                class.provisioner
            );
            self.event(claim, EventType::Normal, "ExternalProvisioning", &why);
            return self.set_phase(claim, "Pending").await;
        }
        let mut asking = claim.clone();
        let annotations = asking.metadata.annotations.get_or_insert_default();
        annotations.extend(PROVISIONER.map(|key| (key.to_owned(), class.provisioner.clone())));
        // The change brings the claim back.
        api_error::ignore_not_found(
            self.api(claim)
                .replace(name(claim), &PostParams::default(), &asking)
                .await,
        )?;
        Ok(Reconciled::Done)
    }

    /// Each step is written only where it is missing, so that any interruption is taken up again.
    async fn bind(&self, volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Outcome {
        let params = PostParams::default();
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let mut volume = volume.clone();
        if claim_ref(&volume).and_then(|reference| reference.uid.as_deref()) != Some(uid(claim)) {
            let was_free = claim_ref(&volume).is_none();
            let spec = volume.spec.get_or_insert_default();
            spec.claim_ref = Some(object_reference(claim));
            if was_free {
                volume
                    .metadata
                    .annotations
                    .get_or_insert_default()
                    .insert(BOUND_BY.into(), "yes".into());
            }
            let volume_name = name(&volume).to_owned();
            volume = volumes.replace(&volume_name, &params, &volume).await?;
        }
        let mut claim = claim.clone();
        let claims = self.api(&claim);
        if volume_name(&claim) != Some(name(&volume)) || is_unbound(&claim) {
            let annotations = claim.metadata.annotations.get_or_insert_default();
            annotations.insert(BIND_COMPLETED.into(), "yes".into());
            let spec = claim.spec.get_or_insert_default();
            if spec.volume_name.as_deref().unwrap_or_default().is_empty() {
                annotations.insert(BOUND_BY.into(), "yes".into());
                spec.volume_name = Some(name(&volume).to_owned());
            }
            let claim_name = name(&claim).to_owned();
            claim = claims.replace(&claim_name, &params, &claim).await?;
        }
        let status = claim.status.get_or_insert_default();
        if status.phase.as_deref() != Some("Bound") {
            let offer = volume.spec.clone().unwrap_or_default();
            status.phase = Some("Bound".into());
            status.access_modes = offer.access_modes;
            status.capacity = offer.capacity;
            claims.replace_status(name(&claim), &params, &claim).await?;
        }
        self.set_volume_phase(&volume, "Bound").await
    }

    pub(super) async fn volume(&self, key: &NamespacedName) -> Outcome {
        let Some(volume) = self.volumes.get(key) else {
            return Ok(Reconciled::Done);
        };
        let Some(reference) = claim_ref(&volume) else {
            return self.set_volume_phase(&volume, "Available").await;
        };
        let Some(wanted) = reference.uid.as_deref().filter(|uid| !uid.is_empty()) else {
            // Kept for a claim to come.
            return self.set_volume_phase(&volume, "Available").await;
        };
        let (namespace, claim) = (
            reference.namespace.as_deref().unwrap_or_default(),
            reference.name.as_deref().unwrap_or_default(),
        );
        let known = self.claims.get(&NamespacedName::new(namespace, claim));
        if known.is_some_and(|known| uid(known.as_ref()) == wanted) {
            // Binding it is the claim's turn.
            return Ok(Reconciled::Done);
        }
        // A volume that is released may be wiped: that needs the server's word.
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let live = api.get_opt(claim).await?;
        if live.is_some_and(|live| uid(&live) == wanted) {
            return Ok(Reconciled::Done);
        }
        self.set_volume_phase(&volume, "Released").await
    }

    async fn set_volume_phase(&self, volume: &PersistentVolume, phase: &str) -> Outcome {
        if volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase) {
            return Ok(Reconciled::Done);
        }
        let mut volume = volume.clone();
        let status = volume.status.get_or_insert_default();
        status.phase = Some(phase.into());
        status.message = None;
        status.last_phase_transition_time = Some(Time(Timestamp::now()));
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        api_error::ignore_not_found(
            api.replace_status(name(&volume), &PostParams::default(), &volume)
                .await,
        )?;
        Ok(Reconciled::Done)
    }

    async fn lose(&self, claim: &PersistentVolumeClaim, reason: &str, why: &str) -> Outcome {
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Lost") {
            self.event(claim, EventType::Warning, reason, why);
        }
        self.set_phase(claim, "Lost").await
    }

    async fn set_phase(&self, claim: &PersistentVolumeClaim, phase: &str) -> Outcome {
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase) {
            return Ok(Reconciled::Done);
        }
        let mut claim = claim.clone();
        let status = claim.status.get_or_insert_default();
        status.phase = Some(phase.into());
        status.access_modes = None;
        status.capacity = None;
        api_error::ignore_not_found(
            self.api(&claim)
                .replace_status(name(&claim), &PostParams::default(), &claim)
                .await,
        )?;
        Ok(Reconciled::Done)
    }

    fn event(&self, claim: &PersistentVolumeClaim, kind: EventType, reason: &str, message: &str) {
        self.recorder
            .event(&object_reference(claim), kind, reason, message);
    }

    fn api(&self, claim: &PersistentVolumeClaim) -> Api<PersistentVolumeClaim> {
        Api::namespaced(
            self.client.clone(),
            claim.metadata.namespace.as_deref().unwrap_or_default(),
        )
    }
}
