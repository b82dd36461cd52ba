//! Resource quotas, charged by a real API server and counted by the controller.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota, Service};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::support::{Cluster, template};

/// `name=amount` of `status.used`.
fn used(quota: &ResourceQuota) -> Vec<String> {
    let status = quota.status.clone().unwrap_or_default();
    let used = status.used.unwrap_or_default();
    used.into_iter()
        .map(|(name, amount)| format!("{name}={}", amount.0))
        .collect()
}

async fn until(cluster: &Cluster, quota: &str, expected: &[&str]) -> ResourceQuota {
    cluster
        .until::<ResourceQuota>(quota, &format!("{expected:?}"), |quota| used(quota) == expected)
        .await
}

async fn pod(cluster: &Cluster, name: &str, wish: &str, requests: Value) {
    let container = json!({"name": "c", "image": "i", "resources": {"requests": requests}});
    let spec = json!({"containers": [container], "restartPolicy": "Never"});
    let metadata = json!({"name": name, "labels": {"hollow": wish}});
    cluster
        .create::<Pod>(json!({"metadata": metadata, "spec": spec}))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_are_counted_and_what_is_freed_is_given_back() {
    let cluster = Cluster::start().await;
    let now = DeleteParams::default().grace_period(0);
    cluster
        .create::<ConfigMap>(json!({"metadata": {"name": "before"}}))
        .await;
    let hard = json!({"count/pods": "10", "pods": "3", "requests.cpu": "2", "services.nodeports": "1",
                      "configmaps": "5", "count/deployments.apps": "1"});
    cluster
        .create::<ResourceQuota>(json!({"metadata": {"name": "all"}, "spec": {"hard": hard}}))
        .await;
    let scoped = json!({"hard": {"pods": "5"}, "scopes": ["BestEffort"]});
    cluster
        .create::<ResourceQuota>(json!({"metadata": {"name": "best-effort"}, "spec": scoped}))
        .await;
    let nothing = [
        "configmaps=1",
        "count/deployments.apps=0",
        "count/pods=0",
        "pods=0",
        "requests.cpu=0",
        "services.nodeports=0",
    ];
    let counted = until(&cluster, "all", &nothing).await;
    assert_eq!(serde_json::to_value(counted.status.unwrap().hard).unwrap(), hard);
    until(&cluster, "best-effort", &["pods=0"]).await;

    pod(&cluster, "a", "stuck", json!({"cpu": "500m"})).await;
    pod(&cluster, "b", "succeed", json!({"cpu": "1"})).await;
    cluster
        .create::<Service>(
            json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}}),
        )
        .await;
    let labels = json!({"app": "d"});
    let spec = json!({"replicas": 0, "selector": {"matchLabels": labels}, "template": template(labels.clone(), "i")});
    cluster
        .create::<Deployment>(json!({"metadata": {"name": "d"}, "spec": spec}))
        .await;
    // The pod that has come to its end is an object still, and uses nothing else.
    let running = [
        "configmaps=1",
        "count/deployments.apps=1",
        "count/pods=2",
        "pods=1",
        "requests.cpu=500m",
        "services.nodeports=1",
    ];
    until(&cluster, "all", &running).await;
    let pods = cluster.api::<Pod>();
    pods.delete("a", &now).await.unwrap();
    pods.delete("b", &now).await.unwrap();
    cluster.api::<Deployment>().delete("d", &now).await.unwrap();
    cluster.api::<Service>().delete("s", &now).await.unwrap();
    cluster.api::<ConfigMap>().delete("before", &now).await.unwrap();
    let mut empty = nothing;
    empty[0] = "configmaps=0";
    until(&cluster, "all", &empty).await;

    // A limit that is new is counted at once, one that is gone is not shown.
    pod(&cluster, "c", "stuck", json!({"cpu": "1"})).await;
    let hard = json!({"count/pods": null, "configmaps": null, "count/deployments.apps": null, "services.nodeports": null,
                      "requests.memory": "1Gi", "secrets": "3"});
    let patch = Patch::Merge(json!({"spec": {"hard": hard}}));
    let api = cluster.api::<ResourceQuota>();
    api.patch("all", &PatchParams::default(), &patch).await.unwrap();
    let changed = ["pods=1", "requests.cpu=1", "requests.memory=0", "secrets=0"];
    until(&cluster, "all", &changed).await;
    assert_eq!(used(&api.get("best-effort").await.unwrap()), ["pods=0"]);

    // Limits are the spec's, whoever writes others into the status.
    let hard = |quota: &ResourceQuota| serde_json::to_value(&quota.status.as_ref().unwrap().hard).unwrap();
    let status = json!({"hard": {"pods": "9"}});
    let written: ResourceQuota = cluster.patch_status("best-effort", status).await;
    assert_eq!(hard(&written), json!({"pods": "9"}));
    cluster
        .until::<ResourceQuota>("best-effort", "the spec's limits", |quota| {
            hard(quota) == json!({"pods": "5"})
        })
        .await;
    cluster.stop().await;
}
