//! Stateful sets.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::json;

use crate::support::{Cluster, names, template};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stateful_sets_keep_order_and_claims() {
    let cluster = Cluster::start().await;
    let labels = json!({"app": "db"});
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    cluster
        .create::<StatefulSet>(json!({"metadata": {"name": "db"}, "spec": {
            "serviceName": "db", "replicas": 3, "selector": {"matchLabels": labels},
            "template": template(labels.clone(), "v1"), "volumeClaimTemplates": [claim]}}))
        .await;
    let ready = |count: i32| {
        move |set: &StatefulSet| {
            set.status.as_ref().is_some_and(|status| {
                status.observed_generation == set.metadata.generation
                    && status.replicas == count
                    && status.available_replicas == Some(count)
                    && status.updated_replicas == Some(count)
                    && status.current_revision == status.update_revision
            })
        }
    };
    cluster.until::<StatefulSet>("db", "3 ready", ready(3)).await;
    let pods = cluster.api::<Pod>();
    let list = cluster.list::<Pod>().await;
    assert_eq!(names(&list), ["db-0", "db-1", "db-2"]);
    let mut created: Vec<_> = list
        .iter()
        .map(|pod| pod.metadata.resource_version.clone())
        .collect();
    created.dedup();
    assert_eq!(created.len(), 3);
    let claims = cluster.list::<PersistentVolumeClaim>().await;
    assert_eq!(claims.len(), 3);
    let first = pods.get("db-0").await.unwrap();
    assert_eq!(first.spec.as_ref().unwrap().hostname.as_deref(), Some("db-0"));

    let patch = json!({"spec": {"template": template(json!({"app": "db"}), "v2"),
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}});
    cluster.patch::<StatefulSet>("db", patch).await;
    let image = |name: &'static str, image: &'static str| {
        let cluster = &cluster;
        async move {
            let running = |pod: &Pod| {
                let status = pod.status.as_ref().and_then(|status| status.phase.as_deref());
                pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(image)
                    && status == Some("Running")
            };
            cluster.until::<Pod>(name, image, running).await
        }
    };
    image("db-2", "v2").await;
    let patch = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}});
    image("db-1", "v1").await;
    cluster.patch::<StatefulSet>("db", patch).await;
    image("db-0", "v2").await;
    cluster
        .until::<StatefulSet>("db", "the new revision", ready(3))
        .await;
    cluster
        .patch::<StatefulSet>("db", json!({"spec": {"replicas": 1}}))
        .await;
    cluster.until::<StatefulSet>("db", "1 ready", ready(1)).await;
    assert_eq!(names(&cluster.list::<Pod>().await), ["db-0"]);
    let claims = cluster.list::<PersistentVolumeClaim>().await;
    assert_eq!(claims.len(), 3, "claims stay");
    cluster.stop().await;
}

/// A set whose pods become what [`say`] makes of them.
async fn silent_set(cluster: &Cluster, policy: &str, replicas: i32) {
    let labels = json!({"app": "db", "hollow": "stuck"});
    cluster
        .create::<StatefulSet>(json!({"metadata": {"name": "db"}, "spec": {
            "serviceName": "db", "replicas": replicas, "podManagementPolicy": policy,
            "selector": {"matchLabels": {"app": "db"}}, "template": template(labels, "v1")}}))
        .await;
}

/// Says of a pod that it runs and is ready, or runs and is not.
async fn say(cluster: &Cluster, pod: &str, ready: bool) {
    cluster.until::<Pod>(pod, "made", |_| true).await;
    let condition = json!({"type": "Ready", "status": if ready { "True" } else { "False" },
                           "lastTransitionTime": jiff::Timestamp::now().to_string()});
    cluster
        .patch_status::<Pod>(pod, json!({"phase": "Running", "conditions": [condition]}))
        .await;
}

async fn until_pods(cluster: &Cluster, expected: &[&str]) {
    cluster
        .until_all::<Pod>(&format!("{expected:?}"), |pods| names(pods) == expected)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_goes_in_order_and_halts_at_an_unhealthy_pod() {
    let cluster = Cluster::start().await;
    silent_set(&cluster, "OrderedReady", 3).await;
    say(&cluster, "db-0", false).await;
    // The status shows that the controller has seen the pod, and it has not gone on.
    cluster
        .until_status::<StatefulSet>("db", json!({"replicas": 1, "readyReplicas": null}))
        .await;
    until_pods(&cluster, &["db-0"]).await;
    say(&cluster, "db-0", true).await;
    say(&cluster, "db-1", true).await;
    say(&cluster, "db-2", true).await;
    cluster
        .until_status::<StatefulSet>("db", json!({"replicas": 3, "readyReplicas": 3}))
        .await;
    // Downwards likewise: while all are unhealthy, none of the last is taken.
    for pod in ["db-0", "db-1", "db-2"] {
        say(&cluster, pod, false).await;
    }
    cluster
        .until_status::<StatefulSet>("db", json!({"readyReplicas": null}))
        .await;
    cluster
        .patch::<StatefulSet>("db", json!({"spec": {"replicas": 0}}))
        .await;
    cluster
        .until_status::<StatefulSet>("db", json!({"replicas": 3}))
        .await;
    until_pods(&cluster, &["db-0", "db-1", "db-2"]).await;
    // The last one of all may be unhealthy when it goes.
    say(&cluster, "db-2", true).await;
    until_pods(&cluster, &["db-0", "db-1"]).await;
    say(&cluster, "db-1", true).await;
    until_pods(&cluster, &[]).await;
    let deleted = cluster.messages("SuccessfulDelete", 3).await;
    assert_eq!(deleted.len(), 3);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parallel_set_bursts_and_a_failed_pod_is_made_again() {
    let cluster = Cluster::start().await;
    silent_set(&cluster, "Parallel", 2).await;
    until_pods(&cluster, &["db-0", "db-1"]).await;
    cluster
        .patch::<StatefulSet>("db", json!({"spec": {"replicas": 3}}))
        .await;
    until_pods(&cluster, &["db-0", "db-1", "db-2"]).await;
    let evicted = cluster
        .patch_status::<Pod>("db-1", json!({"phase": "Failed", "reason": "Evicted"}))
        .await;
    cluster
        .until::<Pod>("db-1", "another pod", |pod| {
            pod.metadata.uid != evicted.metadata.uid
        })
        .await;
    cluster
        .patch::<StatefulSet>("db", json!({"spec": {"replicas": 0}}))
        .await;
    until_pods(&cluster, &[]).await;
    cluster.stop().await;
}
