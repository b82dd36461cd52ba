//! The reconciliation of one StatefulSet.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use keelson_client::{
    EventRecorder, EventType, Index, Informer, NamespacedName, Reconciled, object_reference,
};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use super::plan::{Action, View, plan};
use super::spec::Wanted;
use super::status::{self, Revisions, is_running_ready};
use super::{claims, identity};
use crate::shared::history::{self, NewRevision, REVISION_HASH, STATEFUL_HASH, live_hashes};
use crate::shared::owner::{OwnerKey, claim_owned, claim_owned_where, is_deleting, name, namespace};
use crate::shared::pod::{is_available, is_finished, label, next_availability, phase};
use crate::shared::{ReconcileError, api_error, selector};

pub(super) struct Syncer {
    pub(super) client: Client,
    pub(super) recorder: EventRecorder,
    pub(super) sets: Informer<StatefulSet>,
    pub(super) claims: Informer<PersistentVolumeClaim>,
    pub(super) pods_by_owner: Index<OwnerKey, Pod>,
    pub(super) revisions_by_owner: Index<OwnerKey, ControllerRevision>,
}

/// The revisions that pods are made of: name and template.
struct Templates {
    current: (String, PodTemplateSpec),
    update: (String, PodTemplateSpec),
}

impl Syncer {
    pub(super) async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let Some(set) = self.sets.get(key) else {
            return Ok(Reconciled::Done);
        };
        let set = set.as_ref();
        let Some(spec) = set.spec.as_ref() else {
            return Ok(Reconciled::Done);
        };
        let selector = selector::parse(&spec.selector)?;
        let wanted = Wanted::of(set);
        let revisions = claim_owned(&self.client, set, &selector, &self.revisions_by_owner, None).await?;
        let member = |pod: &Pod| identity::ordinal(set, pod).is_some();
        let pods = claim_owned_where(&self.client, set, &selector, &self.pods_by_owner, None, member).await?;
        let old = set.status.clone().unwrap_or_default();
        let new_revision = NewRevision {
            owner: set,
            template: &spec.template,
            hash_label: STATEFUL_HASH,
            collision_count: old.collision_count.filter(|count| *count > 0),
        };
        let found = history::current(&self.client, new_revision, revisions).await?;
        let update = name(&found.revision).to_owned();
        let current = found
            .others
            .iter()
            .find(|revision| Some(name(revision.as_ref())) == old.current_revision.as_deref())
            .and_then(|revision| {
                Some((
                    name(revision.as_ref()).to_owned(),
                    history::template_of(revision)?,
                ))
            })
            .unwrap_or_else(|| (update.clone(), spec.template.clone()));
        let templates = Templates {
            current,
            update: (update, spec.template.clone()),
        };

        let now = Timestamp::now();
        let by_ordinal: BTreeMap<i32, Arc<Pod>> = pods
            .iter()
            .filter_map(|pod| Some((identity::ordinal(set, pod)?, pod.clone())))
            .collect();
        let outcome = if is_deleting(set) {
            Ok(())
        } else {
            let views: Vec<_> = by_ordinal
                .iter()
                .map(|(ordinal, pod)| view(*ordinal, pod, &wanted, &templates.update.0, now))
                .collect();
            self.act(set, &wanted, &plan(&wanted, &views), &by_ordinal, &templates)
                .await
        };
        let names = Revisions {
            current: &templates.current.0,
            update: &templates.update.0,
            collision_count: found.collision_count,
        };
        let new = status::compute(set, &wanted, &pods, &names, now);
        if new != old {
            self.write_status(set, new).await?;
        }
        outcome?;
        let live = live_hashes(pods.iter().map(Arc::as_ref));
        let is_live = |revision: &ControllerRevision| {
            name(revision) == templates.current.0 || live.contains(name(revision))
        };
        history::truncate(
            &self.client,
            &found.others,
            is_live,
            wanted.revision_history_limit,
        )
        .await?;
        let wait = next_availability(pods.iter().map(Arc::as_ref), wanted.min_ready_seconds, now);
        Ok(wait.map_or(Reconciled::Done, Reconciled::After))
    }

    async fn act(
        &self,
        set: &StatefulSet,
        wanted: &Wanted,
        actions: &[Action],
        pods: &BTreeMap<i32, Arc<Pod>>,
        templates: &Templates,
    ) -> Result<(), ReconcileError> {
        for action in actions {
            match *action {
                Action::Create(ordinal) => self.create(set, wanted, ordinal, templates).await?,
                Action::EnsureClaims(ordinal) => self.ensure_claims(set, wanted, ordinal).await?,
                Action::Identify(ordinal) => {
                    let Some(pod) = pods.get(&ordinal) else { continue };
                    let labels = identity::labels(name(pod.as_ref()), ordinal);
                    let patch =
                        Patch::Strategic(json!({"metadata": {"uid": pod.metadata.uid, "labels": labels}}));
                    self.pods(set)
                        .patch(name(pod.as_ref()), &PatchParams::default(), &patch)
                        .await?;
                }
                Action::FixClaims(ordinal) => {
                    let Some(pod) = pods.get(&ordinal) else { continue };
                    self.fix_claims(set, wanted, ordinal, pod).await?;
                }
                Action::Delete(ordinal) | Action::Replace(ordinal) => {
                    let Some(pod) = pods.get(&ordinal) else { continue };
                    self.delete(set, pod).await?;
                }
            }
        }
        Ok(())
    }

    async fn create(
        &self,
        set: &StatefulSet,
        wanted: &Wanted,
        ordinal: i32,
        templates: &Templates,
    ) -> Result<(), ReconcileError> {
        let (revision, template) = if wanted.keeps_current(ordinal) {
            &templates.current
        } else {
            &templates.update
        };
        let pod = identity::pod_of(set, template, revision, ordinal);
        for claim in claims::claims(set, ordinal) {
            let known = self.claims.get(&NamespacedName::of(&claim));
            if known.is_some_and(|known| claims::is_stale(&known, name(&pod), None)) {
                let message = format!(
                    "claim {} belongs to the previous pod and is going away",
                    name(&claim)
                );
                return Err(ReconcileError::Retry(message));
            }
        }
        self.ensure_claims(set, wanted, ordinal).await?;
        match self.pods(set).create(&PostParams::default(), &pod).await {
            Ok(_) => {
                self.report(
                    set,
                    EventType::Normal,
                    "SuccessfulCreate",
                    &format!("create Pod {} in", name(&pod)),
                    "successful",
                );
                Ok(())
            }
            // The cache is late, or the old pod of that name has not gone yet: the next change brings the key back.
            Err(error) if api_error::is_already_exists(&error) => {
                Err(ReconcileError::Retry(api_error::message(&error)))
            }
            Err(error) if api_error::is_namespace_terminating(&error) => Ok(()),
            Err(error) => {
                let failed = format!("failed error: {}", api_error::message(&error));
                self.report(
                    set,
                    EventType::Warning,
                    "FailedCreate",
                    &format!("create Pod {} in", name(&pod)),
                    &failed,
                );
                Err(error.into())
            }
        }
    }

    async fn delete(&self, set: &StatefulSet, pod: &Pod) -> Result<(), ReconcileError> {
        let preconditions = Preconditions {
            uid: pod.metadata.uid.clone(),
            resource_version: None,
        };
        let params = DeleteParams {
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        let what = format!("delete Pod {} in", name(pod));
        match self.pods(set).delete(name(pod), &params).await {
            Ok(_) => self.report(set, EventType::Normal, "SuccessfulDelete", &what, "successful"),
            Err(error) if api_error::is_not_found(&error) || api_error::is_conflict(&error) => {}
            Err(error) => {
                let failed = format!("failed error: {}", api_error::message(&error));
                self.report(set, EventType::Warning, "FailedDelete", &what, &failed);
                return Err(error.into());
            }
        }
        Ok(())
    }

    async fn ensure_claims(
        &self,
        set: &StatefulSet,
        wanted: &Wanted,
        ordinal: i32,
    ) -> Result<(), ReconcileError> {
        let api = self.claim_api(set);
        let pod_name = format!("{}-{ordinal}", name(set));
        for mut claim in claims::claims(set, ordinal) {
            if let Some(known) = self.claims.get(&NamespacedName::of(&claim)) {
                if is_deleting(known.as_ref()) {
                    return Err(ReconcileError::Retry(format!(
                        "pvc {} is being deleted",
                        name(&claim)
                    )));
                }
                continue;
            }
            if let Some(owners) = claims::owners(set, wanted, None, false, &claim) {
                claim.metadata.owner_references = Some(owners);
            }
            let what = format!("create Claim {} Pod {pod_name} in", name(&claim));
            match api.create(&PostParams::default(), &claim).await {
                Ok(_) => self.report(set, EventType::Normal, "SuccessfulCreate", &what, "success"),
                Err(error) if api_error::is_already_exists(&error) => {}
                Err(error) => {
                    let what = format!("create Claim {} for Pod {pod_name} in", name(&claim));
                    let failed = format!("failed error: {}", api_error::message(&error));
                    self.report(set, EventType::Warning, "FailedCreate", &what, &failed);
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    async fn fix_claims(
        &self,
        set: &StatefulSet,
        wanted: &Wanted,
        ordinal: i32,
        pod: &Pod,
    ) -> Result<(), ReconcileError> {
        let scaled_away = !wanted.contains(ordinal);
        for claim in claims::claims(set, ordinal) {
            let Some(known) = self.claims.get(&NamespacedName::of(&claim)) else {
                continue;
            };
            let Some(owners) = claims::owners(set, wanted, Some(pod), scaled_away, &known) else {
                continue;
            };
            let mut known = PersistentVolumeClaim::clone(&known);
            known.metadata.owner_references = Some(owners);
            self.claim_api(set)
                .replace(name(&known), &PostParams::default(), &known)
                .await?;
        }
        Ok(())
    }

    async fn write_status(
        &self,
        set: &StatefulSet,
        status: k8s_openapi::api::apps::v1::StatefulSetStatus,
    ) -> Result<(), kube::Error> {
        let set = StatefulSet {
            status: Some(status),
            ..set.clone()
        };
        let api = Api::<StatefulSet>::namespaced(self.client.clone(), namespace(&set));
        match api.replace_status(name(&set), &PostParams::default(), &set).await {
            // A newer state is on its way to the cache, and brings the key back.
            Err(error) if api_error::is_conflict(&error) || api_error::is_not_found(&error) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    fn report(&self, set: &StatefulSet, kind: EventType, reason: &str, what: &str, outcome: &str) {
        let message = format!("{what} StatefulSet {} {outcome}", name(set));
        self.recorder.event(&object_reference(set), kind, reason, message);
    }

    fn pods(&self, set: &StatefulSet) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace(set))
    }

    fn claim_api(&self, set: &StatefulSet) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), namespace(set))
    }
}

fn view(ordinal: i32, pod: &Pod, wanted: &Wanted, update: &str, now: Timestamp) -> View {
    View {
        ordinal,
        finished: is_finished(pod),
        terminating: is_deleting(pod),
        pending: phase(pod) == "Pending",
        available: is_running_ready(pod) && is_available(pod, wanted.min_ready_seconds, now),
        updated: label(pod, REVISION_HASH) == Some(update),
        identified: identity::identity_matches(pod, ordinal),
    }
}
