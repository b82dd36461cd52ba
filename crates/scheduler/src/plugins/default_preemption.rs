//! DefaultPreemption: makes room for a pod that fits nowhere by deleting pods of lower priority from one node.

use std::collections::HashSet;
use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use keelson_client::{EventType, object_reference};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::Mutex;
use rand::Rng;
use serde_json::json;

use super::preemption_candidates::{Candidate, select_candidate, split_by_budgets};
use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{
    Code, CycleState, Diagnosis, FitError, Framework, Handle, Outcome, Plugin, PostFilterPlugin,
    PostFilterResult, Status,
};

/// How many candidates to look for: this part of the nodes in percent, and at least this many.
const MIN_CANDIDATE_NODES_PERCENTAGE: usize = 10;
const MIN_CANDIDATE_NODES_ABSOLUTE: usize = 100;

struct DefaultPreemption {
    handle: Handle,
    /// Pods whose victims are being deleted: they must not choose further ones meanwhile.
    preempting: Arc<Mutex<HashSet<Arc<str>>>>,
}

pub(super) fn register(framework: &mut Framework, handle: &Handle) {
    framework.post_filter(&Arc::new(DefaultPreemption {
        handle: handle.clone(),
        preempting: Arc::default(),
    }));
}

impl Plugin for DefaultPreemption {
    fn name(&self) -> &'static str {
        "DefaultPreemption"
    }
}

fn is_preempted(pod: &PodInfo) -> bool {
    let conditions = pod
        .pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let disrupted = conditions
        .iter()
        .find(|condition| condition.type_ == "DisruptionTarget");
    pod.is_terminating()
        && disrupted
            .is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler"))
}

/// Victims on one node: none if the pod would not fit even without all pods of lower priority.
fn victims_on(
    framework: &Framework,
    state: &CycleState,
    pod: &PodInfo,
    node: &NodeInfo,
    budgets: &[Arc<k8s_openapi::api::policy::v1::PodDisruptionBudget>],
) -> Result<Candidate, Status> {
    let mut potential: Vec<_> = node
        .pods
        .iter()
        .filter(|other| other.priority < pod.priority)
        .cloned()
        .collect();
    if potential.is_empty() {
        return Err(Status::unresolvable(
            "No preemption victims found for incoming pod",
        ));
    }
    let (mut state, mut imagined) = (state.clone(), node.clone());
    for victim in &potential {
        imagined.remove_pod(&victim.uid);
        framework.imagine_removed(&mut state, pod, victim, &imagined);
    }
    let fits = |state: &CycleState, node: &NodeInfo| {
        framework.run_filter_with_nominated(state, pod, &Arc::new(node.clone()))
    };
    fits(&state, &imagined)?;
    // The more important a pod is, the sooner it gets its place back.
    potential.sort_by(|a, b| {
        b.priority
            .cmp(&a.priority)
            .then_with(|| a.start_time().cmp(&b.start_time()))
    });
    let (violating, others) = split_by_budgets(&potential, budgets);
    let mut candidate = Candidate {
        node: node.shared_name().clone(),
        victims: Vec::new(),
        violations: 0,
    };
    for (pods, violates) in [(violating, true), (others, false)] {
        for other in pods {
            imagined.add_pod(other.clone());
            framework.imagine_added(&mut state, pod, &other, &imagined);
            if fits(&state, &imagined).is_err() {
                imagined.remove_pod(&other.uid);
                framework.imagine_removed(&mut state, pod, &other, &imagined);
                candidate.violations += usize::from(violates);
                candidate.victims.push(other);
            }
        }
    }
    candidate.victims.sort_by(|a, b| {
        b.priority
            .cmp(&a.priority)
            .then_with(|| a.start_time().cmp(&b.start_time()))
    });
    Ok(candidate)
}

impl DefaultPreemption {
    /// Why the pod may not preempt now.
    fn ineligible(&self, pod: &PodInfo, snapshot: &Snapshot, diagnosis: &Diagnosis) -> Option<&'static str> {
        if self.preempting.lock().contains(&pod.uid) {
            return Some("waiting for the preemption for this pod to be finished");
        }
        if pod.spec().and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never") {
            return Some("not eligible due to preemptionPolicy=Never.");
        }
        let nominated = pod.nominated_node();
        if nominated.is_empty() || diagnosis.of(nominated).code == Code::UnschedulableAndUnresolvable {
            return None;
        }
        let node = snapshot.get(nominated)?;
        let waiting = node
            .pods
            .iter()
            .any(|other| other.priority < pod.priority && is_preempted(other));
        waiting.then_some("not eligible due to a terminating pod on the nominated node.")
    }

    fn find_candidates(
        &self,
        framework: &Framework,
        state: &CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
        diagnosis: &Diagnosis,
    ) -> Result<Vec<Candidate>, Diagnosis> {
        let mut refusals = Diagnosis::default();
        let helpful = |node: &&Arc<NodeInfo>| diagnosis.of(node.name()).code == Code::Unschedulable;
        let nodes: Vec<_> = snapshot.nodes.iter().filter(helpful).collect();
        let wanted = (nodes.len() * MIN_CANDIDATE_NODES_PERCENTAGE / 100).max(MIN_CANDIDATE_NODES_ABSOLUTE);
        let offset = if nodes.is_empty() {
            0
        } else {
            rand::rng().random_range(0..nodes.len())
        };
        let budgets = self.handle.listers.budgets.list();
        let mut candidates: Vec<Candidate> = Vec::new();
        for node in nodes[offset..].iter().chain(&nodes[..offset]) {
            match victims_on(framework, state, pod, node, &budgets) {
                Ok(candidate) if candidate.victims.is_empty() => {
                    let reason = "expected at least one victim pod on node";
                    refusals.refuse(node.shared_name().clone(), Status::unschedulable(reason));
                }
                Ok(candidate) => candidates.push(candidate),
                Err(status) => refusals.refuse(node.shared_name().clone(), status),
            }
            if candidates.len() >= wanted && candidates.iter().any(|candidate| candidate.violations == 0) {
                break;
            }
        }
        if candidates.is_empty() {
            Err(refusals)
        } else {
            Ok(candidates)
        }
    }

    fn evict(&self, candidate: Candidate, preemptor: Arc<PodInfo>) {
        let victims: Vec<_> = candidate
            .victims
            .into_iter()
            .filter(|victim| !victim.is_terminating())
            .collect();
        let nominated = self.handle.nominator.on(&candidate.node);
        let displaced: Vec<_> = nominated
            .into_iter()
            .filter(|other| other.priority < preemptor.priority)
            .collect();
        let (handle, preempting, node) = (self.handle.clone(), self.preempting.clone(), candidate.node);
        preempting.lock().insert(preemptor.uid.clone());
        self.handle.tasks.spawn(async move {
            // They will not fit any more; they look for another place at once.
            for other in &displaced {
                handle.nominator.remove(&other.uid);
                clear_nomination(&handle, other).await;
                handle.activate(&other.uid);
            }
            let results = join_all(
                victims
                    .iter()
                    .map(|victim| preempt(&handle, victim, &preemptor, &node)),
            )
            .await;
            preempting.lock().remove(&preemptor.uid);
            for error in results.into_iter().filter_map(Result::err) {
                tracing::warn!(pod = %preemptor.key, %error, "preemption failed");
                handle.activate(&preemptor.uid);
            }
        });
    }
}

async fn clear_nomination(handle: &Handle, pod: &PodInfo) {
    let api = Api::<Pod>::namespaced(handle.client.clone(), &pod.key.namespace);
    let patch = Patch::Merge(json!({"status": {"nominatedNodeName": null}}));
    if let Err(error) = api
        .patch_status(&pod.key.name, &PatchParams::default(), &patch)
        .await
    {
        // Only shown to others; our own nomination is gone already.
        tracing::debug!(pod = %pod.key, %error, "nominatedNodeName not cleared");
    }
}

async fn preempt(
    handle: &Handle,
    victim: &PodInfo,
    preemptor: &PodInfo,
    node: &str,
) -> Result<(), kube::Error> {
    let api = Api::<Pod>::namespaced(handle.client.clone(), &victim.key.namespace);
    let patch = json!({
        "metadata": {"uid": &*victim.uid},
        "status": {"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": format!("{}: preempting to accommodate a higher priority pod", handle.scheduler_name),
            "lastTransitionTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()),
            "observedGeneration": victim.pod.metadata.generation,
        }]},
    });
    let gone = |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.code == 404);
    match api
        .patch_status(
            &victim.key.name,
            &PatchParams::default(),
            &Patch::Strategic(patch),
        )
        .await
    {
        Err(error) if gone(&error) => return Ok(()),
        result => result.map(|_| ())?,
    }
    let same = Preconditions {
        uid: Some(victim.uid.to_string()),
        resource_version: None,
    };
    let params = DeleteParams {
        preconditions: Some(same),
        ..DeleteParams::default()
    };
    match api.delete(&victim.key.name, &params).await {
        Err(error) if gone(&error) => return Ok(()),
        result => result.map(|_| ())?,
    }
    let message = format!("Preempted by pod {} on node {node}", preemptor.uid);
    handle.recorder.event(
        &object_reference(&*victim.pod),
        EventType::Normal,
        "Preempted",
        message,
    );
    Ok(())
}

impl PostFilterPlugin for DefaultPreemption {
    fn post_filter(
        &self,
        framework: &Framework,
        state: &CycleState,
        pod: &Arc<PodInfo>,
        snapshot: &Snapshot,
        diagnosis: &Diagnosis,
    ) -> (Option<PostFilterResult>, Outcome) {
        let refuse =
            |why: String| Err(Status::unschedulable(format!("preemption: {why}")).by("DefaultPreemption"));
        if let Some(why) = self.ineligible(pod, snapshot, diagnosis) {
            return (None, refuse(why.to_owned()));
        }
        match self.find_candidates(framework, state, pod, snapshot, diagnosis) {
            Ok(candidates) => {
                let best = select_candidate(candidates);
                let nominated_node = best.node.to_string();
                self.evict(best, pod.clone());
                (Some(PostFilterResult { nominated_node }), Ok(()))
            }
            Err(mut refusals) => {
                refusals.absent.reasons = vec!["Preemption is not helpful for scheduling".into()];
                let error = FitError {
                    nodes: snapshot.len(),
                    diagnosis: refusals,
                };
                (
                    Some(PostFilterResult {
                        nominated_node: String::new(),
                    }),
                    refuse(error.to_string()),
                )
            }
        }
    }
}
