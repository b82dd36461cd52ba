//! pod-garbage-collector-controller: deletes pods that nobody else would: those whose node is gone, those that were deleted
//! before they got a node, and the oldest of more finished ones than `--terminated-pod-gc-threshold`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use keelson_client::{Change, Index, Informer, NamespacedName, Reconciled, WorkQueue};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};

use crate::Context;
use crate::disruption_target;
use crate::shared::owner::{is_deleting, name, namespace};
use crate::shared::pod::{is_finished, node_name};
use crate::shared::{ReconcileError, api_error};

const WORKERS: usize = 2;
/// How long a node must be gone before its pods are orphans, as upstream has it: it may be on its way.
const QUARANTINE: Duration = Duration::from_secs(40);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Task {
    /// A node that pods are bound to is not there.
    Node(String),
    /// There are too many finished pods.
    Finished,
    /// A pod is being deleted and has no node.
    Unscheduled(NamespacedName),
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Finished => f.write_str("finished pods"),
            Self::Unscheduled(key) => write!(f, "unscheduled pod {key}"),
        }
    }
}

struct Collector {
    client: Client,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    by_node: Index<String, Pod>,
    finished: Index<bool, Pod>,
    /// Zero or less: no limit.
    threshold: i32,
}

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let pods = context.informer::<Pod>();
    let nodes = context.informer::<Node>();
    let queue: WorkQueue<Task> = WorkQueue::default();
    let collector = Arc::new(Collector {
        client: context.client(),
        by_node: pods.index(|pod: &Pod| vec![node_name(pod).to_owned()]),
        finished: pods.index(|pod: &Pod| vec![is_finished(pod)]),
        pods: pods.clone(),
        nodes: nodes.clone(),
        threshold: context.config().terminated_pod_gc_threshold,
    });
    // Before the nodes are known every pod would look like an orphan.
    if !context.before_shutdown(nodes.synced()).await {
        return;
    }
    {
        let queue = queue.clone();
        nodes.on_change(move |change| {
            if let Change::Deleted(node) = change {
                queue.add_after(Task::Node(name(node.as_ref()).to_owned()), QUARANTINE);
            }
        });
    }
    {
        let (queue, collector) = (queue.clone(), collector.clone());
        pods.on_change(move |change| {
            if let Change::Added(pod) | Change::Updated(_, pod) = change {
                collector.observe(pod, matches!(change, Change::Added(_)), &queue);
            }
        });
    }
    context
        .work_after(
            pods.synced(),
            queue,
            WORKERS,
            collector,
            |collector, task| async move { collector.carry_out(task).await },
        )
        .await;
}

impl Collector {
    fn observe(&self, pod: &Pod, is_new: bool, queue: &WorkQueue<Task>) {
        let node = node_name(pod);
        if node.is_empty() {
            if is_deleting(pod) {
                queue.add(Task::Unscheduled(NamespacedName::of(pod)));
            }
        } else if is_new && self.nodes.get(&NamespacedName::new("", node)).is_none() {
            queue.add_after(Task::Node(node.to_owned()), QUARANTINE);
        }
        if is_finished(pod) && self.excess() > 0 {
            queue.add(Task::Finished);
        }
    }

    fn excess(&self) -> usize {
        let limit = usize::try_from(self.threshold).unwrap_or(0);
        if limit == 0 {
            0
        } else {
            self.finished.count(&true).saturating_sub(limit)
        }
    }

    async fn carry_out(&self, task: Task) -> Result<Reconciled, ReconcileError> {
        match task {
            Task::Node(name) => self.orphans(&name).await?,
            Task::Finished => self.finished().await?,
            Task::Unscheduled(key) => {
                if let Some(pod) = self.pods.get(&key)
                    && is_deleting(pod.as_ref())
                    && node_name(&pod).is_empty()
                {
                    self.fail_and_delete(&pod, None).await?;
                }
            }
        }
        Ok(Reconciled::Done)
    }

    async fn orphans(&self, node: &str) -> Result<(), ReconcileError> {
        let known = self.nodes.get(&NamespacedName::new("", node)).is_some();
        // The cache says that it is gone; deleting its pods needs the server's word.
        if known
            || Api::<Node>::all(self.client.clone())
                .get_opt(node)
                .await?
                .is_some()
        {
            return Ok(());
        }
        for pod in self.by_node.get(node) {
            let disrupted =
                (!is_finished(&pod)).then_some(("DeletionByPodGC", "PodGC: node no longer exists"));
            self.fail_and_delete(&pod, disrupted).await?;
        }
        Ok(())
    }

    async fn finished(&self) -> Result<(), ReconcileError> {
        let mut pods = self.finished.get(&true);
        pods.retain(|pod| !is_deleting(pod.as_ref()));
        pods.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (created, pod.metadata.name.clone())
        });
        for pod in pods.iter().take(self.excess()) {
            self.fail_and_delete(pod, None).await?;
        }
        Ok(())
    }

    async fn fail_and_delete(
        &self,
        pod: &Pod,
        disrupted: Option<(&str, &str)>,
    ) -> Result<(), ReconcileError> {
        if !is_finished(pod) {
            disruption_target::set_failed(&self.client, pod, disrupted).await?;
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace(pod));
        api_error::ignore_not_found(api.delete(name(pod), &params.grace_period(0)).await)?;
        Ok(())
    }
}
