//! The scheduler on a real API server in this process, with nodes that are objects only.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use keelson_scheduler::Config;
use serde_json::json;
use support::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_pods_spread_over_ten_nodes() {
    let cluster = Cluster::start(Config::default()).await;
    for at in 0..10 {
        cluster.node(&format!("n{at}"), json!({"cpu": "8", "memory": "16Gi", "pods": "110"})).await;
    }
    let start = Instant::now();
    cluster.pods("burst", 300, json!({"cpu": "100m", "memory": "64Mi"})).await;
    let pods = cluster.all_scheduled(300).await;
    let took = start.elapsed();
    let mut per_node: BTreeMap<String, usize> = BTreeMap::new();
    for pod in &pods {
        *per_node.entry(support::node_of(pod)).or_default() += 1;
    }
    assert_eq!(per_node.len(), 10, "{per_node:?}");
    let (least, most) = (per_node.values().min().unwrap(), per_node.values().max().unwrap());
    assert!(most - least <= 6, "uneven: {per_node:?}");
    assert!(took < Duration::from_secs(20), "300 pods took {took:?}");
    eprintln!("300 pods created and bound in {took:?}");
    let event = cluster.event("burst-0", "Scheduled").await;
    assert_eq!(event.message.as_deref().unwrap(), format!("Successfully assigned default/burst-0 to {}", cluster.node_of("burst-0").await));
    assert_eq!(event.source.unwrap().component.unwrap(), "default-scheduler");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_waits_and_says_why() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.pod(json!({"metadata": {"name": "early"}, "spec": {}})).await;
    let message = cluster.unschedulable("early").await;
    assert_eq!(message, "no nodes available to schedule pods");
    cluster.node("tainted", json!({"cpu": "8", "memory": "8Gi", "pods": "110"})).await;
    cluster.taint("tainted", "k", "v").await;
    cluster.pod(json!({"metadata": {"name": "late"}, "spec": {"containers": [
        {"name": "c", "image": "i", "resources": {"requests": {"cpu": "3"}}}]}})).await;
    for name in ["a", "b"] {
        cluster.node(name, json!({"cpu": "2", "memory": "8Gi", "pods": "110"})).await;
    }
    let expected = "0/3 nodes are available: 1 node(s) had untolerated taint {k: v}, 2 Insufficient cpu. preemption: 0/3 \
        nodes are available: 3 Preemption is not helpful for scheduling.";
    cluster.unschedulable_with("late", expected).await;
    let event = cluster.event_with("late", expected).await;
    assert_eq!((event.reason.as_deref(), event.type_.as_deref()), (Some("FailedScheduling"), Some("Warning")));
    // Room appears: the pod goes there without delay.
    cluster.node("big", json!({"cpu": "8", "memory": "8Gi", "pods": "110"})).await;
    cluster.scheduled("late").await;
    assert_eq!(cluster.node_of("late").await, "big");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_never_over_committed_and_room_is_used_again() {
    let cluster = Cluster::start(Config::default()).await;
    for name in ["a", "b"] {
        cluster.node(name, json!({"cpu": "1", "memory": "8Gi", "pods": "110"})).await;
    }
    cluster.pods("p", 12, json!({"cpu": "200m"})).await;
    let pods = cluster.all_scheduled(10).await;
    let on_a = pods.iter().filter(|pod| support::node_of(pod) == "a").count();
    assert_eq!(on_a, 5);
    let waiting = cluster.waiting().await;
    assert_eq!(waiting.len(), 2);
    let gone = pods[0].metadata.name.clone().unwrap();
    cluster.delete_pod(&gone).await;
    cluster.all_scheduled(10).await;
    assert_eq!(cluster.waiting().await.len(), 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pod_after_the_other_is_bound_at_once() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.node("a", json!({"cpu": "8", "memory": "8Gi", "pods": "110"})).await;
    let mut times = Vec::new();
    for at in 0..20 {
        let start = Instant::now();
        cluster.pods(&format!("one{at}"), 1, json!({"cpu": "10m"})).await;
        cluster.all_scheduled(at + 1).await;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    eprintln!("create to bound: p50 {:?}, max {:?}", times[10], times[19]);
    assert!(times[10] < Duration::from_millis(250), "{times:?}");
    cluster.stop().await;
}
