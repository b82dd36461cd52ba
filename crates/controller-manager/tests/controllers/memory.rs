//! How much memory the controllers' caches take. A measurement, run by hand:
//! `cargo nextest run -p keelson-controller-manager --run-ignored only --no-capture memory`.

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota};
use serde_json::{Value, json};

use crate::support::Cluster;

const PODS: usize = 2000;
/// [`PODS`] as quantities are written.
const COUNTED: &str = "2k";
const CONFIG_MAPS: usize = 200;

/// Resident memory of this process in MiB.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = pages.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4 / 1024
}

/// A pod as charts make them.
fn pod(number: usize) -> Value {
    let env: Vec<Value> = (0..12)
        .map(|at| json!({"name": format!("SETTING_{at}"), "value": format!("http://service-{at}.default.svc.cluster.local")}))
        .collect();
    let probe = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10});
    let mounts = json!([{"name": "config", "mountPath": "/etc/app"}, {"name": "cache", "mountPath": "/var/cache/app"}]);
    let container = json!({"name": "app", "image": "example.com/team/app:1.2.3", "env": env, "livenessProbe": probe,
        "readinessProbe": probe, "volumeMounts": mounts, "args": ["--verbose", "--listen=:8080"],
        "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"memory": "64Mi"}}});
    let volumes =
        json!([{"name": "config", "configMap": {"name": "app"}}, {"name": "cache", "emptyDir": {}}]);
    let labels = json!({"app.kubernetes.io/name": "app", "app.kubernetes.io/instance": format!("app-{}", number / 10),
                        "hollow": "stuck"});
    let annotations = json!({"kubectl.kubernetes.io/last-applied-configuration": "x".repeat(1200)});
    json!({"metadata": {"name": format!("p{number}"), "labels": labels, "annotations": annotations},
           "spec": {"containers": [container, {"name": "side", "image": "example.com/side:1", "env": env}], "volumes": volumes}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn memory_of_the_caches() {
    let mut cluster = Cluster::start().await;
    cluster.stop_manager();
    let create = async |number: usize| {
        cluster.create::<Pod>(pod(number)).await;
    };
    futures::stream::iter(0..PODS)
        .for_each_concurrent(32, create)
        .await;
    for number in 0..CONFIG_MAPS {
        let data = json!({"file": "y".repeat(64 * 1024)});
        let map = json!({"metadata": {"name": format!("m{number}")}, "data": data});
        cluster.create::<ConfigMap>(map).await;
    }
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/pods": "100000"}}});
    cluster.create::<ResourceQuota>(quota).await;
    let before = resident();
    cluster.start_manager("second");
    // The number is right when the caches are full.
    let counted = |quota: &ResourceQuota| {
        let used = quota.status.as_ref().and_then(|status| status.used.as_ref());
        used.is_some_and(|used| used.get("count/pods").is_some_and(|count| count.0 == COUNTED))
    };
    cluster.until::<ResourceQuota>("q", "counted", counted).await;
    let after = resident();
    eprintln!(
        "{PODS} pods and {CONFIG_MAPS} config maps: {} MiB ({before} MiB before, {after} MiB after)",
        after - before
    );
    cluster.stop().await;
}
