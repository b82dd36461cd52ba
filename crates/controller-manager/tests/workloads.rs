//! The workload controllers against a real API server, each with its own service account.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Event, Node, PersistentVolumeClaim, Pod, ReplicationController};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use support::{Cluster, job_template, template};

fn merge(patch: Value) -> Patch<Value> {
    Patch::Merge(patch)
}

fn names(pods: &[Pod]) -> Vec<String> {
    let mut names: Vec<_> = pods
        .iter()
        .map(|pod| pod.metadata.name.clone().unwrap())
        .collect();
    names.sort();
    names
}

/// The messages of the events of that reason, when there are at least `count`.
async fn messages(cluster: &Cluster, reason: &str, count: usize) -> Vec<String> {
    let is = |event: &&Event| event.reason.as_deref() == Some(reason);
    let holds = |events: &[Event]| events.iter().filter(is).count() >= count;
    let events = cluster.until_all::<Event>(reason, holds).await;
    events
        .iter()
        .filter(is)
        .filter_map(|event| event.message.clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployment_rolls_out_scales_and_remembers() {
    let cluster = Cluster::start().await;
    let params = PatchParams::default();
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
                && status
                    .conditions
                    .iter()
                    .flatten()
                    .any(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"))
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
    let scaled = messages(&cluster, "ScalingReplicaSet", 1).await;
    assert_eq!(scaled, [format!("Scaled up replica set web-{hash} from 0 to 3")]);

    let api = cluster.api::<Deployment>();
    let image = |image: &str| json!({"spec": {"template": template(json!({"app": "web"}), image)}});
    let patched = api.patch("web", &params, &merge(image("v2"))).await.unwrap();
    let generation = patched.metadata.generation.unwrap();
    let found = cluster
        .until::<Deployment>("web", "the second revision", complete(3, generation))
        .await;
    assert_eq!(
        found.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"],
        "2"
    );
    let pods = cluster
        .api::<Pod>()
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    assert_eq!(pods.len(), 3);
    assert!(
        pods.iter()
            .all(|pod| pod.metadata.labels.as_ref().unwrap()["pod-template-hash"] != hash)
    );

    let patched = api
        .patch("web", &params, &merge(json!({"spec": {"replicas": 5}})))
        .await
        .unwrap();
    let generation = patched.metadata.generation.unwrap();
    cluster
        .until::<Deployment>("web", "5 available", complete(5, generation))
        .await;
    // Back to the first template: the old set comes to life again with a new number.
    let patched = api.patch("web", &params, &merge(image("v1"))).await.unwrap();
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
    let patched = api.patch("web", &params, &merge(image("v3"))).await.unwrap();
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
    cluster
        .api::<Deployment>()
        .patch("db", &PatchParams::default(), &merge(patch))
        .await
        .unwrap();
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
        move |found: &Deployment| {
            let conditions = found
                .status
                .as_ref()
                .and_then(|status| status.conditions.as_deref())
                .unwrap_or_default();
            conditions
                .iter()
                .any(|c| c.type_ == "Progressing" && c.reason.as_deref() == Some(wanted))
        }
    };
    let found = cluster
        .until::<Deployment>("web", "timed out", reason("ProgressDeadlineExceeded"))
        .await;
    assert_eq!(found.status.unwrap().unavailable_replicas, Some(2));
    let api = cluster.api::<Deployment>();
    let params = PatchParams::default();
    let patch = json!({"spec": {"template": template(json!({"app": "web", "hollow": "run"}), "v2")}});
    api.patch("web", &params, &merge(patch)).await.unwrap();
    cluster
        .until::<Deployment>("web", "recovered", reason("NewReplicaSetAvailable"))
        .await;

    api.patch("web", &params, &merge(json!({"spec": {"paused": true}})))
        .await
        .unwrap();
    cluster
        .until::<Deployment>("web", "paused", reason("DeploymentPaused"))
        .await;
    let patch =
        json!({"spec": {"replicas": 3, "template": template(json!({"app": "web", "hollow": "run"}), "v3")}});
    let patched = api.patch("web", &params, &merge(patch)).await.unwrap();
    let scaled = |found: &Deployment| {
        let status = found.status.as_ref().unwrap();
        status.observed_generation == patched.metadata.generation && status.available_replicas == Some(3)
    };
    let found = cluster
        .until::<Deployment>("web", "scaled though paused", scaled)
        .await;
    assert_eq!(found.status.unwrap().updated_replicas, None);
    api.patch("web", &params, &merge(json!({"spec": {"paused": false}})))
        .await
        .unwrap();
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
    let pods = cluster
        .api::<Pod>()
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    assert_eq!(pods.len(), 200);
    let events = cluster
        .api::<Event>()
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
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
    assert_eq!(messages(&cluster, "SuccessfulCreate", 2).await.len(), 2);
    // A pod that no longer matches is let go and replaced.
    let patch = merge(json!({"metadata": {"labels": {"app": "b"}}}));
    pods.patch("orphan", &PatchParams::default(), &patch)
        .await
        .unwrap();
    let count = |pods: &[Pod]| pods.len() == 4;
    cluster.until_all::<Pod>("a replacement", count).await;
    let released = cluster
        .until::<Pod>("orphan", "nobody's", |pod| {
            pod.metadata.owner_references.is_none()
        })
        .await;
    assert_eq!(released.metadata.labels.unwrap()["app"], "b");
    cluster.until::<ReplicaSet>("rs", "3 ready again", ready(3)).await;
    let patch = merge(json!({"spec": {"replicas": 1}}));
    cluster
        .api::<ReplicaSet>()
        .patch("rs", &PatchParams::default(), &patch)
        .await
        .unwrap();
    cluster.until::<ReplicaSet>("rs", "1 ready", ready(1)).await;
    assert_eq!(messages(&cluster, "SuccessfulDelete", 2).await.len(), 2);

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
            &merge(json!({"spec": {"taints": null}})),
        )
        .await
        .unwrap();
    cluster.until::<DaemonSet>("ds", "3 nodes", at(3, true)).await;
    let patch = json!({"spec": {"template": tolerant("v2")}});
    let patched = cluster
        .api::<DaemonSet>()
        .patch("ds", &PatchParams::default(), &merge(patch))
        .await
        .unwrap();
    assert_eq!(patched.metadata.generation, Some(2));
    cluster
        .until::<DaemonSet>("ds", "the new revision", at(3, true))
        .await;
    let pods = cluster
        .api::<Pod>()
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    assert!(
        pods.iter()
            .all(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("v2"))
    );
    cluster.stop().await;
}

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
    let list = pods.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(names(&list), ["db-0", "db-1", "db-2"]);
    let mut created: Vec<_> = list
        .iter()
        .map(|pod| pod.metadata.resource_version.clone())
        .collect();
    created.dedup();
    assert_eq!(created.len(), 3);
    let claims = cluster
        .api::<PersistentVolumeClaim>()
        .list(&ListParams::default())
        .await
        .unwrap();
    assert_eq!(claims.items.len(), 3);
    let first = pods.get("db-0").await.unwrap();
    assert_eq!(first.spec.as_ref().unwrap().hostname.as_deref(), Some("db-0"));

    let api = cluster.api::<StatefulSet>();
    let patch = json!({"spec": {"template": template(json!({"app": "db"}), "v2"),
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}});
    api.patch("db", &PatchParams::default(), &merge(patch))
        .await
        .unwrap();
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
    api.patch("db", &PatchParams::default(), &merge(patch))
        .await
        .unwrap();
    image("db-0", "v2").await;
    cluster
        .until::<StatefulSet>("db", "the new revision", ready(3))
        .await;
    api.patch(
        "db",
        &PatchParams::default(),
        &merge(json!({"spec": {"replicas": 1}})),
    )
    .await
    .unwrap();
    cluster.until::<StatefulSet>("db", "1 ready", ready(1)).await;
    assert_eq!(
        names(&pods.list(&ListParams::default()).await.unwrap().items),
        ["db-0"]
    );
    let claims = cluster
        .api::<PersistentVolumeClaim>()
        .list(&ListParams::default())
        .await
        .unwrap();
    assert_eq!(claims.items.len(), 3, "claims stay");
    cluster.stop().await;
}

fn condition<'a>(job: &'a Job, type_: &str) -> Option<&'a str> {
    let conditions = job.status.as_ref()?.conditions.as_deref()?;
    conditions
        .iter()
        .find(|found| found.type_ == type_ && found.status == "True")?
        .reason
        .as_deref()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_count_every_pod_once() {
    let cluster = Cluster::start().await;
    let job = |name: &str, wish: &str, more: Value| {
        let mut spec = json!({"template": job_template(wish)});
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!({"metadata": {"name": name}, "spec": spec})
    };
    cluster
        .create::<Job>(job(
            "good",
            "succeed",
            json!({"completions": 5, "parallelism": 2}),
        ))
        .await;
    cluster
        .create::<Job>(job("bad", "fail", json!({"backoffLimit": 0})))
        .await;
    let indexed = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 4});
    cluster.create::<Job>(job("indexed", "succeed", indexed)).await;
    let per_index = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimitPerIndex": 0,
                           "backoffLimit": 2_147_483_647});
    cluster.create::<Job>(job("per-index", "fail", per_index)).await;
    let policy = json!({"backoffLimit": 3, "podFailurePolicy": {"rules": [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}]}});
    cluster.create::<Job>(job("policy", "fail", policy)).await;
    cluster
        .create::<Job>(job("suspended", "succeed", json!({"suspend": true})))
        .await;

    let found = cluster
        .until::<Job>("good", "complete", |job| condition(job, "Complete").is_some())
        .await;
    assert_eq!(
        condition(&found, "SuccessCriteriaMet"),
        Some("CompletionsReached")
    );
    let status = found.status.unwrap();
    assert_eq!(
        (status.succeeded, status.failed, status.active),
        (Some(5), None, None)
    );
    assert!(status.completion_time.is_some() && status.start_time.is_some());
    let found = cluster
        .until::<Job>("bad", "failed", |job| condition(job, "Failed").is_some())
        .await;
    assert_eq!(condition(&found, "Failed"), Some("BackoffLimitExceeded"));
    assert_eq!(found.status.unwrap().failed, Some(1));
    let found = cluster
        .until::<Job>("indexed", "complete", |job| condition(job, "Complete").is_some())
        .await;
    let status = found.status.unwrap();
    assert_eq!(
        (status.succeeded, status.completed_indexes.as_deref()),
        (Some(4), Some("0-3"))
    );
    let found = cluster
        .until::<Job>("per-index", "failed", |job| condition(job, "Failed").is_some())
        .await;
    assert_eq!(condition(&found, "Failed"), Some("FailedIndexes"));
    assert_eq!(found.status.unwrap().failed_indexes.as_deref(), Some("0,1"));
    let found = cluster
        .until::<Job>("policy", "failed", |job| condition(job, "Failed").is_some())
        .await;
    assert_eq!(condition(&found, "Failed"), Some("PodFailurePolicy"));
    assert_eq!(found.status.unwrap().failed, Some(1));
    cluster
        .until::<Job>("suspended", "suspended", |job| {
            condition(job, "Suspended").is_some()
        })
        .await;
    let patch = merge(json!({"spec": {"suspend": false}}));
    cluster
        .api::<Job>()
        .patch("suspended", &PatchParams::default(), &patch)
        .await
        .unwrap();
    cluster
        .until::<Job>("suspended", "complete", |job| {
            condition(job, "Complete").is_some()
        })
        .await;

    let free = |pods: &[Pod]| {
        pods.iter()
            .all(|pod| pod.metadata.finalizers.as_ref().is_none_or(Vec::is_empty))
    };
    let pods = cluster.until_all::<Pod>("no finalizers", free).await;
    assert_eq!(pods.len(), 5 + 1 + 4 + 2 + 1 + 1);
    // Pods of a Job that is deleted while they run lose their finalizer, too.
    cluster.create::<Job>(job("endless", "run", json!({}))).await;
    cluster
        .until::<Job>("endless", "ready", |job| {
            job.status.as_ref().is_some_and(|status| status.ready == Some(1))
        })
        .await;
    cluster
        .api::<Job>()
        .delete("endless", &DeleteParams::orphan())
        .await
        .unwrap();
    cluster
        .until_all::<Pod>("no finalizers", |pods| pods.len() == 15 && free(pods))
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cron_jobs_start_jobs() {
    let cluster = Cluster::start().await;
    cluster
        .create::<CronJob>(json!({"metadata": {"name": "tick"}, "spec": {
            "schedule": "@every 1s", "jobTemplate": {"spec": {"template": job_template("succeed")}}}}))
        .await;
    let done = |found: &CronJob| {
        let status = found.status.as_ref();
        status.is_some_and(|status| {
            status.last_successful_time.is_some() && status.last_schedule_time.is_some()
        })
    };
    cluster.until::<CronJob>("tick", "a successful run", done).await;
    let jobs = cluster
        .api::<Job>()
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    assert!(
        !jobs.is_empty()
            && jobs
                .iter()
                .all(|job| job.metadata.name.as_ref().unwrap().starts_with("tick-"))
    );
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
    let message = messages(&cluster, "SuccessfulRescale", 1).await.remove(0);
    assert_eq!(
        message,
        "New size: 3; reason: Current number of replicas above Spec.MaxReplicas"
    );
    // There is no metrics API here; a change of the spec makes it look at once.
    let patch = merge(json!({"spec": {"maxReplicas": 4}}));
    cluster
        .api::<HorizontalPodAutoscaler>()
        .patch("a", &PatchParams::default(), &patch)
        .await
        .unwrap();
    let missing = |found: &HorizontalPodAutoscaler| {
        let conditions = found
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default();
        conditions
            .iter()
            .any(|c| c.type_ == "ScalingActive" && c.reason.as_deref() == Some("FailedGetResourceMetric"))
    };
    cluster
        .until::<HorizontalPodAutoscaler>("a", "without metrics", missing)
        .await;
    cluster.stop().await;
}
