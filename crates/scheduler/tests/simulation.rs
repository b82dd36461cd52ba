//! The scheduler on a real API server in this process, with nodes that are objects only.

#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use keelson_scheduler::{Config, Configuration};
use serde_json::json;
use support::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_pods_spread_over_ten_nodes() {
    let cluster = Cluster::start(Config::default()).await;
    for at in 0..10 {
        cluster
            .node(
                &format!("n{at}"),
                json!({"cpu": "8", "memory": "16Gi", "pods": "110"}),
            )
            .await;
    }
    let start = Instant::now();
    cluster
        .pods("burst", 300, json!({"cpu": "100m", "memory": "64Mi"}))
        .await;
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
    assert_eq!(
        event.message.as_deref().unwrap(),
        format!(
            "Successfully assigned default/burst-0 to {}",
            cluster.node_of("burst-0").await
        )
    );
    assert_eq!(event.source.unwrap().component.unwrap(), "default-scheduler");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_waits_and_says_why() {
    let cluster = Cluster::start(Config::default()).await;
    cluster
        .pod(json!({"metadata": {"name": "early"}, "spec": {}}))
        .await;
    let message = cluster.unschedulable("early").await;
    assert_eq!(message, "no nodes available to schedule pods");
    cluster
        .node("tainted", json!({"cpu": "8", "memory": "8Gi", "pods": "110"}))
        .await;
    cluster.taint("tainted", "k", "v").await;
    cluster
        .pod(json!({"metadata": {"name": "late"}, "spec": {"containers": [
        {"name": "c", "image": "i", "resources": {"requests": {"cpu": "3"}}}]}}))
        .await;
    for name in ["a", "b"] {
        cluster
            .node(name, json!({"cpu": "2", "memory": "8Gi", "pods": "110"}))
            .await;
    }
    let expected = "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. no new claims to deallocate, preemption: 0/3 \
        nodes are available: 3 Preemption is not helpful for scheduling.";
    cluster.unschedulable_with("late", expected).await;
    let event = cluster.event_with("late", expected).await;
    assert_eq!(
        (event.reason.as_deref(), event.type_.as_deref()),
        (Some("FailedScheduling"), Some("Warning"))
    );
    // Room appears: the pod goes there without delay.
    cluster
        .node("big", json!({"cpu": "8", "memory": "8Gi", "pods": "110"}))
        .await;
    cluster.scheduled("late").await;
    assert_eq!(cluster.node_of("late").await, "big");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_never_over_committed_and_room_is_used_again() {
    let cluster = Cluster::start(Config::default()).await;
    for name in ["a", "b"] {
        cluster
            .node(name, json!({"cpu": "1", "memory": "8Gi", "pods": "110"}))
            .await;
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
    cluster
        .node("a", json!({"cpu": "8", "memory": "8Gi", "pods": "110"}))
        .await;
    let mut bound = cluster.bound_pods();
    let mut times = Vec::new();
    for at in 0..30 {
        cluster.pods(&format!("one{at}"), 1, json!({"cpu": "10m"})).await;
        let created = Instant::now();
        assert_eq!(bound.recv().await.unwrap(), format!("one{at}-0"));
        times.push(created.elapsed());
    }
    times.sort_unstable();
    eprintln!("created to seen bound: p50 {:?}, max {:?}", times[15], times[29]);
    assert!(times[15] < Duration::from_millis(100), "{times:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_higher_priority_take_the_place_of_lower_ones() {
    let cluster = Cluster::start(Config::default()).await;
    for (name, value) in [("low", 10), ("high", 1000)] {
        cluster.priority_class(name, value).await;
    }
    for name in ["a", "b"] {
        cluster
            .node(name, json!({"cpu": "1", "memory": "8Gi", "pods": "110"}))
            .await;
    }
    let pod = |name: &str, class: &str, cpu: &str| {
        json!({"metadata": {"name": name, "labels": {"app": class}}, "spec": {
            "priorityClassName": class, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}})
    };
    for at in 0..4 {
        cluster.pod(pod(&format!("low{at}"), "low", "500m")).await;
    }
    cluster.all_scheduled(4).await;
    cluster.pod(pod("high0", "high", "600m")).await;
    // Both pods of one node must go; their kubelet, which is us, lets them.
    cluster.scheduled_while_deleting("high0").await;
    let node = cluster.node_of("high0").await;
    let left = cluster.names().await;
    assert_eq!(left.len(), 3, "only the pods of one node went: {left:?}");
    let victim = (0..4)
        .map(|at| format!("low{at}"))
        .find(|name| !left.contains(name))
        .unwrap();
    let event = cluster.event(&victim, "Preempted").await;
    let uid = cluster.uid_of("high0").await;
    assert_eq!(
        event.message.unwrap(),
        format!("Preempted by pod {uid} on node {node}")
    );
    // The same priority preempts nobody.
    cluster.pod(pod("high1", "high", "600m")).await;
    cluster.scheduled_while_deleting("high1").await;
    cluster.pod(pod("high2", "high", "600m")).await;
    let expected = "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are \
        available: 2 No preemption victims found for incoming pod.";
    cluster.unschedulable_with("high2", expected).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anti_affinity_spread_constraints_and_gates_hold() {
    let cluster = Cluster::start(Config::default()).await;
    for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
        let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone});
        cluster
            .node_with(name, labels, json!({"cpu": "8", "memory": "8Gi", "pods": "110"}))
            .await;
    }
    let alone = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "alone"}}}]}});
    for at in 0..4 {
        let metadata = json!({"name": format!("alone{at}"), "labels": {"app": "alone"}});
        cluster
            .pod(json!({"metadata": metadata, "spec": {"affinity": alone}}))
            .await;
    }
    let bound = cluster.all_scheduled(3).await;
    let nodes: std::collections::BTreeSet<_> = bound.iter().map(support::node_of).collect();
    assert_eq!(nodes.len(), 3);
    let waiting = cluster.waiting().await;
    let expected = "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules. no new claims to \
        deallocate, preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod.";
    cluster.unschedulable_with(&waiting[0], expected).await;

    let spread = json!([{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "spread"}}}]);
    for at in 0..6 {
        let metadata = json!({"name": format!("spread{at}"), "labels": {"app": "spread"}});
        cluster
            .pod(json!({"metadata": metadata, "spec": {"topologySpreadConstraints": spread}}))
            .await;
    }
    let bound = cluster.all_scheduled(9).await;
    let spread: Vec<_> = bound
        .iter()
        .filter(|pod| pod.metadata.name.as_ref().unwrap().starts_with("spread"))
        .collect();
    assert_eq!(
        spread.iter().filter(|pod| support::node_of(pod) == "b1").count(),
        3,
        "half of them in each zone"
    );

    cluster.pod(json!({"metadata": {"name": "gated"}, "spec": {"schedulingGates": [{"name": "example.com/wait"}]}})).await;
    cluster
        .pod(json!({"metadata": {"name": "free"}, "spec": {}}))
        .await;
    cluster.scheduled("free").await;
    assert_eq!(cluster.node_of("gated").await, "");
    cluster
        .patch_pod("gated", json!({"spec": {"schedulingGates": null}}))
        .await;
    cluster.scheduled("gated").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_waited_for_and_bound_to_the_node() {
    let cluster = Cluster::start(Config::default()).await;
    for name in ["a", "b"] {
        cluster
            .node(name, json!({"cpu": "8", "memory": "8Gi", "pods": "110"}))
            .await;
    }
    let volume = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
    cluster
        .pod(json!({"metadata": {"name": "p"}, "spec": {"volumes": volume}}))
        .await;
    let expected = "0/2 nodes are available: persistentvolumeclaim \"data\" not found. no new claims to deallocate, \
        preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    cluster.unschedulable_with("p", expected).await;
    cluster.storage_class("late", "WaitForFirstConsumer").await;
    cluster.local_volume("pv-b", "late", "b").await;
    cluster
        .create::<k8s_openapi::api::core::v1::PersistentVolumeClaim>(
            json!({"metadata": {"name": "data"}, "spec": {
            "storageClassName": "late", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}}),
        )
        .await;
    // The volume controller, which is us, completes what the scheduler began.
    cluster.complete_binding("pv-b", "data").await;
    cluster.scheduled("p").await;
    assert_eq!(cluster.node_of("p").await, "b");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_candidates_schedule_every_pod_once() {
    let config = |identity: &str| Config {
        leader_election_identity: Some(identity.to_owned()),
        ..Config::default()
    };
    let cluster = Cluster::start(config("one")).await;
    let second = cluster.another(config("two"));
    cluster
        .node("a", json!({"cpu": "8", "memory": "8Gi", "pods": "110"}))
        .await;
    cluster.pods("p", 20, json!({"cpu": "10m"})).await;
    cluster.all_scheduled(20).await;
    // The leader goes and gives the lease back: the other takes over without waiting for it to run out.
    cluster.stop_scheduler().await;
    cluster.pods("q", 5, json!({"cpu": "10m"})).await;
    cluster.all_scheduled(25).await;
    second.stop().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_fifty_is_bound_together() {
    let cluster = Cluster::start(Config::default()).await;
    for at in 0..3 {
        cluster
            .node(
                &format!("n{at}"),
                json!({"cpu": "8", "memory": "16Gi", "pods": "110"}),
            )
            .await;
    }
    let start = Instant::now();
    cluster.pods("p", 50, json!({"cpu": "10m"})).await;
    let created = start.elapsed();
    cluster.all_scheduled(50).await;
    let bound = start.elapsed();
    eprintln!("50 pods: created after {created:?}, bound after {bound:?}");
    assert!(bound < Duration::from_secs(5), "{bound:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_binding_is_tried_again() {
    let config = Config {
        pod_initial_backoff: Duration::from_millis(50),
        ..Config::default()
    };
    let cluster = Cluster::start_with_failures(config, 2).await;
    cluster
        .node("a", json!({"cpu": "1", "memory": "8Gi", "pods": "110"}))
        .await;
    // Two of these together do not fit: what the failed attempt had taken must have been given back.
    cluster.pods("p", 1, json!({"cpu": "800m"})).await;
    cluster.scheduled("p-0").await;
    cluster
        .event_starting("p-0", "running Bind plugin \"DefaultBinder\": ")
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_profile_schedules_its_own_pods_in_its_own_way() {
    let text = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles:\n\
        - schedulerName: default-scheduler\n- schedulerName: careless\n  plugins:\n    filter:\n\
        \x20     disabled: [{name: TaintToleration}]\n";
    let config = Configuration::parse(text).unwrap().config;
    let cluster = Cluster::start(config).await;
    cluster
        .node("n", json!({"cpu": "4", "memory": "8Gi", "pods": "110"}))
        .await;
    cluster.taint("n", "dedicated", "others").await;
    let pod = |name: &str, scheduler: &str| json!({"metadata": {"name": name}, "spec": {"schedulerName": scheduler}});
    cluster.pod(pod("nobodys", "unknown")).await;
    cluster.pod(pod("strict", "default-scheduler")).await;
    cluster.pod(pod("careless", "careless")).await;
    cluster.scheduled("careless").await;
    let event = cluster.event("careless", "Scheduled").await;
    assert_eq!(event.source.unwrap().component.unwrap(), "careless");
    let message = cluster.unschedulable("strict").await;
    assert!(message.contains("untolerated taint"), "{message}");
    let event = cluster.event("strict", "FailedScheduling").await;
    assert_eq!(event.source.unwrap().component.unwrap(), "default-scheduler");
    assert_eq!(cluster.node_of("nobodys").await, "");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preempted_pod_says_so_in_a_condition() {
    let cluster = Cluster::start(Config::default()).await;
    cluster.priority_class("high", 1000).await;
    cluster
        .node(
            "n",
            json!({"cpu": "1", "memory": "8Gi", "pods": "110", "example.com/fakecpu": "5"}),
        )
        .await;
    let pod = |name: &str, class: &str, amount: &str| {
        let amounts = json!({"example.com/fakecpu": amount});
        let resources = json!({"requests": amounts, "limits": amounts});
        // Its finalizer keeps it there to be looked at.
        json!({"metadata": {"name": name, "finalizers": ["example.com/look"]}, "spec": {
            "priorityClassName": class, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "i", "resources": resources}]}})
    };
    cluster.pod(pod("victim", "", "4")).await;
    cluster.scheduled("victim").await;
    cluster.pod(pod("preemptor", "high", "3")).await;
    cluster.event("victim", "Preempted").await;
    let victim = cluster.api::<Pod>().get("victim").await.unwrap();
    assert!(victim.metadata.deletion_timestamp.is_some());
    let conditions = victim.status.unwrap().conditions.unwrap();
    let target = conditions
        .iter()
        .find(|condition| condition.type_ == "DisruptionTarget")
        .unwrap();
    assert_eq!(target.status, "True");
    assert_eq!(target.reason.as_deref(), Some("PreemptionByScheduler"));
    assert_eq!(
        target.message.as_deref(),
        Some("default-scheduler: preempting to accommodate a higher priority pod")
    );
    for name in ["victim", "preemptor"] {
        cluster
            .patch_pod(name, json!({"metadata": {"finalizers": null}}))
            .await;
    }
    cluster.scheduled_while_deleting("preemptor").await;
    cluster.stop().await;
}
