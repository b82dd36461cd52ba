//! ttl-controller: tells each node, by an annotation, for how long its kubelet may keep secrets and config maps of pods in
//! its cache: the more nodes, the longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::Node;
use keelson_client::{Change, Informer, NamespacedName, Reconciled, WorkQueue};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;

use crate::Context;
use crate::shared::pod::annotation;
use crate::shared::{ReconcileError, api_error};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";
const WORKERS: usize = 1;

/// A step: it is left downwards below `min` nodes and upwards above `max`.
struct Step {
    min: usize,
    max: usize,
    seconds: u32,
}

/// Upstream's steps; they overlap, so that a node more or less does not change every node.
const STEPS: [Step; 6] = [
    Step {
        min: 0,
        max: 100,
        seconds: 0,
    },
    Step {
        min: 90,
        max: 500,
        seconds: 15,
    },
    Step {
        min: 450,
        max: 1000,
        seconds: 30,
    },
    Step {
        min: 900,
        max: 2000,
        seconds: 60,
    },
    Step {
        min: 1800,
        max: 10_000,
        seconds: 300,
    },
    Step {
        min: 9000,
        max: usize::MAX,
        seconds: 600,
    },
];

/// The step for so many nodes, when `step` was the one before.
fn next(mut step: usize, nodes: usize) -> usize {
    while nodes > STEPS[step].max {
        step += 1;
    }
    while nodes < STEPS[step].min {
        step -= 1;
    }
    step
}

struct State {
    client: Client,
    nodes: Informer<Node>,
    /// Index into [`STEPS`].
    step: AtomicUsize,
}

/// Runs the controller.
pub(crate) async fn start(context: Context) {
    let nodes = context.informer::<Node>();
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let state = Arc::new(State {
        client: context.client(),
        nodes: nodes.clone(),
        step: AtomicUsize::new(0),
    });
    let (sink, shared, count) = (queue.clone(), state.clone(), Mutex::new(0));
    nodes.on_change(move |change| {
        let key = NamespacedName::of(change.object().as_ref());
        let mut count = count.lock();
        match change {
            Change::Added(_) => *count += 1,
            Change::Deleted(_) => *count -= 1,
            Change::Updated(..) => {}
        }
        let before = shared.step.load(Ordering::Relaxed);
        let now = next(before, *count);
        if now != before {
            shared.step.store(now, Ordering::Relaxed);
            let all = shared.nodes.list();
            all.iter()
                .for_each(|node| sink.add(NamespacedName::of(node.as_ref())));
        }
        if !matches!(change, Change::Deleted(_)) {
            sink.add(key);
        }
    });
    context
        .work_after(nodes.synced(), queue, WORKERS, state, |state, key| async move {
            state.sync(&key).await
        })
        .await;
}

impl State {
    async fn sync(&self, key: &NamespacedName) -> Result<Reconciled, ReconcileError> {
        let seconds = STEPS[self.step.load(Ordering::Relaxed)].seconds.to_string();
        let is_set = |node: &Node| annotation(node, ANNOTATION) == Some(seconds.as_str());
        if self.nodes.get(key).is_none_or(|node| is_set(&node)) {
            return Ok(Reconciled::Done);
        }
        let patch = Patch::Strategic(json!({"metadata": {"annotations": {ANNOTATION: seconds}}}));
        let api: Api<Node> = Api::all(self.client.clone());
        api_error::ignore_not_found(api.patch(&key.name, &PatchParams::default(), &patch).await)?;
        Ok(Reconciled::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_hysteresis() {
        for (before, nodes, seconds) in [
            (0, 0, 0),
            (0, 100, 0),
            (0, 101, 15),
            (1, 95, 15),
            (1, 89, 0),
            (0, 1500, 60),
            (3, 899, 30),
            (0, 50_000, 600),
            (5, 10, 0),
        ] {
            assert_eq!(STEPS[next(before, nodes)].seconds, seconds, "{before} {nodes}");
        }
    }
}
