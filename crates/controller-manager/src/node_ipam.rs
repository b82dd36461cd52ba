//! node-ipam-controller: gives every node a part of the cluster's pod range (`spec.podCIDRs`), and takes it back when the
//! node goes.

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::core::v1::Node;
use keelson_client::{
    EventRecorder, EventType, Informer, NamespacedName, Reconciled, WorkQueue, object_reference,
};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;

use crate::Context;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the cluster's pod range {0} has no part left")]
    Exhausted(Ipv4Net),
    #[error("cannot set the node's pod range: {0}")]
    Api(#[from] kube::Error),
}

/// Which part of the range belongs to which node.
struct Parts {
    range: Ipv4Net,
    mask: u8,
    by_node: HashMap<String, Ipv4Net>,
    /// Where the search goes on, so that a part is not reused at once.
    next: usize,
}

impl Parts {
    fn new(range: Ipv4Net, mask: u8) -> Self {
        Self {
            range,
            mask: mask.max(range.prefix_len()),
            by_node: HashMap::new(),
            next: 0,
        }
    }

    /// Notes what a node has.
    fn occupy(&mut self, node: &str, part: Ipv4Net) {
        self.by_node.insert(node.to_owned(), part);
    }

    fn release(&mut self, node: &str) {
        self.by_node.remove(node);
    }

    /// The part of `node`, a new one if it has none.
    fn allocate(&mut self, node: &str) -> Result<Ipv4Net, Error> {
        if let Some(part) = self.by_node.get(node) {
            return Ok(*part);
        }
        let exhausted = || Error::Exhausted(self.range);
        let all: Vec<Ipv4Net> = self.range.subnets(self.mask).map_err(|_| exhausted())?.collect();
        let taken = |part: &Ipv4Net| {
            self.by_node
                .values()
                .any(|other| other.contains(part) || part.contains(other))
        };
        let found = (0..all.len())
            .map(|step| (self.next + step) % all.len())
            .find(|index| !taken(&all[*index]));
        let index = found.ok_or_else(exhausted)?;
        self.next = index + 1;
        self.occupy(node, all[index]);
        Ok(all[index])
    }
}

struct State {
    client: Client,
    nodes: Informer<Node>,
    recorder: EventRecorder,
    parts: Mutex<Parts>,
}

/// Starts the controller; without `--allocate-node-cidrs` somebody else gives out the ranges.
pub(crate) async fn start(context: Context) {
    let config = context.config();
    let range = config.cluster_cidrs.iter().find_map(|range| match range {
        IpNet::V4(range) => Some(*range),
        IpNet::V6(_) => None,
    });
    let (true, Some(range)) = (config.allocate_node_cidrs, range) else {
        return;
    };
    let parts = Mutex::new(Parts::new(range, config.node_cidr_mask_size_ipv4));
    let queue: WorkQueue<NamespacedName> = WorkQueue::default();
    let nodes = context.informer::<Node>();
    if !context.before_shutdown(nodes.synced()).await {
        return;
    }
    // What nodes have must be known before the first part is given out.
    for node in nodes.list() {
        if let Some(part) = part_of(&node) {
            parts
                .lock()
                .occupy(node.metadata.name.as_deref().unwrap_or_default(), part);
        }
    }
    let sink = queue.clone();
    nodes.on_change(move |change| sink.add(NamespacedName::of(change.object().as_ref())));
    let recorder = context.recorder("cidrAllocator");
    let state = Arc::new(State {
        client: context.client(),
        nodes,
        recorder,
        parts,
    });
    context
        .work(queue, 1, state, |state, key| async move {
            reconcile(&state, &key).await
        })
        .await;
}

fn part_of(node: &Node) -> Option<Ipv4Net> {
    let spec = node.spec.as_ref()?;
    let listed = spec.pod_cidrs.iter().flatten().chain(spec.pod_cidr.as_ref());
    listed.filter_map(|part| part.parse().ok()).next()
}

async fn reconcile(state: &State, key: &NamespacedName) -> Result<Reconciled, Error> {
    let Some(node) = state.nodes.get(key) else {
        state.parts.lock().release(&key.name);
        return Ok(Reconciled::Done);
    };
    if let Some(part) = part_of(&node) {
        state.parts.lock().occupy(&key.name, part);
        return Ok(Reconciled::Done);
    }
    let allocated = state.parts.lock().allocate(&key.name);
    let part = allocated.inspect_err(|_| {
        let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
        state.recorder.event(
            &object_reference(node.as_ref()),
            EventType::Normal,
            "CIDRNotAvailable",
            message,
        );
    })?;
    let text = part.to_string();
    let patch = json!({"spec": {"podCIDR": text, "podCIDRs": [text]}});
    match Api::<Node>::all(state.client.clone())
        .patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
    {
        Ok(_) => Ok(Reconciled::Done),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Reconciled::Done),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_disjoint_kept_and_given_back() {
        let mut parts = Parts::new("10.244.0.0/22".parse().unwrap(), 24);
        parts.occupy("old", "10.244.0.0/24".parse().unwrap());
        let given: Vec<String> = ["a", "b", "a", "c"]
            .map(|node| parts.allocate(node).unwrap().to_string())
            .to_vec();
        assert_eq!(
            given,
            ["10.244.1.0/24", "10.244.2.0/24", "10.244.1.0/24", "10.244.3.0/24"]
        );
        assert!(matches!(parts.allocate("d"), Err(Error::Exhausted(_))));
        parts.release("b");
        assert_eq!(parts.allocate("d").unwrap().to_string(), "10.244.2.0/24");
    }
}
