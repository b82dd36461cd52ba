//! Jobs and cron jobs.

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::support::{Cluster, condition, job_template, names};

/// The reason of a condition that is true.
fn reason(job: &Job, type_: &str) -> Option<String> {
    condition(job, type_)
        .filter(|found| found.status == "True")
        .map(|found| found.reason)
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
        .until::<Job>("good", "complete", |job| reason(job, "Complete").is_some())
        .await;
    assert_eq!(
        reason(&found, "SuccessCriteriaMet").as_deref(),
        Some("CompletionsReached")
    );
    let status = found.status.unwrap();
    assert_eq!(
        (status.succeeded, status.failed, status.active),
        (Some(5), None, None)
    );
    assert!(status.completion_time.is_some() && status.start_time.is_some());
    let found = cluster
        .until::<Job>("bad", "failed", |job| reason(job, "Failed").is_some())
        .await;
    assert_eq!(reason(&found, "Failed").as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(found.status.unwrap().failed, Some(1));
    let found = cluster
        .until::<Job>("indexed", "complete", |job| reason(job, "Complete").is_some())
        .await;
    let status = found.status.unwrap();
    assert_eq!(
        (status.succeeded, status.completed_indexes.as_deref()),
        (Some(4), Some("0-3"))
    );
    let found = cluster
        .until::<Job>("per-index", "failed", |job| reason(job, "Failed").is_some())
        .await;
    assert_eq!(reason(&found, "Failed").as_deref(), Some("FailedIndexes"));
    assert_eq!(found.status.unwrap().failed_indexes.as_deref(), Some("0,1"));
    let found = cluster
        .until::<Job>("policy", "failed", |job| reason(job, "Failed").is_some())
        .await;
    assert_eq!(reason(&found, "Failed").as_deref(), Some("PodFailurePolicy"));
    assert_eq!(found.status.unwrap().failed, Some(1));
    cluster
        .until::<Job>("suspended", "suspended", |job| reason(job, "Suspended").is_some())
        .await;
    let patch = json!({"spec": {"suspend": false}});
    cluster.patch::<Job>("suspended", patch).await;
    cluster
        .until::<Job>("suspended", "complete", |job| reason(job, "Complete").is_some())
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
    let jobs = cluster.list::<Job>().await;
    assert!(
        !jobs.is_empty()
            && jobs
                .iter()
                .all(|job| job.metadata.name.as_ref().unwrap().starts_with("tick-"))
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_adopt_and_release_pods() {
    let cluster = Cluster::start().await;
    let spec = json!({"parallelism": 2, "completions": 2, "template": job_template("run")});
    let job = cluster
        .create::<Job>(json!({"metadata": {"name": "j"}, "spec": spec}))
        .await;
    cluster
        .until_status::<Job>("j", json!({"active": 2, "ready": 2}))
        .await;
    let pod = names(&cluster.list::<Pod>().await).remove(0);
    cluster
        .patch::<Pod>(&pod, json!({"metadata": {"ownerReferences": null}}))
        .await;
    let owner = |pod: &Pod| pod.metadata.owner_references.iter().flatten().next().cloned();
    cluster
        .until::<Pod>(&pod, "adopted", |pod| {
            owner(pod).is_some_and(|owner| Some(owner.uid) == job.metadata.uid)
        })
        .await;
    let labels = json!({"batch.kubernetes.io/controller-uid": null, "controller-uid": null,
                        "batch.kubernetes.io/job-name": null, "job-name": null});
    cluster
        .patch::<Pod>(&pod, json!({"metadata": {"labels": labels}}))
        .await;
    cluster
        .until::<Pod>(&pod, "released", |pod| owner(pod).is_none())
        .await;
    cluster
        .until_all::<Pod>("a replacement", |pods| pods.len() == 3)
        .await;
    cluster.stop().await;
}

/// Ends the pod of an index, as its kubelet would.
async fn end(cluster: &Cluster, index: &str, code: i32, conditions: Value) {
    let annotation = "batch.kubernetes.io/job-completion-index";
    let of_index = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let annotations = pod.metadata.annotations.as_ref();
        phase == Some("Pending")
            && annotations.is_some_and(|all| all.get(annotation).map(String::as_str) == Some(index))
    };
    let pods = cluster
        .until_all::<Pod>(&format!("a pod of index {index}"), |pods| {
            pods.iter().any(of_index)
        })
        .await;
    let pod = pods.iter().find(|pod| of_index(pod)).unwrap();
    let terminated = json!({"exitCode": code, "finishedAt": jiff::Timestamp::now().to_string()});
    let container = json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                           "state": {"terminated": terminated}});
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let status = json!({"phase": phase, "containerStatuses": [container], "conditions": conditions});
    cluster
        .patch_status::<Pod>(pod.metadata.name.as_deref().unwrap(), status)
        .await;
}

fn indexed(name: &str, more: Value) -> Value {
    let mut spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "template": job_template("stuck")});
    spec.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": name}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn success_policies_end_jobs_early() {
    let cluster = Cluster::start().await;
    let rules = json!({"successPolicy": {"rules": [{"succeededIndexes": "1"}]}});
    cluster.create::<Job>(indexed("chosen", rules)).await;
    end(&cluster, "1", 0, json!([])).await;
    let found = cluster
        .until::<Job>("chosen", "complete", |job| reason(job, "Complete").is_some())
        .await;
    assert_eq!(
        reason(&found, "SuccessCriteriaMet").as_deref(),
        Some("SuccessPolicy")
    );
    assert_eq!(reason(&found, "Complete").as_deref(), Some("SuccessPolicy"));
    let status = found.status.unwrap();
    assert_eq!(
        (
            status.completed_indexes.as_deref(),
            status.succeeded,
            status.active
        ),
        (Some("1"), Some(1), None)
    );
    // What still ran was stopped, and every pod's host name told its index.
    let pods = cluster.list::<Pod>().await;
    for pod in &pods {
        let hostname = pod.spec.as_ref().unwrap().hostname.clone().unwrap();
        assert!(["chosen-0", "chosen-1", "chosen-2"].contains(&hostname.as_str()));
        let ended = pod.metadata.deletion_timestamp.is_some();
        assert!(ended || hostname == "chosen-1", "{hostname} still runs");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_policies_decide_what_a_failure_means() {
    let cluster = Cluster::start().await;
    let disrupted =
        json!([{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}]);
    let ignore =
        json!({"onPodConditions": [{"type": "DisruptionTarget", "status": "True"}], "action": "Ignore"});
    let fail_index = json!({"onExitCodes": {"operator": "In", "values": [42]}, "action": "FailIndex"});
    let more = json!({"backoffLimitPerIndex": 1, "backoffLimit": 2_147_483_647, "podFailurePolicy": {"rules": [ignore, fail_index]}});
    cluster.create::<Job>(indexed("j", more)).await;
    // A disruption costs no attempt; 42 ends an index at once; another code is tried again.
    end(&cluster, "0", 1, disrupted).await;
    end(&cluster, "1", 42, json!([])).await;
    end(&cluster, "2", 1, json!([])).await;
    // Both come again after the same wait of ten seconds.
    end(&cluster, "0", 0, json!([])).await;
    end(&cluster, "2", 0, json!([])).await;
    let found = cluster
        .until::<Job>("j", "failed", |job| reason(job, "Failed").is_some())
        .await;
    assert_eq!(reason(&found, "Failed").as_deref(), Some("FailedIndexes"));
    let status = found.status.unwrap();
    assert_eq!(
        (
            status.completed_indexes.as_deref(),
            status.failed_indexes.as_deref()
        ),
        (Some("0,2"), Some("1"))
    );

    let most = json!({"backoffLimitPerIndex": 0, "maxFailedIndexes": 1, "completions": 4, "parallelism": 2});
    cluster.create::<Job>(indexed("most", most)).await;
    end(&cluster, "0", 1, json!([])).await;
    end(&cluster, "1", 1, json!([])).await;
    let found = cluster
        .until::<Job>("most", "failed", |job| reason(job, "Failed").is_some())
        .await;
    assert_eq!(
        reason(&found, "Failed").as_deref(),
        Some("MaxFailedIndexesExceeded")
    );
    cluster.stop().await;
}

/// A cron job that is due, one of whose Jobs runs already.
async fn with_a_running_job(cluster: &Cluster, name: &str, policy: &str, suspend: bool) {
    let job = json!({"spec": {"template": job_template("run")}});
    let spec =
        json!({"schedule": "@every 1s", "concurrencyPolicy": policy, "suspend": true, "jobTemplate": job});
    let cron = json!({"metadata": {"name": name}, "spec": spec});
    let cron = cluster.create::<CronJob>(cron).await;
    let owner = json!({"apiVersion": "batch/v1", "kind": "CronJob", "name": name, "uid": cron.metadata.uid,
                       "controller": true});
    let metadata = json!({"name": format!("{name}-1"), "ownerReferences": [owner]});
    let running = json!({"metadata": metadata, "spec": {"template": job_template("run")}});
    let running = cluster.create::<Job>(running).await;
    let reference = json!({"apiVersion": "batch/v1", "kind": "Job", "namespace": "default", "name": format!("{name}-1"),
                           "uid": running.metadata.uid});
    cluster
        .patch_status::<CronJob>(name, json!({ "active": [reference] }))
        .await;
    cluster
        .patch::<CronJob>(name, json!({"spec": {"suspend": suspend}}))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cron_jobs_keep_their_concurrency_policy() {
    let cluster = Cluster::start().await;
    for (name, policy) in [("allow", "Allow"), ("forbid", "Forbid"), ("replace", "Replace")] {
        with_a_running_job(&cluster, name, policy, false).await;
    }
    with_a_running_job(&cluster, "suspended", "Allow", true).await;
    let active = |cron: &CronJob| -> Vec<String> {
        let active = cron
            .status
            .iter()
            .flat_map(|status| status.active.iter().flatten());
        active.filter_map(|job| job.name.clone()).collect()
    };
    cluster
        .until::<CronJob>("allow", "both at once", |cron| active(cron).len() == 2)
        .await;
    let replaced = |cron: &CronJob| active(cron).len() == 1 && active(cron) != ["replace-1"];
    cluster.until::<CronJob>("replace", "replaced", replaced).await;
    cluster
        .until_all::<Job>("the old one gone", |jobs| {
            !names(jobs).contains(&"replace-1".to_owned())
        })
        .await;
    let refusal = cluster.messages("JobAlreadyActive", 1).await.remove(0);
    assert_eq!(
        refusal,
        "Not starting job because prior execution is running and concurrency policy is Forbid"
    );
    for name in ["forbid", "suspended"] {
        let cron = cluster.api::<CronJob>().get(name).await.unwrap();
        assert_eq!(active(&cron), [format!("{name}-1")]);
    }
    let jobs = names(&cluster.list::<Job>().await);
    let of = |prefix: &str| jobs.iter().filter(|name| name.starts_with(prefix)).count();
    assert_eq!((of("forbid-"), of("suspended-")), (1, 1), "{jobs:?}");
    cluster.stop().await;
}
