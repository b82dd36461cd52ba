//! What the node says of itself when something is short.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use keelson_kubelet::Threshold;
use kube::Api;
use kube::runtime::wait::await_condition;

use super::Test;
use super::fixture::{Cluster, NODE, on_cluster};

pub(crate) const TESTS: &[Test] = &[(
    "pressure_on_the_disk_is_told_and_taken_back_at_a_start",
    restarted,
)];

/// Sooner than the first regular measurement, which is 10 s after the start.
const AT_ONCE: Duration = Duration::from_secs(8);

fn of_kind(node: &Node, kind: &str) -> Option<NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .cloned()
}

/// Starts the kubelet with this threshold and waits until it reports DiskPressure so; when the node became ready.
async fn start(cluster: &mut Cluster, available: u64, pressure: &str) -> String {
    cluster.stop_kubelet().await;
    cluster.config.eviction_hard.nodefs_available = Threshold::Quantity(available);
    cluster.start_kubelet();
    let nodes = Api::<Node>::all(cluster.client.clone());
    let told = |node: Option<&Node>| {
        node.and_then(|node| of_kind(node, "DiskPressure"))
            .is_some_and(|condition| condition.status == pressure)
    };
    let node = tokio::time::timeout(AT_ONCE, await_condition(nodes, NODE, told)).await;
    let node = node.expect("DiskPressure is reported at once").unwrap().unwrap();
    let ready = of_kind(&node, "Ready").unwrap();
    ready.last_transition_time.unwrap().0.to_string()
}

fn restarted() {
    on_cluster(async |cluster| {
        let since = start(cluster, 1 << 20, "False").await;
        assert_eq!(start(cluster, 1 << 60, "True").await, since);
        assert_eq!(start(cluster, 1 << 20, "False").await, since);
    });
}
