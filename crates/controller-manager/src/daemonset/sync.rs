//! The reconciliation of one DaemonSet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use keelson_client::{EventType, Index, Informer, NamespacedName, Reconciled, object_reference};
use kube::Api;
use kube::api::PostParams;

use super::backoff::FailedPods;
use super::manage::{self, PodsByNode, Rules};
use super::node::{self, Fit};
use super::rolling;
use super::status;
use super::template::pod_for;
use crate::shared::expectations::{Expectations, TIMEOUT};
use crate::shared::history::{self, NewRevision, REVISION_HASH, live_hashes};
use crate::shared::owner::{OwnerKey, claim_owned, is_deleting, name, namespace, uid};
use crate::shared::pod::{label, next_availability, node_name, phase};
use crate::shared::pod_control::{PodControl, slow_start};
use crate::shared::{ReconcileError, api_error, selector};

/// Most pods that one reconciliation creates or deletes.
const BURST: usize = 250;

pub(super) struct Syncer {
    pub(super) pods: PodControl,
    pub(super) sets: Informer<DaemonSet>,
    pub(super) nodes: Informer<Node>,
    pub(super) pods_by_owner: Index<OwnerKey, Pod>,
    pub(super) revisions_by_owner: Index<OwnerKey, ControllerRevision>,
    pub(super) expectations: Arc<Expectations>,
    pub(super) backoff: FailedPods,
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
        if selector.is_everything() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.pods.event(
                &object_reference(set),
                EventType::Warning,
                "SelectingAll",
                message,
            );
            return Ok(Reconciled::Done);
        }
        if is_deleting(set) {
            return Ok(Reconciled::Done);
        }
        let client = self.pods.client();
        let revisions = claim_owned(client, set, &selector, &self.revisions_by_owner, None).await?;
        let collision_count = set.status.as_ref().and_then(|status| status.collision_count);
        let wanted = NewRevision {
            owner: set,
            template: &spec.template,
            hash_label: REVISION_HASH,
            collision_count,
        };
        let current = history::current(client, wanted, revisions).await?;
        let hash = label(&current.revision, REVISION_HASH)
            .unwrap_or_default()
            .to_owned();

        let rolling_update = spec
            .update_strategy
            .as_ref()
            .is_none_or(|strategy| strategy.type_.as_deref() != Some("OnDelete"));
        let nodes = self.nodes.list();
        let fits = fits(set, &nodes);
        let desired = fits.iter().filter(|(_, fit)| fit.should_run).count();
        let limits = rolling::limits(set, desired);
        let rules = Rules {
            hash: &hash,
            surge: rolling_update && limits.surge > 0,
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            now: Timestamp::now(),
        };
        let pods = claim_owned(client, set, &selector, &self.pods_by_owner, None).await?;
        let mut by_node = manage::by_node(&pods);
        // A node that lacks its pod counts as one without service when others are to be updated.
        for (node, _) in fits.iter().filter(|(_, fit)| fit.should_run) {
            by_node.entry(node.clone()).or_default();
        }
        let mut wait = next_availability(pods.iter().map(Arc::as_ref), rules.min_ready_seconds, rules.now);
        let quiet = self.expectations.satisfied(uid(set));
        let mut outcome = Ok(());
        if quiet {
            let (delete, create_on, delay) = self.plan(set, &fits, &by_node, &rules);
            wait = [wait, delay].into_iter().flatten().min();
            outcome = self.apply(set, delete, create_on, &hash).await;
            if outcome.is_ok() && rolling_update && self.expectations.satisfied(uid(set)) {
                let step = rolling::step(&by_node, limits, &rules);
                outcome = self.apply(set, step.delete, step.create_on, &hash).await;
            }
            let live = live_hashes(pods.iter().map(Arc::as_ref));
            let is_live = |revision: &ControllerRevision| {
                label(revision, REVISION_HASH).is_some_and(|hash| live.contains(hash))
            };
            let limit = spec.revision_history_limit.unwrap_or(10);
            history::truncate(client, &current.others, is_live, limit).await?;
        }
        let generation = set.metadata.generation.filter(|_| quiet);
        let new = status::compute(set, &fits, &by_node, &rules, current.collision_count, generation);
        self.write_status(set, new).await?;
        outcome?;
        let wait = if quiet {
            wait
        } else {
            Some(wait.map_or(TIMEOUT, |wait| wait.min(TIMEOUT)))
        };
        Ok(wait.map_or(Reconciled::Done, Reconciled::After))
    }

    /// Pods to delete, nodes that need one, and when to look again for failed pods.
    fn plan(
        &self,
        set: &DaemonSet,
        fits: &[(String, Fit)],
        by_node: &PodsByNode,
        rules: &Rules<'_>,
    ) -> (Vec<Arc<Pod>>, Vec<String>, Option<Duration>) {
        let (mut delete, mut create_on, mut wait) = (Vec::new(), Vec::new(), None::<Duration>);
        for (node, fit) in fits {
            let pods = by_node.get(node).map(Vec::as_slice).unwrap_or_default();
            let plan = manage::plan(*fit, pods, rules);
            if plan.create {
                create_on.push(node.clone());
            }
            delete.extend(plan.delete);
            for pod in plan.ended {
                if let Some(delay) = self.end(set, node, &pod) {
                    wait = Some(wait.map_or(delay, |wait| wait.min(delay)));
                } else {
                    delete.push(pod);
                }
            }
        }
        // Pods for nodes that are gone will never be scheduled; those that were are the pod garbage collector's.
        let known: BTreeMap<&str, ()> = fits.iter().map(|(node, _)| (node.as_str(), ())).collect();
        let stray = by_node
            .iter()
            .filter(|(node, _)| !known.contains_key(node.as_str()));
        let waiting = stray
            .flat_map(|(_, pods)| pods)
            .filter(|pod| node_name(pod).is_empty());
        delete.extend(waiting.filter(|pod| !is_deleting(pod.as_ref())).cloned());
        (delete, create_on, wait)
    }

    /// Whether a pod that ended may be replaced now; else how long to wait.
    fn end(&self, set: &DaemonSet, node: &str, pod: &Pod) -> Option<Duration> {
        let place = format!("{}/{} on node {node}", namespace(pod), name(pod));
        if phase(pod) == "Succeeded" {
            let message = format!("Found succeeded daemon pod {place}, will try to delete it");
            self.pods.event(
                &object_reference(set),
                EventType::Normal,
                "SucceededDaemonPod",
                message,
            );
            return None;
        }
        let wait = self.backoff.wait(uid(set), node);
        if wait.is_none() {
            let message = format!("Found failed daemon pod {place}, will try to kill it");
            self.pods.event(
                &object_reference(set),
                EventType::Warning,
                "FailedDaemonPod",
                message,
            );
        }
        wait
    }

    async fn apply(
        &self,
        set: &DaemonSet,
        mut delete: Vec<Arc<Pod>>,
        mut create_on: Vec<String>,
        hash: &str,
    ) -> Result<(), kube::Error> {
        let owner = uid(set);
        delete.truncate(BURST);
        create_on.truncate(BURST);
        self.expectations.expect_creations(owner, create_on.len());
        self.expectations
            .expect_deletions(owner, delete.iter().map(|pod| uid(pod.as_ref()).to_owned()));
        let batch = slow_start(create_on, |node| async move {
            let result = self.pods.create(set, &pod_for(set, &node, hash)).await;
            if result.is_err() {
                self.expectations.creation_observed(owner);
            }
            result.map(|_| ())
        })
        .await;
        self.expectations.creations_skipped(owner, batch.skipped);
        let deletions = delete.iter().map(async |pod| {
            let result = self.pods.delete(set, pod).await;
            if result.is_err() {
                self.expectations.deletion_observed(owner, uid(pod.as_ref()));
            }
            result
        });
        let deleted: Result<(), kube::Error> = join_all(deletions).await.into_iter().collect();
        match batch.error {
            Some(error) if !api_error::is_namespace_terminating(&error) => Err(error),
            _ => deleted,
        }
    }

    async fn write_status(
        &self,
        set: &DaemonSet,
        status: k8s_openapi::api::apps::v1::DaemonSetStatus,
    ) -> Result<(), kube::Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let set = DaemonSet {
            status: Some(status),
            ..set.clone()
        };
        let api = Api::<DaemonSet>::namespaced(self.pods.client().clone(), namespace(&set));
        match api.replace_status(name(&set), &PostParams::default(), &set).await {
            // A newer state is on its way to the cache, and brings the key back.
            Err(error) if api_error::is_conflict(&error) || api_error::is_not_found(&error) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

/// All nodes with what they mean to the set, by name.
fn fits(set: &DaemonSet, nodes: &[Arc<Node>]) -> Vec<(String, Fit)> {
    let template = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.clone())
        .unwrap_or_default();
    let pod = pod_for(set, "", "");
    let mut fits: Vec<_> = nodes
        .iter()
        .map(|node| (name(node.as_ref()).to_owned(), node::fit(&pod, &template, node)))
        .collect();
    fits.sort_by(|a, b| a.0.cmp(&b.0));
    fits
}
