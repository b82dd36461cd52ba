//! What the graph asks for, done against the server.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use keelson_client::{EventRecorder, EventType, Reconciled};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::graph::{FOREGROUND, Node, ORPHAN, Task, Uid};
use super::monitor::Monitors;
use crate::served::ServedResource;
use crate::shared::{ReconcileError, api_error};

/// How many absent owners are remembered, as upstream has it.
const ABSENT: usize = 500;
/// Dependents that are orphaned at once.
const PARALLEL: usize = 20;

/// What an owner reference came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnerState {
    /// It exists and stays.
    Solid,
    /// It exists no more.
    Absent,
    /// It is being deleted and waits for its dependents.
    Waiting,
}

/// What to do with an object by the states of its owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Leave it.
    Keep,
    /// Take out the references that are not solid.
    Trim,
    /// Delete it; `true`: in the foreground, because its owner waits for what it owns, too.
    Delete(bool),
}

/// Upstream's decision about an item.
pub(super) fn verdict(owners: &[OwnerState], has_dependents: bool) -> Verdict {
    let any = |state| owners.contains(&state);
    if owners.is_empty() {
        return Verdict::Keep;
    }
    match (
        any(OwnerState::Solid),
        any(OwnerState::Absent) || any(OwnerState::Waiting),
    ) {
        (true, false) => Verdict::Keep,
        (true, true) => Verdict::Trim,
        (false, _) => Verdict::Delete(any(OwnerState::Waiting) && has_dependents),
    }
}

#[derive(Default)]
struct AbsentOwners {
    set: HashSet<(String, String)>,
    order: VecDeque<(String, String)>,
}

impl AbsentOwners {
    fn insert(&mut self, key: (String, String)) {
        if self.set.insert(key.clone()) {
            self.order.push_back(key);
            if self.order.len() > ABSENT
                && let Some(oldest) = self.order.pop_front()
            {
                self.set.remove(&oldest);
            }
        }
    }
}

pub(super) struct Collector {
    monitors: Arc<Monitors>,
    recorder: EventRecorder,
    /// By coordinates and UID.
    absent: Mutex<AbsentOwners>,
}

impl Collector {
    pub(super) fn new(monitors: Arc<Monitors>, recorder: EventRecorder) -> Self {
        Self {
            monitors,
            recorder,
            absent: Mutex::default(),
        }
    }

    pub(super) async fn carry_out(&self, task: Task) -> Result<Reconciled, ReconcileError> {
        match task {
            Task::Check(uid) => self.check(&uid).await?,
            Task::Orphan(uid) => self.orphan(&uid).await?,
        }
        Ok(Reconciled::Done)
    }

    fn node(&self, uid: &str) -> Option<Arc<Node>> {
        self.monitors.graph.lock().get(uid)
    }

    async fn check(&self, uid: &Uid) -> Result<(), ReconcileError> {
        let Some(node) = self.node(uid) else { return Ok(()) };
        if node.waits_for_dependents() {
            return self.wait_for_dependents(uid, &node).await;
        }
        if node.deleting || self.monitors.graph.lock().owners_stay(&node) {
            return Ok(());
        }
        let Some(live) = self.live(&node, uid).await? else {
            self.monitors.forget(uid);
            return Ok(());
        };
        let references = live.owner_references.clone().unwrap_or_default();
        let mut states = Vec::with_capacity(references.len());
        for reference in &references {
            match self.owner_state(&node, uid, reference).await? {
                Some(state) => states.push(state),
                None => return Ok(()),
            }
        }
        let dependents = self.monitors.graph.lock().dependents_of(uid);
        match verdict(&states, !dependents.is_empty()) {
            Verdict::Keep => Ok(()),
            Verdict::Trim => {
                let keep = references
                    .iter()
                    .zip(&states)
                    .filter(|(_, state)| **state == OwnerState::Solid);
                let keep: Vec<_> = keep.map(|(reference, _)| reference.clone()).collect();
                self.patch(&node, &live, json!({"ownerReferences": keep})).await
            }
            Verdict::Delete(in_foreground) => {
                if in_foreground && self.monitors.graph.lock().has_waiting_dependent(uid) {
                    // Two that wait for each other would wait for ever.
                    let open: Vec<_> = references.iter().cloned().map(without_block).collect();
                    if open != references {
                        self.patch(&node, &live, json!({"ownerReferences": open})).await?;
                        return Err(ReconcileError::Retry("circular ownership unblocked".into()));
                    }
                }
                self.delete(&node, &live, in_foreground).await
            }
        }
    }

    /// Lets an object go whose blocking dependents are gone; sees to them otherwise.
    async fn wait_for_dependents(&self, uid: &Uid, node: &Node) -> Result<(), ReconcileError> {
        self.monitors.complete().await;
        let blocking = self.monitors.graph.lock().blocking_dependents(uid);
        if blocking.is_empty() {
            return self.remove_finalizer(uid, node, FOREGROUND).await;
        }
        let idle = blocking.into_iter().filter(|(_, waits)| !waits);
        self.monitors
            .enqueue(idle.map(|(dependent, _)| Task::Check(dependent)).collect());
        Ok(())
    }

    async fn orphan(&self, uid: &Uid) -> Result<(), ReconcileError> {
        self.monitors.complete().await;
        let Some(node) = self.node(uid) else { return Ok(()) };
        let dependents = self.monitors.graph.lock().dependents_of(uid);
        futures::stream::iter(dependents)
            .map(|dependent| self.release(uid, dependent))
            .buffer_unordered(PARALLEL)
            .try_collect::<Vec<()>>()
            .await?;
        self.remove_finalizer(uid, &node, ORPHAN).await
    }

    /// Takes `owner` out of the references of `dependent`.
    async fn release(&self, owner: &str, dependent: Uid) -> Result<(), ReconcileError> {
        let Some(node) = self.node(&dependent) else {
            return Ok(());
        };
        let Some(live) = self.live(&node, &dependent).await? else {
            return Ok(());
        };
        let references = live.owner_references.clone().unwrap_or_default();
        let keep: Vec<_> = references
            .iter()
            .filter(|reference| reference.uid != owner)
            .cloned()
            .collect();
        if keep.len() == references.len() {
            return Ok(());
        }
        self.patch(&node, &live, json!({"ownerReferences": keep})).await
    }

    async fn remove_finalizer(&self, uid: &str, node: &Node, finalizer: &str) -> Result<(), ReconcileError> {
        let Some(live) = self.live(node, uid).await? else {
            return Ok(());
        };
        let finalizers = live.finalizers.clone().unwrap_or_default();
        let keep: Vec<_> = finalizers
            .iter()
            .filter(|found| *found != finalizer)
            .cloned()
            .collect();
        if keep.len() == finalizers.len() {
            return Ok(());
        }
        self.patch(node, &live, json!({"finalizers": keep})).await
    }

    /// The object's metadata as the server has it now, if it is there still.
    async fn live(&self, node: &Node, uid: &str) -> Result<Option<ObjectMeta>, ReconcileError> {
        let api = node.resource.objects(&self.monitors.client, &node.namespace);
        let found = api
            .get_metadata_opt(&node.name)
            .await?
            .map(|object| object.metadata);
        Ok(found.filter(|meta| meta.uid.as_deref() == Some(uid)))
    }

    /// The state of an owner; `None` where the reference can never be resolved.
    async fn owner_state(
        &self,
        node: &Node,
        uid: &str,
        reference: &OwnerReference,
    ) -> Result<Option<OwnerState>, ReconcileError> {
        let served = self.monitors.served.read().clone();
        let Some(owner) = served.of_kind(&reference.api_version, &reference.kind) else {
            self.monitors.stale.notify_one();
            let (kind, version) = (&reference.kind, &reference.api_version);
            return Err(ReconcileError::Retry(format!(
                "no matches for kind {kind:?} in version {version:?}"
            )));
        };
        let namespace: &str = if owner.namespaced { &node.namespace } else { "" };
        if owner.namespaced && namespace.is_empty() {
            self.report(node, uid, reference, namespace);
            return Ok(None);
        }
        let coordinates = format!(
            "{} {} {namespace}/{}",
            reference.api_version, reference.kind, reference.name
        );
        let key = (coordinates, reference.uid.clone());
        if self.absent.lock().set.contains(&key) {
            return Ok(Some(OwnerState::Absent));
        }
        let found = self.live_owner(owner, namespace, reference).await?;
        let state = match found {
            None => {
                if self
                    .node(&reference.uid)
                    .is_some_and(|known| *known.namespace != *namespace)
                {
                    self.report(node, uid, reference, namespace);
                }
                self.absent.lock().insert(key);
                OwnerState::Absent
            }
            Some(meta) => {
                let foreground = meta
                    .finalizers
                    .iter()
                    .flatten()
                    .any(|finalizer| finalizer == FOREGROUND);
                if meta.deletion_timestamp.is_some() && foreground {
                    OwnerState::Waiting
                } else {
                    OwnerState::Solid
                }
            }
        };
        Ok(Some(state))
    }

    async fn live_owner(
        &self,
        resource: &ServedResource,
        namespace: &str,
        reference: &OwnerReference,
    ) -> Result<Option<ObjectMeta>, ReconcileError> {
        let api = resource.objects(&self.monitors.client, namespace);
        let found = api
            .get_metadata_opt(&reference.name)
            .await?
            .map(|object| object.metadata);
        Ok(found.filter(|meta| meta.uid.as_deref() == Some(reference.uid.as_str())))
    }

    async fn delete(
        &self,
        node: &Node,
        live: &ObjectMeta,
        in_foreground: bool,
    ) -> Result<(), ReconcileError> {
        let has = |finalizer: &str| live.finalizers.iter().flatten().any(|found| found == finalizer);
        let policy = match in_foreground {
            true => PropagationPolicy::Foreground,
            false if has(ORPHAN) => PropagationPolicy::Orphan,
            false if has(FOREGROUND) => PropagationPolicy::Foreground,
            false => PropagationPolicy::Background,
        };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: live.uid.clone(),
                resource_version: live.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        let api = node.resource.objects(&self.monitors.client, &node.namespace);
        api_error::ignore_not_found(api.delete(&node.name, &params).await)?;
        Ok(())
    }

    /// Patches metadata of the version that was read.
    async fn patch(&self, node: &Node, live: &ObjectMeta, mut metadata: Value) -> Result<(), ReconcileError> {
        metadata["uid"] = json!(live.uid);
        metadata["resourceVersion"] = json!(live.resource_version);
        let api = node.resource.objects(&self.monitors.client, &node.namespace);
        let patch = Patch::Merge(json!({"metadata": metadata}));
        api_error::ignore_not_found(
            api.patch_metadata(&node.name, &PatchParams::default(), &patch)
                .await,
        )?;
        Ok(())
    }

    fn report(&self, node: &Node, uid: &str, reference: &OwnerReference, namespace: &str) {
        let api = &node.resource.api;
        let object = ObjectReference {
            api_version: Some(api.api_version.clone()),
            kind: Some(api.kind.clone()),
            name: Some(node.name.to_string()),
            namespace: Some(node.namespace.to_string()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        let message = format!(
            "ownerRef [{}/{}, namespace: {namespace}, name: {}, uid: {}] does not exist in namespace {:?}",
            reference.api_version, reference.kind, reference.name, reference.uid, &*node.namespace
        );
        self.recorder
            .event(&object, EventType::Warning, "OwnerRefInvalidNamespace", message);
    }
}

fn without_block(mut reference: OwnerReference) -> OwnerReference {
    if reference.block_owner_deletion == Some(true) {
        reference.block_owner_deletion = Some(false);
    }
    reference
}
