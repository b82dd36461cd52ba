//! The queues on a clock that tests move.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::{QueuedPod, SchedulingQueue};
use crate::cache::PodInfo;
use crate::config::Config;
use crate::framework::{ClusterEvent, Framework, Profiles};
use crate::plugins;
use crate::testing::{handle, pod, requesting};

fn queue() -> SchedulingQueue {
    let handle = handle(&[], Config::default());
    let mut framework = Framework::new(handle.nominator.clone());
    plugins::register_all(&mut framework, &handle);
    let profiles = Profiles::new("default-scheduler", framework);
    SchedulingQueue::new(Arc::new(profiles), handle.config)
}

fn named(name: &str, priority: i32) -> Arc<PodInfo> {
    pod(requesting(name, "", priority, json!({"cpu": "1"})))
}

fn fit() -> BTreeSet<&'static str> {
    BTreeSet::from(["NodeResourcesFit"])
}

async fn next(queue: &SchedulingQueue) -> Option<QueuedPod> {
    timeout(Duration::from_secs(1000), queue.pop())
        .await
        .ok()
        .flatten()
}

/// Nothing comes within this time.
async fn silent(queue: &SchedulingQueue, time: Duration) -> bool {
    timeout(time, queue.pop()).await.is_err()
}

fn deleted(requests: Value) -> ClusterEvent {
    ClusterEvent::AssignedPodDeleted(pod(requesting("gone", "n", 0, requests)))
}

#[tokio::test(start_paused = true)]
async fn higher_priority_goes_first_then_who_waits_longer() {
    let queue = queue();
    for (name, priority) in [("late", 0), ("first", 5), ("second", 5)] {
        queue.add(named(name, priority));
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    for expected in ["first", "second", "late"] {
        assert_eq!(&*next(&queue).await.unwrap().info.key.name, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_unschedulable_waits_for_an_event_that_helps() {
    let queue = queue();
    queue.add(named("p", 0));
    let attempt = next(&queue).await.unwrap();
    queue.requeue(attempt, fit());
    assert!(silent(&queue, Duration::from_secs(30)).await);
    // Another pod's arrival makes no room.
    queue.on_event(ClusterEvent::AssignedPodAdded(named("other", 0)));
    assert!(silent(&queue, Duration::from_secs(30)).await);
    queue.on_event(deleted(json!({"cpu": "1"})));
    let attempt = next(&queue).await.unwrap();
    assert_eq!(attempt.attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn events_during_an_attempt_are_not_lost() {
    let queue = queue();
    queue.add(named("p", 0));
    let attempt = next(&queue).await.unwrap();
    queue.on_event(deleted(json!({"cpu": "1"})));
    queue.requeue(attempt, fit());
    let start = Instant::now();
    assert_eq!(next(&queue).await.unwrap().attempts, 2);
    assert!(
        start.elapsed() < Duration::from_millis(10),
        "nothing else to do: no backoff"
    );
}

#[tokio::test(start_paused = true)]
async fn events_before_an_attempt_do_not_count_after_it() {
    let queue = queue();
    queue.add(named("a", 0));
    queue.add(named("b", 0));
    let first = next(&queue).await.unwrap();
    queue.on_event(deleted(json!({"cpu": "1"})));
    let second = next(&queue).await.unwrap();
    queue.requeue(second, fit());
    assert!(silent(&queue, Duration::from_secs(1)).await);
    queue.done(&first.info.uid);
    assert!(silent(&queue, Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn errors_back_off_from_one_second_to_ten() {
    let queue = queue();
    queue.add(named("p", 0));
    let mut attempt = next(&queue).await.unwrap();
    for expected in [1, 2, 4, 8, 10, 10] {
        let start = Instant::now();
        queue.requeue(attempt, BTreeSet::new());
        attempt = next(&queue).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), expected);
    }
    assert_eq!(attempt.attempts, 7);
}

#[tokio::test(start_paused = true)]
async fn the_active_queue_goes_before_those_that_back_off() {
    let queue = queue();
    queue.add(named("p", 0));
    let attempt = next(&queue).await.unwrap();
    queue.on_event(deleted(json!({"cpu": "1"})));
    queue.requeue(attempt, fit());
    queue.add(named("new", 0));
    assert_eq!(&*next(&queue).await.unwrap().info.key.name, "new");
    assert_eq!(&*next(&queue).await.unwrap().info.key.name, "p");
}

#[tokio::test(start_paused = true)]
async fn five_minutes_are_the_longest_wait() {
    let queue = queue();
    queue.add(named("p", 0));
    let attempt = next(&queue).await.unwrap();
    let start = Instant::now();
    queue.requeue(attempt, fit());
    assert!(next(&queue).await.is_some());
    assert_eq!(start.elapsed().as_secs(), 300);
}

#[tokio::test(start_paused = true)]
async fn gates_keep_a_pod_out_until_they_are_gone() {
    let queue = queue();
    let gated = |gates: Value| pod(json!({"metadata": {"name": "p"}, "spec": {"schedulingGates": gates}}));
    queue.add(gated(json!([{"name": "a"}, {"name": "b"}])));
    assert!(silent(&queue, Duration::from_secs(400)).await);
    queue.update(gated(json!([{"name": "a"}])));
    assert!(silent(&queue, Duration::from_secs(400)).await);
    queue.update(gated(json!([])));
    assert_eq!(next(&queue).await.unwrap().attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn updates_of_the_status_do_not_move_a_pod_but_those_of_its_requests_do() {
    let queue = queue();
    queue.add(named("p", 0));
    let attempt = next(&queue).await.unwrap();
    queue.requeue(attempt, BTreeSet::from(["NodeResourcesFit", "TaintToleration"]));
    let mut told = requesting("p", "", 0, json!({"cpu": "1"}));
    told["status"] = json!({"conditions": [{"type": "PodScheduled", "status": "False"}]});
    queue.update(pod(told));
    assert!(silent(&queue, Duration::from_secs(30)).await);
    queue.update(pod(requesting("p", "", 0, json!({"cpu": "500m"}))));
    assert_eq!(next(&queue).await.unwrap().info.requests.milli_cpu, 500);
}

#[tokio::test(start_paused = true)]
async fn deleted_pods_do_not_come_and_closing_ends_the_wait() {
    let queue = Arc::new(queue());
    let gone = named("p", 0);
    queue.add(gone.clone());
    queue.delete(&gone.uid);
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.pop().await.is_none() }
    });
    tokio::task::yield_now().await;
    queue.close();
    assert!(waiting.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_nodes_is_left_when_one_comes() {
    let queue = queue();
    queue.add(named("p", 0));
    let attempt = next(&queue).await.unwrap();
    queue.requeue(attempt, BTreeSet::from([crate::framework::NO_NODES]));
    queue.on_event(deleted(json!({"cpu": "1"})));
    assert!(silent(&queue, Duration::from_secs(30)).await);
    let node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
    queue.on_event(ClusterEvent::NodeAdded(Arc::new(node)));
    assert!(next(&queue).await.is_some());
}
