//! Replica sets and replication controllers.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Event, Pod, ReplicationController};
use serde_json::json;

use crate::support::{Cluster, template};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_pod_is_made_twice_when_the_leader_changes() {
    let mut cluster = Cluster::start().await;
    for set in 0..5 {
        let labels = json!({"set": set.to_string()});
        let name = format!("rs{set}");
        let spec = json!({"replicas": 40, "selector": {"matchLabels": labels}, "template": template(labels.clone(), "i")});
        cluster
            .create::<ReplicaSet>(json!({"metadata": {"name": name}, "spec": spec}))
            .await;
    }
    cluster
        .until_all::<Pod>("some pods", |pods| pods.len() > 20)
        .await;
    cluster.stop_manager();
    cluster.start_manager("second");
    for set in 0..5 {
        let ready = |set: &ReplicaSet| {
            set.status
                .as_ref()
                .is_some_and(|status| status.ready_replicas == Some(40))
        };
        cluster
            .until::<ReplicaSet>(&format!("rs{set}"), "40 ready", ready)
            .await;
    }
    let pods = cluster.list::<Pod>().await;
    assert_eq!(pods.len(), 200);
    let events = cluster.list::<Event>().await;
    assert!(
        events
            .iter()
            .all(|event| event.reason.as_deref() != Some("SuccessfulDelete")),
        "made too many"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_sets_adopt_release_and_scale() {
    let cluster = Cluster::start().await;
    let labels = json!({"app": "a"});
    let mut orphan = template(labels.clone(), "i");
    orphan["metadata"]["name"] = json!("orphan");
    cluster.create::<Pod>(orphan).await;
    let spec = json!({"replicas": 3, "selector": {"matchLabels": labels}, "template": template(labels.clone(), "i")});
    let set = cluster
        .create::<ReplicaSet>(json!({"metadata": {"name": "rs"}, "spec": spec}))
        .await;
    let ready = |count: i32| {
        move |set: &ReplicaSet| {
            set.status
                .as_ref()
                .is_some_and(|status| status.ready_replicas == Some(count) && status.replicas == count)
        }
    };
    cluster.until::<ReplicaSet>("rs", "3 ready", ready(3)).await;
    let pods = cluster.api::<Pod>();
    let adopted = pods.get("orphan").await.unwrap();
    assert_eq!(
        adopted.metadata.owner_references.unwrap()[0].uid,
        set.metadata.uid.unwrap()
    );
    assert_eq!(cluster.messages("SuccessfulCreate", 2).await.len(), 2);
    // A pod that no longer matches is let go and replaced.
    let patch = json!({"metadata": {"labels": {"app": "b"}}});
    cluster.patch::<Pod>("orphan", patch).await;
    let count = |pods: &[Pod]| pods.len() == 4;
    cluster.until_all::<Pod>("a replacement", count).await;
    let released = cluster
        .until::<Pod>("orphan", "nobody's", |pod| {
            pod.metadata.owner_references.is_none()
        })
        .await;
    assert_eq!(released.metadata.labels.unwrap()["app"], "b");
    cluster.until::<ReplicaSet>("rs", "3 ready again", ready(3)).await;
    let patch = json!({"spec": {"replicas": 1}});
    cluster.patch::<ReplicaSet>("rs", patch).await;
    cluster.until::<ReplicaSet>("rs", "1 ready", ready(1)).await;
    assert_eq!(cluster.messages("SuccessfulDelete", 2).await.len(), 2);

    let spec = json!({"replicas": 2, "selector": {"rc": "a"}, "template": template(json!({"rc": "a"}), "i")});
    cluster
        .create::<ReplicationController>(json!({"metadata": {"name": "rc"}, "spec": spec}))
        .await;
    let two = |rc: &ReplicationController| {
        rc.status
            .as_ref()
            .is_some_and(|status| status.ready_replicas == Some(2))
    };
    cluster.until::<ReplicationController>("rc", "2 ready", two).await;
    cluster.stop().await;
}
