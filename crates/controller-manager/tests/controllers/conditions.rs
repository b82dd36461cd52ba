//! What all workload controllers leave alone and say: conditions of others, quota failures.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{ReplicationController, ResourceQuota};
use serde_json::{Value, json};

use crate::support::{Cluster, condition, template};

/// Adds a condition to the status, has the controller write the status, and sees the condition there still.
macro_rules! keeps_foreign_conditions {
    ($cluster:expr, $kind:ty, $counted:literal) => {
        let mine = json!([{"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from e2e test"}]);
        $cluster.patch_status::<$kind>("a", json!({ "conditions": mine })).await;
        $cluster.patch::<$kind>("a", json!({"spec": {"replicas": 2}})).await;
        let found = $cluster.until_status::<$kind>("a", json!({ $counted: 2 })).await;
        let kept = condition(&found, "StatusUpdate");
        assert!(kept.is_some_and(|found| found.reason == "E2E"), stringify!($kind));
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_of_others_stay() {
    let cluster = Cluster::start().await;
    let spec = |app: &str| {
        let labels = json!({"app": app});
        json!({"replicas": 1, "selector": {"matchLabels": labels}, "template": template(labels, "i")})
    };
    let object = |spec: Value| json!({"metadata": {"name": "a"}, "spec": spec});
    cluster.create::<Deployment>(object(spec("deployment"))).await;
    cluster.create::<ReplicaSet>(object(spec("set"))).await;
    let mut stateful = spec("stateful");
    stateful["serviceName"] = json!("s");
    cluster.create::<StatefulSet>(object(stateful)).await;
    let mut controller = spec("controller");
    controller["selector"] = json!({"app": "controller"});
    cluster.create::<ReplicationController>(object(controller)).await;
    let mut daemons = spec("daemons");
    daemons.as_object_mut().unwrap().remove("replicas");
    cluster.create::<DaemonSet>(object(daemons)).await;
    keeps_foreign_conditions!(cluster, Deployment, "availableReplicas");
    keeps_foreign_conditions!(cluster, ReplicaSet, "readyReplicas");
    keeps_foreign_conditions!(cluster, StatefulSet, "readyReplicas");
    keeps_foreign_conditions!(cluster, ReplicationController, "readyReplicas");
    // No node, no daemon: a changed template alone makes the controller write the status.
    let mine = json!([{"type": "StatusUpdate", "status": "True", "reason": "E2E"}]);
    cluster
        .patch_status::<DaemonSet>("a", json!({ "conditions": mine }))
        .await;
    let newer = json!({"spec": {"template": template(json!({"app": "daemons"}), "newer")}});
    cluster.patch::<DaemonSet>("a", newer).await;
    let found = cluster.until_status::<DaemonSet>("a", json!({})).await;
    assert!(condition(&found, "StatusUpdate").is_some());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_that_is_used_up_is_a_condition_until_it_is_not() {
    let cluster = Cluster::start().await;
    let hard = json!({"hard": {"pods": "2"}});
    cluster
        .create::<ResourceQuota>(json!({"metadata": {"name": "q"}, "spec": hard}))
        .await;
    let spec =
        json!({"replicas": 3, "selector": {"app": "a"}, "template": template(json!({"app": "a"}), "i")});
    cluster
        .create::<ReplicationController>(json!({"metadata": {"name": "rc"}, "spec": spec}))
        .await;
    let failed = |rc: &ReplicationController| {
        condition(rc, "ReplicaFailure")
            .is_some_and(|found| found.status == "True" && found.reason == "FailedCreate")
    };
    cluster
        .until::<ReplicationController>("rc", "a failure", failed)
        .await;
    cluster
        .patch::<ReplicationController>("rc", json!({"spec": {"replicas": 2}}))
        .await;
    cluster
        .until::<ReplicationController>("rc", "no failure", |rc| condition(rc, "ReplicaFailure").is_none())
        .await;
    cluster
        .until_status::<ReplicationController>("rc", json!({"readyReplicas": 2}))
        .await;
    cluster.stop().await;
}
