//! Budgets, claims and volumes against a real API server.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};

use crate::support::{Cluster, template};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budgets_say_how_many_may_go() {
    let cluster = Cluster::start().await;
    let labels = json!({"app": "web"});
    for (name, bound) in [
        ("min", json!({"minAvailable": 2})),
        ("max", json!({"maxUnavailable": "50%"})),
    ] {
        let mut spec = bound;
        spec["selector"] = json!({"matchLabels": labels});
        cluster
            .create::<PodDisruptionBudget>(json!({"metadata": {"name": name}, "spec": spec}))
            .await;
    }
    let status = |budget: &PodDisruptionBudget| {
        let status = budget.status.clone().unwrap_or_default();
        let condition = status
            .conditions
            .iter()
            .flatten()
            .next()
            .map(|condition| condition.reason.clone());
        (
            status.disruptions_allowed,
            status.current_healthy,
            status.desired_healthy,
            status.expected_pods,
            condition,
        )
    };
    let until = async |name: &str, numbers: [i32; 4], reason: &str| {
        let [allowed, current, desired, expected] = numbers.map(Some);
        let wanted = (allowed, current, desired, expected, Some(reason.to_owned()));
        cluster
            .until::<PodDisruptionBudget>(name, &format!("{wanted:?}"), |budget| status(budget) == wanted)
            .await
    };
    until("min", [0, 0, 2, 0], "InsufficientPods").await;
    cluster
        .create::<Deployment>(json!({
            "metadata": {"name": "web"},
            "spec": {"replicas": 3, "selector": {"matchLabels": labels}, "template": template(labels.clone(), "v1")}
        }))
        .await;
    until("min", [1, 3, 2, 3], "SufficientPods").await;
    // 50 % of 3, rounded up, may be unavailable.
    until("max", [2, 3, 1, 3], "SufficientPods").await;
    let scale = Patch::Merge(json!({"spec": {"replicas": 2}}));
    cluster
        .api::<Deployment>()
        .patch("web", &PatchParams::default(), &scale)
        .await
        .unwrap();
    until("min", [0, 2, 2, 2], "InsufficientPods").await;
    until("max", [1, 2, 1, 2], "SufficientPods").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_in_use_stay() {
    let cluster = Cluster::start().await;
    let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}});
    cluster
        .create::<PersistentVolumeClaim>(json!({"metadata": {"name": "data"}, "spec": spec}))
        .await;
    let claims = cluster.api::<PersistentVolumeClaim>();
    let protected = |claim: &PersistentVolumeClaim| {
        claim
            .metadata
            .finalizers
            .iter()
            .flatten()
            .any(|finalizer| finalizer == "kubernetes.io/pvc-protection")
    };
    cluster
        .until::<PersistentVolumeClaim>("data", "protection", protected)
        .await;
    cluster
        .create::<Pod>(json!({
            "metadata": {"name": "user", "labels": {"hollow": "stuck"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}],
                     "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}
        }))
        .await;
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    // A claim that nobody uses goes; by then the used one would have gone, too.
    cluster
        .create::<PersistentVolumeClaim>(json!({"metadata": {"name": "free"}, "spec": spec}))
        .await;
    cluster
        .until::<PersistentVolumeClaim>("free", "protection", protected)
        .await;
    claims.delete("free", &DeleteParams::default()).await.unwrap();
    let left = cluster
        .until_all::<PersistentVolumeClaim>("one", |claims| claims.len() == 1)
        .await;
    assert_eq!(left[0].metadata.name.as_deref(), Some("data"));
    cluster
        .api::<Pod>()
        .delete("user", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    cluster
        .until_all::<PersistentVolumeClaim>("none", <[PersistentVolumeClaim]>::is_empty)
        .await;
    cluster.stop().await;
}

fn phase(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.status.as_ref()?.phase.as_deref()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_are_bound_to_the_smallest_volume_that_fits() {
    let cluster = Cluster::start().await;
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    let claim = async |name: &str, extra: Value| {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
                              "resources": {"requests": {"storage": "2Gi"}}});
        json_patch::merge(&mut spec, &extra);
        cluster
            .create::<PersistentVolumeClaim>(json!({"metadata": {"name": name}, "spec": spec}))
            .await;
    };
    claim("c", json!({})).await;
    let class = json!({"apiVersion": "storage.k8s.io/v1", "metadata": {"name": "fast"}, "provisioner": "fast.test/p"});
    let classes: Api<k8s_openapi::api::storage::v1::StorageClass> = Api::all(cluster.client.clone());
    classes
        .create(&PostParams::default(), &serde_json::from_value(class).unwrap())
        .await
        .unwrap();
    for (name, size, class) in [
        ("big", "10Gi", "manual"),
        ("fit", "3Gi", "manual"),
        ("small", "1Gi", "manual"),
        ("other", "2Gi", "other"),
    ] {
        let volume = json!({"metadata": {"name": name}, "spec": {
            "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "storageClassName": class,
            "hostPath": {"path": "/tmp/x"}, "persistentVolumeReclaimPolicy": "Retain"}});
        let volume: PersistentVolume = serde_json::from_value(volume).unwrap();
        volumes.create(&PostParams::default(), &volume).await.unwrap();
    }
    let bound = cluster
        .until::<PersistentVolumeClaim>("c", "bound", |claim| phase(claim) == Some("Bound"))
        .await;
    let volume = bound.spec.unwrap().volume_name.unwrap();
    assert!(["big", "fit"].contains(&volume.as_str()), "{volume}");
    let status = bound.status.unwrap();
    assert_eq!(status.access_modes.unwrap(), ["ReadWriteOnce", "ReadOnlyMany"]);
    assert!(
        bound
            .metadata
            .annotations
            .unwrap()
            .contains_key("pv.kubernetes.io/bind-completed")
    );
    let until_volume = async |name: &str, wanted: &str| {
        let holds = |volume: Option<&PersistentVolume>| {
            volume.and_then(|volume| volume.status.as_ref()?.phase.as_deref()) == Some(wanted)
        };
        let wait = await_condition(volumes.clone(), name, holds);
        let found = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(
            found.is_ok(),
            "{name} never {wanted}: {:#?}",
            volumes.get(name).await
        );
    };
    until_volume(&volume, "Bound").await;
    until_volume("small", "Available").await;
    // Those who ask for one by name get it, and wait for it.
    claim(
        "by-name",
        json!({"volumeName": "other", "storageClassName": "other"}),
    )
    .await;
    cluster
        .until::<PersistentVolumeClaim>("by-name", "bound", |claim| phase(claim) == Some("Bound"))
        .await;
    // A provisioner of others is asked.
    claim("dynamic", json!({"storageClassName": "fast"})).await;
    let asked = |claim: &PersistentVolumeClaim| {
        claim
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get("volume.kubernetes.io/storage-provisioner"))
            .map(String::as_str)
            == Some("fast.test/p")
    };
    cluster
        .until::<PersistentVolumeClaim>("dynamic", "an annotation", asked)
        .await;
    cluster
        .until_all::<Event>("the event", |events| {
            events
                .iter()
                .any(|event| event.reason.as_deref() == Some("ExternalProvisioning"))
        })
        .await;
    cluster
        .api::<PersistentVolumeClaim>()
        .delete("c", &DeleteParams::default())
        .await
        .unwrap();
    until_volume(&volume, "Released").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ephemeral_volumes_get_their_claims() {
    let cluster = Cluster::start().await;
    let claims = cluster.api::<PersistentVolumeClaim>();
    let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "none",
                      "resources": {"requests": {"storage": "1Gi"}}});
    let foreign = json!({"metadata": {"name": "p-taken"}, "spec": spec});
    cluster.create::<PersistentVolumeClaim>(foreign).await;
    let volume = |name: &str| {
        let template = json!({"metadata": {"labels": {"of": name}}, "spec": spec});
        json!({"name": name, "ephemeral": {"volumeClaimTemplate": template}})
    };
    let pod = |name: &str, volume: Value| {
        json!({"metadata": {"name": name, "labels": {"hollow": "stuck"}},
               "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [volume]}})
    };
    let owner = cluster.create::<Pod>(pod("p", volume("scratch"))).await;
    let uid = owner.metadata.uid.unwrap();
    let first = cluster
        .until::<PersistentVolumeClaim>("p-scratch", "made", |_| true)
        .await;
    assert_eq!(first.metadata.labels.unwrap()["of"], "scratch");
    let reference = first.metadata.owner_references.unwrap().remove(0);
    assert_eq!((reference.uid, reference.controller), (uid, Some(true)));
    // A pod that is not bound to a node does not hold it, and needs another.
    claims
        .delete("p-scratch", &DeleteParams::default())
        .await
        .unwrap();
    cluster
        .until::<PersistentVolumeClaim>("p-scratch", "made again", |claim| {
            claim.metadata.uid != first.metadata.uid
        })
        .await;
    // Somebody else's claim of that name is left alone.
    let now = DeleteParams::default().grace_period(0);
    cluster.api::<Pod>().delete("p", &now).await.unwrap();
    await_condition(cluster.api::<Pod>(), "p", |pod: Option<&Pod>| pod.is_none())
        .await
        .unwrap();
    cluster.create::<Pod>(pod("p", volume("taken"))).await;
    let refused = |events: &[Event]| {
        events.iter().any(|event| {
            let message = event.message.as_deref().unwrap_or_default();
            event.reason.as_deref() == Some("FailedBinding")
                && message.starts_with(
                    "ephemeral volume taken: PVC default/p-taken was not created for pod default/p",
                )
        })
    };
    cluster.until_all::<Event>("a complaint", refused).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classes_of_volume_attributes_outlive_their_use() {
    let cluster = Cluster::start().await;
    let api: Api<VolumeAttributesClass> = Api::all(cluster.client.clone());
    let class =
        json!({"metadata": {"name": "fast"}, "driverName": "d.example.com", "parameters": {"iops": "1"}});
    let class = serde_json::from_value(class).unwrap();
    api.create(&PostParams::default(), &class).await.unwrap();
    let until = async |holds: fn(Option<&VolumeAttributesClass>) -> bool| {
        let wait = await_condition(api.clone(), "fast", holds);
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("in time")
            .unwrap();
    };
    until(|class| {
        class.is_some_and(|class| {
            class.metadata.finalizers.as_deref() == Some(&["kubernetes.io/vac-protection".to_owned()])
        })
    })
    .await;
    let spec = json!({"accessModes": ["ReadWriteOnce"], "volumeAttributesClassName": "fast",
                      "resources": {"requests": {"storage": "1Gi"}}});
    cluster
        .create::<PersistentVolumeClaim>(json!({"metadata": {"name": "c"}, "spec": spec}))
        .await;
    cluster
        .until::<PersistentVolumeClaim>("c", "seen by the controllers", |claim| {
            claim.metadata.finalizers.is_some()
        })
        .await;
    api.delete("fast", &DeleteParams::default()).await.unwrap();
    until(|class| class.is_some_and(|class| class.metadata.deletion_timestamp.is_some())).await;
    cluster
        .api::<PersistentVolumeClaim>()
        .delete("c", &DeleteParams::default())
        .await
        .unwrap();
    until(|class| class.is_none()).await;
    cluster.stop().await;
}
