//! The binding cycle of one assumed pod: Permit, PreBind, Bind, PostBind; on failure everything is taken back.

use std::sync::Arc;
use std::time::Duration;

use keelson_client::{EventType, object_reference};
use tokio_util::sync::CancellationToken;

use crate::cache::PodInfo;
use crate::failure::Failure;
use crate::framework::{ClusterEvent, CycleState, Diagnosis, FitError, Outcome, Status};
use crate::queue::QueuedPod;
use crate::scheduler::Shared;

/// How long bindings on their way may take to end after shutdown.
const GRACE: Duration = Duration::from_secs(1);

/// A pod on its way to a node.
pub(crate) struct Binding {
    pub(crate) queued: QueuedPod,
    pub(crate) assumed: Arc<PodInfo>,
    pub(crate) state: CycleState,
}

impl Binding {
    /// Runs the cycle. After `shutdown` it is given up soon: the next scheduler sees what became of it.
    pub(crate) async fn run(self, shared: Arc<Shared>, shutdown: CancellationToken) {
        let grace = async {
            shutdown.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            () = self.complete(&shared) => {}
            () = grace => {}
        }
    }

    async fn complete(self, shared: &Arc<Shared>) {
        if let Err(status) = self.try_bind(shared).await {
            self.undo(shared, status).await;
            return;
        }
        let (pod, node) = (&self.assumed, &self.assumed.node_name);
        let message = format!(
            "Successfully assigned {}/{} to {node}",
            pod.key.namespace, pod.key.name
        );
        let reference = object_reference(&*pod.pod);
        shared
            .recorder(pod)
            .event(&reference, EventType::Normal, "Scheduled", message);
        shared.profiles.of(pod).run_post_bind(&self.state, pod, node);
        tracing::debug!(pod = %pod.key, %node, attempts = self.queued.attempts, "bound");
    }

    async fn try_bind(&self, shared: &Arc<Shared>) -> Outcome {
        let (pod, node) = (&self.assumed, &self.assumed.node_name);
        let framework = shared.profiles.of(pod);
        framework.run_permit(&self.state, pod, node).await?;
        // From here on the pod is not unschedulable: a failure is tried again with backoff, whatever happens meanwhile.
        shared.queue.done(&pod.uid);
        framework.run_pre_bind(&self.state, pod, node).await?;
        framework.run_bind(&self.state, pod, node).await
    }

    /// Takes back what the pod has got so far, and queues it again.
    pub(crate) async fn undo(self, shared: &Arc<Shared>, status: Status) {
        let pod = &self.assumed;
        shared
            .profiles
            .of(pod)
            .run_unreserve(&self.state, pod, &pod.node_name);
        if shared.cache.lock().forget(&pod.uid) {
            // What the pod had taken is free for others.
            shared
                .queue
                .on_event(ClusterEvent::AssignedPodDeleted(pod.clone()));
        }
        let failure = if status.is_rejected() {
            let mut diagnosis = Diagnosis::default();
            diagnosis.refuse(pod.node_name.clone(), status);
            Failure::unschedulable(FitError { nodes: 1, diagnosis })
        } else {
            Failure::error(status.message())
        };
        if let Some(patch) = shared.fail(self.queued, failure, None) {
            patch.write(shared.handle.client.clone()).await;
        }
    }
}
