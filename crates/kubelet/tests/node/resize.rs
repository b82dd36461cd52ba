//! In-place resize, end to end: the subresource, the running containers' groups, and what the status shows.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::Test;
use super::fixture::{Cluster, IDLE, condition, on_cluster, shell};

pub(crate) const TESTS: &[Test] = &[
    ("containers_are_resized_where_they_run", in_place),
    ("a_resize_that_does_not_fit_waits_or_is_refused", pending),
];

fn resources(cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}})
}

async fn resize(cluster: &Cluster, pod: &str, containers: Value) -> Pod {
    let patch = Patch::Strategic(json!({"spec": {"containers": containers}}));
    cluster
        .pods()
        .patch_subresource("resize", pod, &PatchParams::default(), &patch)
        .await
        .unwrap()
}

fn status(pod: &Pod, container: &str) -> Value {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.clone());
    let found = statuses.iter().flatten().find(|s| s.name == container);
    found
        .map(|s| serde_json::to_value(s).unwrap())
        .unwrap_or_default()
}

/// Whether the status is about the newest spec and no resize is under way.
fn settled(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|s| s.observed_generation) == pod.metadata.generation
        && condition(pod, "PodResizePending").is_empty()
        && condition(pod, "PodResizeInProgress").is_empty()
        && condition(pod, "Ready") == "True"
}

/// A file of a container's group in a version 1 hierarchy; `None` where the host has none.
fn group_file(cluster: &Cluster, pod: &Pod, container: Option<&str>, file: &str) -> Option<String> {
    let controller = file.split('.').next()?;
    let base = std::path::PathBuf::from(format!(
        "/sys/fs/cgroup/{controller}{}",
        cluster.config.cgroup_root
    ));
    if !base.exists() {
        return None;
    }
    let mut dir = base.join(format!("kubepods/pod{}", pod.metadata.uid.clone()?));
    if let Some(container) = container {
        let id = status(pod, container)["containerID"]
            .as_str()?
            .rsplit('/')
            .next()?
            .to_owned();
        let found = std::fs::read_dir(&dir).unwrap().flatten();
        dir = found
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().contains(&id))
            .expect("the container has a group in the pod's");
    }
    Some(std::fs::read_to_string(dir.join(file)).unwrap().trim().to_owned())
}

fn in_place() {
    on_cluster(async |cluster| {
        let container = |name: &str| {
            let mut container = shell(name, IDLE);
            container["resources"] = resources("100m", "32Mi");
            container
        };
        let mut restarted = container("b");
        restarted["resizePolicy"] = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        cluster
            .pod("web", json!({"containers": [container("a"), restarted]}))
            .await;
        let pod = cluster.until_ready("web").await;
        assert_eq!(status(&pod, "a")["resources"], resources("100m", "32Mi"));
        let before = status(&pod, "a")["containerID"].clone();

        let changed = json!([
            {"name": "a", "resources": resources("200m", "64Mi")},
            {"name": "b", "resources": resources("50m", "48Mi")},
        ]);
        let asked = resize(cluster, "web", changed).await;
        assert_eq!(asked.metadata.generation, Some(2));
        let pod = cluster
            .until("web", "resized", |pod| {
                settled(pod)
                    && status(pod, "a")["resources"] == resources("200m", "64Mi")
                    && status(pod, "b")["resources"] == resources("50m", "48Mi")
            })
            .await;
        assert_eq!(status(&pod, "a")["containerID"], before, "resized where it runs");
        assert_eq!(status(&pod, "a")["restartCount"], 0);
        assert_eq!(status(&pod, "b")["restartCount"], 1, "its memory needs a restart");
        for (container, file, expected) in [
            (Some("a"), "cpu.shares", "204"),
            (Some("a"), "cpu.cfs_quota_us", "20000"),
            (Some("a"), "memory.limit_in_bytes", "67108864"),
            (Some("b"), "cpu.cfs_quota_us", "5000"),
            (Some("b"), "memory.limit_in_bytes", "50331648"),
            (None, "cpu.cfs_quota_us", "25000"),
            (None, "memory.limit_in_bytes", "117440512"),
        ] {
            if let Some(found) = group_file(cluster, &pod, container, file) {
                assert_eq!(found, expected, "{container:?} {file}");
            }
        }
        for part in [
            "ResizeStarted: Pod resize started: {",
            "ResizeCompleted: Pod resize completed: {",
        ] {
            cluster.until_event("web", part).await;
        }

        // Less of everything, also after a restart of the kubelet.
        cluster.stop_kubelet().await;
        resize(
            cluster,
            "web",
            json!([{"name": "a", "resources": resources("50m", "32Mi")}]),
        )
        .await;
        cluster.start_kubelet();
        let pod = cluster
            .until("web", "resized again", |pod| {
                settled(pod) && status(pod, "a")["resources"] == resources("50m", "32Mi")
            })
            .await;
        assert_eq!(status(&pod, "a")["containerID"], before);
        if let Some(found) = group_file(cluster, &pod, None, "cpu.cfs_quota_us") {
            assert_eq!(found, "10000");
        }
    });
}

fn pending() {
    on_cluster(async |cluster| {
        let nodes = kube::Api::<k8s_openapi::api::core::v1::Node>::all(cluster.client.clone());
        let node = serde_json::to_value(nodes.get(super::fixture::NODE).await.unwrap()).unwrap();
        let cores: i64 = node["status"]["allocatable"]["cpu"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let request = |cpu: String| json!({"requests": {"cpu": cpu}});
        for name in ["one", "two"] {
            let mut container = shell("main", IDLE);
            container["resources"] = request("100m".into());
            cluster.pod(name, json!({"containers": [container]})).await;
            cluster.until_ready(name).await;
        }
        let pending = |reason: &'static str| {
            move |pod: &Pod| {
                let conditions = pod.status.as_ref().and_then(|s| s.conditions.clone());
                conditions.iter().flatten().any(|c| {
                    c.type_ == "PodResizePending"
                        && c.reason.as_deref() == Some(reason)
                        && c.observed_generation == pod.metadata.generation
                })
            }
        };
        let most = format!("{}m", cores * 1000 - 50);
        resize(
            cluster,
            "one",
            json!([{"name": "main", "resources": request(most.clone())}]),
        )
        .await;
        let pod = cluster.until("one", "deferred", pending("Deferred")).await;
        assert_eq!(
            status(&pod, "main")["resources"],
            request("100m".into()),
            "it keeps what it has"
        );
        cluster
            .until_event("one", "ResizeDeferred: Pod resize deferred: {")
            .await;
        resize(
            cluster,
            "two",
            json!([{"name": "main", "resources": request(format!("{}", cores + 1))}]),
        )
        .await;
        cluster.until("two", "refused", pending("Infeasible")).await;
        // Room comes: the other one ends.
        cluster.delete("two").await;
        cluster
            .until("one", "resized", |pod| {
                settled(pod) && status(pod, "main")["resources"] == request(most.clone())
            })
            .await;
    });
}
