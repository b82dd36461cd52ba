//! Deployments and autoscalers.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use serde_json::json;

use crate::support::{Cluster, condition, template};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployment_rolls_out_scales_and_remembers() {
    let cluster = Cluster::start().await;
    let labels = json!({"app": "web"});
    cluster
        .create::<Deployment>(json!({
            "metadata": {"name": "web"},
            "spec": {"replicas": 3, "selector": {"matchLabels": labels}, "template": template(labels.clone(), "v1"),
                     "revisionHistoryLimit": 1, "progressDeadlineSeconds": 600,
                     "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}
        }))
        .await;
    let complete = |replicas: i32, generation: i64| {
        move |found: &Deployment| {
            let Some(status) = &found.status else { return false };
            status.observed_generation >= Some(generation)
                && status.replicas == Some(replicas)
                && status.updated_replicas == Some(replicas)
                && status.available_replicas == Some(replicas)
                && condition(found, "Progressing")
                    .is_some_and(|found| found.reason == "NewReplicaSetAvailable")
        }
    };
    let found = cluster
        .until::<Deployment>("web", "3 available", complete(3, 1))
        .await;
    assert_eq!(
        found.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"],
        "1"
    );
    let first = cluster
        .until_all::<ReplicaSet>("one set", |sets| sets.len() == 1)
        .await
        .remove(0);
    let hash = first.metadata.labels.as_ref().unwrap()["pod-template-hash"].clone();
    assert_eq!(
        first.metadata.name.as_deref(),
        Some(format!("web-{hash}").as_str())
    );
    let scaled = cluster.messages("ScalingReplicaSet", 1).await;
    assert_eq!(scaled, [format!("Scaled up replica set web-{hash} from 0 to 3")]);

    let image = |image: &str| json!({"spec": {"template": template(json!({"app": "web"}), image)}});
    let patched = cluster.patch::<Deployment>("web", image("v2")).await;
    let generation = patched.metadata.generation.unwrap();
    let found = cluster
        .until::<Deployment>("web", "the second revision", complete(3, generation))
        .await;
    assert_eq!(
        found.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"],
        "2"
    );
    let pods = cluster.list::<Pod>().await;
    assert_eq!(pods.len(), 3);
    assert!(
        pods.iter()
            .all(|pod| pod.metadata.labels.as_ref().unwrap()["pod-template-hash"] != hash)
    );

    let patched = cluster
        .patch::<Deployment>("web", json!({"spec": {"replicas": 5}}))
        .await;
    let generation = patched.metadata.generation.unwrap();
    cluster
        .until::<Deployment>("web", "5 available", complete(5, generation))
        .await;
    // Back to the first template: the old set comes to life again with a new number.
    let patched = cluster.patch::<Deployment>("web", image("v1")).await;
    cluster
        .until::<Deployment>(
            "web",
            "the first revision again",
            complete(5, patched.metadata.generation.unwrap()),
        )
        .await;
    let again = cluster
        .api::<ReplicaSet>()
        .get(first.metadata.name.as_deref().unwrap())
        .await
        .unwrap();
    let annotations = again.metadata.annotations.unwrap();
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");
    let patched = cluster.patch::<Deployment>("web", image("v3")).await;
    cluster
        .until::<Deployment>(
            "web",
            "the third template",
            complete(5, patched.metadata.generation.unwrap()),
        )
        .await;
    cluster
        .until_all::<ReplicaSet>("history of one", |sets| sets.len() == 2)
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recreate_stops_the_old_before_it_starts_the_new() {
    let cluster = Cluster::start().await;
    let labels = json!({"app": "db"});
    cluster
        .create::<Deployment>(json!({
            "metadata": {"name": "db"},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template(labels.clone(), "v1"),
                     "strategy": {"type": "Recreate"}}
        }))
        .await;
    let available = |found: &Deployment| {
        found
            .status
            .as_ref()
            .is_some_and(|status| status.available_replicas == Some(2))
    };
    cluster.until::<Deployment>("db", "2 available", available).await;
    let patch = json!({"spec": {"template": template(json!({"app": "db"}), "v2")}});
    cluster.patch::<Deployment>("db", patch).await;
    let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    let pods = cluster
        .until_all::<Pod>("new pods", |pods| {
            let new = pods.iter().filter(|pod| image(pod) == "v2").count();
            assert!(new == 0 || new == pods.len(), "old and new together");
            new == 2
        })
        .await;
    assert_eq!(pods.len(), 2);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployment_says_when_it_is_stuck_or_paused() {
    let cluster = Cluster::start().await;
    let labels = json!({"app": "web", "hollow": "stuck"});
    cluster
        .create::<Deployment>(json!({
            "metadata": {"name": "web"},
            "spec": {"replicas": 2, "progressDeadlineSeconds": 1, "selector": {"matchLabels": {"app": "web"}},
                     "template": template(labels, "v1")}
        }))
        .await;
    let reason = |wanted: &'static str| {
        move |found: &Deployment| condition(found, "Progressing").is_some_and(|found| found.reason == wanted)
    };
    let found = cluster
        .until::<Deployment>("web", "timed out", reason("ProgressDeadlineExceeded"))
        .await;
    assert_eq!(found.status.unwrap().unavailable_replicas, Some(2));
    let patch = json!({"spec": {"template": template(json!({"app": "web", "hollow": "run"}), "v2")}});
    cluster.patch::<Deployment>("web", patch).await;
    cluster
        .until::<Deployment>("web", "recovered", reason("NewReplicaSetAvailable"))
        .await;

    cluster
        .patch::<Deployment>("web", json!({"spec": {"paused": true}}))
        .await;
    cluster
        .until::<Deployment>("web", "paused", reason("DeploymentPaused"))
        .await;
    let patch =
        json!({"spec": {"replicas": 3, "template": template(json!({"app": "web", "hollow": "run"}), "v3")}});
    let patched = cluster.patch::<Deployment>("web", patch).await;
    let scaled = |found: &Deployment| {
        let status = found.status.as_ref().unwrap();
        status.observed_generation == patched.metadata.generation && status.available_replicas == Some(3)
    };
    let found = cluster
        .until::<Deployment>("web", "scaled though paused", scaled)
        .await;
    assert_eq!(found.status.unwrap().updated_replicas, None);
    cluster
        .patch::<Deployment>("web", json!({"spec": {"paused": false}}))
        .await;
    let rolled = |found: &Deployment| {
        found
            .status
            .as_ref()
            .is_some_and(|status| status.updated_replicas == Some(3))
    };
    cluster.until::<Deployment>("web", "rolled out", rolled).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn autoscalers_keep_bounds_and_say_what_they_miss() {
    let cluster = Cluster::start().await;
    let spec = json!({"replicas": 5, "selector": {"matchLabels": {"app": "a"}}, "template": template(json!({"app": "a"}), "i")});
    cluster
        .create::<Deployment>(json!({"metadata": {"name": "a"}, "spec": spec}))
        .await;
    let metric = json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": 50}}});
    cluster
        .create::<HorizontalPodAutoscaler>(json!({"metadata": {"name": "a"}, "spec": {"minReplicas": 1, "maxReplicas": 3,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"}, "metrics": [metric]}}))
        .await;
    let three = |found: &Deployment| {
        found
            .status
            .as_ref()
            .is_some_and(|status| status.replicas == Some(3))
    };
    cluster.until::<Deployment>("a", "3 replicas", three).await;
    let message = cluster.messages("SuccessfulRescale", 1).await.remove(0);
    assert_eq!(
        message,
        "New size: 3; reason: Current number of replicas above Spec.MaxReplicas"
    );
    // There is no metrics API here; a change of the spec makes it look at once.
    let patch = json!({"spec": {"maxReplicas": 4}});
    cluster.patch::<HorizontalPodAutoscaler>("a", patch).await;
    let missing = |found: &HorizontalPodAutoscaler| {
        condition(found, "ScalingActive").is_some_and(|found| found.reason == "FailedGetResourceMetric")
    };
    cluster
        .until::<HorizontalPodAutoscaler>("a", "without metrics", missing)
        .await;
    cluster.stop().await;
}

/// Replicas by image of all replica sets that have any.
fn by_image(sets: &[ReplicaSet]) -> Vec<(String, i32)> {
    let image = |set: &ReplicaSet| {
        let template = set.spec.as_ref()?.template.as_ref()?;
        template.spec.as_ref()?.containers[0].image.clone()
    };
    let mut found: Vec<_> = sets
        .iter()
        .filter_map(|set| Some((image(set)?, set.spec.as_ref()?.replicas?)))
        .filter(|(_, replicas)| *replicas > 0)
        .collect();
    found.sort();
    found
}

async fn until_sets(cluster: &Cluster, expected: &[(&str, i32)]) -> Vec<ReplicaSet> {
    let expected: Vec<_> = expected
        .iter()
        .map(|(image, replicas)| ((*image).to_owned(), *replicas))
        .collect();
    cluster
        .until_all::<ReplicaSet>(&format!("{expected:?}"), |sets| by_image(sets) == expected)
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployments_scale_in_proportion_and_roll_over() {
    let cluster = Cluster::start().await;
    let labels = |wish: &str| json!({"app": "web", "hollow": wish});
    let strategy = json!({"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}});
    cluster
        .create::<Deployment>(json!({"metadata": {"name": "web"}, "spec": {
            "replicas": 10, "revisionHistoryLimit": 0, "selector": {"matchLabels": {"app": "web"}},
            "strategy": strategy, "template": template(labels("run"), "v1")}}))
        .await;
    cluster
        .until_status::<Deployment>("web", json!({"availableReplicas": 10}))
        .await;
    // An image that never starts: the surge is used, and what may be unavailable is taken down.
    let stuck = json!({"spec": {"template": template(labels("stuck"), "v2")}});
    cluster.patch::<Deployment>("web", stuck).await;
    until_sets(&cluster, &[("v1", 8), ("v2", 5)]).await;
    let api = cluster.api::<Deployment>();
    let mut scale = api.get_scale("web").await.unwrap();
    assert_eq!(scale.spec.as_ref().unwrap().replicas, Some(10));
    scale.spec.as_mut().unwrap().replicas = Some(30);
    // Whatever the controller writes meanwhile.
    scale.metadata.resource_version = None;
    api.replace_scale("web", &PostParams::default(), &scale)
        .await
        .unwrap();
    until_sets(&cluster, &[("v1", 20), ("v2", 13)]).await;
    // A third template in the middle of it takes the place of both, and nothing stays behind.
    let good = json!({"spec": {"replicas": 3, "template": template(labels("run"), "v3")}});
    cluster.patch::<Deployment>("web", good).await;
    cluster
        .until_status::<Deployment>(
            "web",
            json!({"availableReplicas": 3, "replicas": 3, "updatedReplicas": 3}),
        )
        .await;
    cluster
        .until_all::<ReplicaSet>("one set", |sets| {
            sets.len() == 1 && by_image(sets) == [("v3".to_owned(), 3)]
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployments_adopt_replica_sets_and_count_on_from_their_revision() {
    let cluster = Cluster::start().await;
    let labels = json!({"name": "sample", "pod": "httpd"});
    let selector = json!({"matchLabels": labels});
    let revision = json!({"deployment.kubernetes.io/revision": "3546343826724305832"});
    cluster
        .create::<ReplicaSet>(
            json!({"metadata": {"name": "old", "labels": labels, "annotations": revision},
            "spec": {"replicas": 1, "selector": selector, "template": template(labels.clone(), "old")}}),
        )
        .await;
    cluster
        .until_status::<ReplicaSet>("old", json!({"readyReplicas": 1}))
        .await;
    let made = cluster
        .create::<Deployment>(
            json!({"metadata": {"name": "web"}, "spec": {"replicas": 1, "selector": selector,
            "template": template(labels.clone(), "new")}}),
        )
        .await;
    let sets = until_sets(&cluster, &[("new", 1)]).await;
    assert_eq!(sets.len(), 2, "the old one is kept for going back");
    for set in sets {
        let owner = set.metadata.owner_references.unwrap().remove(0);
        assert_eq!(Some(owner.uid), made.metadata.uid);
    }
    let is_next = |found: &Deployment| {
        let annotations = found.metadata.annotations.as_ref();
        annotations.is_some_and(|all| {
            all.get("deployment.kubernetes.io/revision").map(String::as_str) == Some("3546343826724305833")
        })
    };
    cluster
        .until::<Deployment>("web", "the next revision", is_next)
        .await;
    cluster.stop().await;
}
