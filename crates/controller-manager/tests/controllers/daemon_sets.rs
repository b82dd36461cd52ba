//! Daemon sets.

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::support::{Cluster, names, template};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_sets_follow_the_nodes() {
    let cluster = Cluster::start().await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    for (name, taints) in [
        ("n1", json!([])),
        ("n2", json!([])),
        ("n3", json!([{"key": "k", "effect": "NoSchedule"}])),
    ] {
        let node = json!({"metadata": {"name": name}, "spec": {"taints": taints}});
        nodes
            .create(&PostParams::default(), &serde_json::from_value(node).unwrap())
            .await
            .unwrap();
    }
    // Admission marks new nodes as not ready, and no kubelet will ever say otherwise here.
    let tolerant = |image: &str| {
        let mut template = template(json!({"app": "ds"}), image);
        template["spec"]["tolerations"] =
            json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]);
        template
    };
    cluster
        .create::<DaemonSet>(json!({"metadata": {"name": "ds"}, "spec": {
            "selector": {"matchLabels": {"app": "ds"}}, "template": tolerant("v1")}}))
        .await;
    let at = |desired: i32, updated: bool| {
        move |set: &DaemonSet| {
            set.status.as_ref().is_some_and(|status| {
                status.observed_generation == set.metadata.generation
                    && status.desired_number_scheduled == desired
                    && status.number_available == Some(desired)
                    && (!updated || status.updated_number_scheduled == Some(desired))
            })
        }
    };
    let ready = cluster.until::<DaemonSet>("ds", "2 nodes", at(2, true)).await;
    assert_eq!(ready.status.unwrap().current_number_scheduled, 2);
    nodes
        .patch(
            "n3",
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"taints": null}})),
        )
        .await
        .unwrap();
    cluster.until::<DaemonSet>("ds", "3 nodes", at(3, true)).await;
    let patch = json!({"spec": {"template": tolerant("v2")}});
    let patched = cluster.patch::<DaemonSet>("ds", patch).await;
    assert_eq!(patched.metadata.generation, Some(2));
    cluster
        .until::<DaemonSet>("ds", "the new revision", at(3, true))
        .await;
    let pods = cluster.list::<Pod>().await;
    assert!(
        pods.iter()
            .all(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("v2"))
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_are_made_again_rolled_back_and_moved_by_labels() {
    let cluster = Cluster::start().await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let label = async |node: &str, color: Value| {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"color": color}}}));
        let params = PatchParams::default();
        nodes.patch(node, &params, &patch).await.unwrap();
    };
    for name in ["n1", "n2"] {
        let node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
    }
    let spec = |image: &str, wish: &str| {
        let mut template = template(json!({"app": "ds", "hollow": wish}), image);
        template["spec"]["nodeSelector"] = json!({"color": "blue"});
        template["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
        json!({"selector": {"matchLabels": {"app": "ds"}}, "template": template})
    };
    cluster
        .create::<DaemonSet>(json!({"metadata": {"name": "ds"}, "spec": spec("v1", "run")}))
        .await;
    cluster
        .until_status::<DaemonSet>("ds", json!({"desiredNumberScheduled": 0}))
        .await;
    label("n1", json!("blue")).await;
    label("n2", json!("blue")).await;
    let available = |count: i32| json!({"desiredNumberScheduled": count, "numberAvailable": count});
    cluster.until_status::<DaemonSet>("ds", available(2)).await;

    // One that has failed goes, and another takes its place.
    let pods = cluster.list::<Pod>().await;
    let name = pods[0].metadata.name.clone().unwrap();
    cluster
        .patch_status::<Pod>(&name, json!({"phase": "Failed"}))
        .await;
    let replaced = |pods: &[Pod]| pods.len() == 2 && !names(pods).contains(&name);
    cluster.until_all::<Pod>("another daemon", replaced).await;
    cluster.until_status::<DaemonSet>("ds", available(2)).await;

    // A template that does not start stops at one node; going back leaves the other's pod alone.
    let before = names(&cluster.list::<Pod>().await);
    cluster
        .patch::<DaemonSet>("ds", json!({"spec": spec("v2", "stuck")}))
        .await;
    cluster
        .until_status::<DaemonSet>("ds", json!({"updatedNumberScheduled": 1, "numberAvailable": 1}))
        .await;
    cluster
        .patch::<DaemonSet>("ds", json!({"spec": spec("v1", "run")}))
        .await;
    cluster
        .until_status::<DaemonSet>("ds", json!({"updatedNumberScheduled": 2, "numberAvailable": 2}))
        .await;
    let after = names(&cluster.list::<Pod>().await);
    assert_eq!(after.iter().filter(|name| before.contains(name)).count(), 1);

    // The history is the controller's: what is deleted of it comes again.
    let revisions = cluster.list::<ControllerRevision>().await;
    assert_eq!(revisions.len(), 2);
    let current = revisions.iter().max_by_key(|revision| revision.revision).unwrap();
    let current = current.metadata.name.clone().unwrap();
    cluster
        .api::<ControllerRevision>()
        .delete(&current, &DeleteParams::default())
        .await
        .unwrap();
    cluster
        .until_all::<ControllerRevision>("the revision again", |revisions| {
            names(revisions).contains(&current) && revisions.len() == 2
        })
        .await;

    label("n2", Value::Null).await;
    cluster.until_status::<DaemonSet>("ds", available(1)).await;
    cluster
        .until_all::<Pod>("one daemon", |pods| pods.len() == 1)
        .await;
    cluster.stop().await;
}
