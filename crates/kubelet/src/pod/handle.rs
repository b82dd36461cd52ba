//! What is known of one pod: the newest spec, what was asked of its worker, and what the worker remembers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::actions::{ProbeResults, Verdict};
use super::allocation::PodResources;
use super::backoff::Backoff;
use super::container_status::{ReadinessResults, StartErrors};
use super::resize::{Note, ResizeState};
use super::runtime_status::PodRuntimeStatus;
use super::spec;
use crate::probe::Kind;

/// What the worker of a pod does at present. It only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// The pod is kept running as its spec says.
    Syncing,
    /// Containers are being stopped.
    Terminating,
    /// Nothing runs; volumes and groups are being removed, or have been.
    Terminated,
}

struct State {
    /// As its source has it.
    desired: Arc<Pod>,
    /// With the resources that it was given.
    pod: Arc<Pod>,
    resources: PodResources,
    resize: ResizeState,
    stage: Stage,
    failure: Option<(String, String)>,
    grace: Option<i64>,
    removed: bool,
    errors: StartErrors,
    backoff: Backoff,
    runtime: Arc<PodRuntimeStatus>,
    status: Option<Arc<PodStatus>>,
    verdicts: HashMap<(String, Kind), Verdict>,
    hooks_run: HashSet<String>,
}

/// One pod; shared by its worker, the sources of change, the probes and the server.
pub(crate) struct PodHandle {
    pub(crate) uid: String,
    state: Mutex<State>,
    wake: Notify,
    /// Signals a request to end, or to end sooner.
    ending: Notify,
    /// Cancelled when the pod is to end: what is being started for it stops at the next step.
    pub(crate) stop_starting: CancellationToken,
    /// Cancelled when the worker has ended.
    pub(crate) finished: CancellationToken,
}

impl PodHandle {
    /// `resources` are those that an earlier kubelet gave it.
    pub(crate) fn new(pod: Arc<Pod>, resources: Option<PodResources>) -> Self {
        let desired = pod;
        let resources = resources.unwrap_or_else(|| PodResources::of_spec(&desired));
        let pod = resources.apply(&desired);
        let in_progress = (!resources.is_actuated(|_| true)).then(|| Note {
            generation: desired.metadata.generation,
            ..Note::default()
        });
        Self {
            uid: spec::uid(&pod).to_owned(),
            state: Mutex::new(State {
                desired,
                resources,
                resize: ResizeState {
                    pending: None,
                    in_progress,
                },
                status: pod
                    .status
                    .clone()
                    .filter(|status| status.phase.is_some())
                    .map(Arc::new),
                pod,
                stage: Stage::Syncing,
                failure: None,
                grace: None,
                removed: false,
                errors: StartErrors::new(),
                backoff: Backoff::default(),
                runtime: Arc::default(),
                verdicts: HashMap::new(),
                hooks_run: HashSet::new(),
            }),
            wake: Notify::new(),
            ending: Notify::new(),
            stop_starting: CancellationToken::new(),
            finished: CancellationToken::new(),
        }
    }

    /// The newest spec as its source has it; its resources may be more than the node can give.
    pub(crate) fn desired(&self) -> Arc<Pod> {
        self.state.lock().desired.clone()
    }

    /// What the pod was given and has.
    pub(crate) fn resources(&self) -> PodResources {
        self.state.lock().resources.clone()
    }

    /// Changes what the pod was given or has.
    pub(crate) fn set_resources(&self, resources: PodResources) {
        let mut state = self.state.lock();
        state.pod = resources.apply(&state.desired);
        state.resources = resources;
    }

    /// Where a resize stands.
    pub(crate) fn resize_state(&self) -> ResizeState {
        self.state.lock().resize.clone()
    }

    /// Keeps why a resize waits; returns whether that is news.
    pub(crate) fn set_pending(&self, note: Option<Note>) -> bool {
        let mut state = self.state.lock();
        std::mem::replace(&mut state.resize.pending, note.clone()) != note
    }

    /// Keeps how far a resize is; returns whether that is news.
    pub(crate) fn set_in_progress(&self, note: Option<Note>) -> bool {
        let mut state = self.state.lock();
        std::mem::replace(&mut state.resize.in_progress, note.clone()) != note
    }

    /// The newest spec, with the resources that the pod was given.
    pub(crate) fn pod(&self) -> Arc<Pod> {
        self.state.lock().pod.clone()
    }

    /// A newer state of the pod from its source; a deletion shortens the grace period.
    pub(crate) fn update(&self, pod: Arc<Pod>) {
        let deletion = spec::deletion_timestamp(&pod).is_some();
        let grace = pod.metadata.deletion_grace_period_seconds;
        {
            let mut state = self.state.lock();
            state.pod = state.resources.apply(&pod);
            state.desired = pod;
        }
        if deletion {
            self.end(None, grace);
        }
        self.wake();
    }

    /// The pod is gone from its source.
    pub(crate) fn remove(&self) {
        self.state.lock().removed = true;
        self.end(None, None);
    }

    /// Asks the worker to end the pod, because of `failure` if there is one; only a shorter `grace` counts.
    pub(crate) fn end(&self, failure: Option<(String, String)>, grace: Option<i64>) {
        {
            let mut state = self.state.lock();
            if state.failure.is_none() && state.stage == Stage::Syncing {
                state.failure = failure;
            }
            state.stage = state.stage.max(Stage::Terminating);
            if let Some(grace) = grace {
                state.grace = Some(state.grace.map_or(grace, |known| known.min(grace)));
            }
        }
        self.stop_starting.cancel();
        self.ending.notify_waiters();
        self.wake();
    }

    /// Lets the worker look again.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Returns at the next [`Self::wake`], or at once if there was one since the last return.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Returns when the grace period is shorter than `grace`.
    pub(crate) async fn grace_shorter_than(&self, grace: i64) {
        loop {
            let ending = self.ending.notified();
            tokio::pin!(ending);
            ending.as_mut().enable();
            if self.grace_period() < grace {
                return;
            }
            ending.await;
        }
    }

    /// Seconds that the pod's containers get to end.
    pub(crate) fn grace_period(&self) -> i64 {
        let state = self.state.lock();
        let own = spec::grace_period(&state.pod);
        let grace = state
            .grace
            .or(state.pod.metadata.deletion_grace_period_seconds)
            .unwrap_or(own);
        grace.max(1)
    }

    pub(crate) fn stage(&self) -> Stage {
        self.state.lock().stage
    }

    pub(crate) fn set_terminated(&self) {
        self.state.lock().stage = Stage::Terminated;
    }

    pub(crate) fn failure(&self) -> Option<(String, String)> {
        self.state.lock().failure.clone()
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.state.lock().removed
    }

    pub(crate) fn errors(&self) -> StartErrors {
        self.state.lock().errors.clone()
    }

    pub(crate) fn with_errors<R>(&self, change: impl FnOnce(&mut StartErrors) -> R) -> R {
        change(&mut self.state.lock().errors)
    }

    pub(crate) fn with_backoff<R>(&self, change: impl FnOnce(&mut Backoff) -> R) -> R {
        change(&mut self.state.lock().backoff)
    }

    pub(crate) fn runtime(&self) -> Arc<PodRuntimeStatus> {
        self.state.lock().runtime.clone()
    }

    pub(crate) fn set_runtime(&self, runtime: Arc<PodRuntimeStatus>) {
        self.state.lock().runtime = runtime;
    }

    /// The status as last reported by this kubelet, or as the API had it at the start.
    pub(crate) fn status(&self) -> Option<Arc<PodStatus>> {
        self.state.lock().status.clone()
    }

    pub(crate) fn set_status(&self, status: Arc<PodStatus>) {
        self.state.lock().status = Some(status);
    }

    /// Keeps a probe's verdict on a container instance; returns whether it is new.
    pub(crate) fn set_verdict(&self, container_id: &str, kind: Kind, verdict: Verdict) -> bool {
        let old = self
            .state
            .lock()
            .verdicts
            .insert((container_id.to_owned(), kind), verdict);
        old != Some(verdict)
    }

    /// Forgets the verdicts on container instances that `keep` does not want.
    pub(crate) fn retain_verdicts(&self, keep: impl Fn(&str) -> bool) {
        self.state.lock().verdicts.retain(|(id, _), _| keep(id));
    }

    pub(crate) fn verdict(&self, container_id: &str, kind: Kind) -> Verdict {
        let state = self.state.lock();
        state
            .verdicts
            .get(&(container_id.to_owned(), kind))
            .copied()
            .unwrap_or_default()
    }

    /// Whether the preStop hook of this instance is still to run; it is only once.
    pub(crate) fn claim_hook(&self, container_id: &str) -> bool {
        self.state.lock().hooks_run.insert(container_id.to_owned())
    }
}

impl ProbeResults for PodHandle {
    fn liveness(&self, container_id: &str) -> Verdict {
        self.verdict(container_id, Kind::Liveness)
    }

    fn startup(&self, container_id: &str) -> Verdict {
        self.verdict(container_id, Kind::Startup)
    }
}

impl ReadinessResults for PodHandle {
    fn readiness(&self, container_id: &str) -> Verdict {
        self.verdict(container_id, Kind::Readiness)
    }
}
