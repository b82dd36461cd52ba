//! The life of pods.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::Test;
use super::fixture::{Cluster, IDLE, IMAGE, NODE, condition, container, on_cluster, shell};

pub(crate) const TESTS: &[Test] = &[
    (
        "pods_start_with_their_configuration_and_leave_nothing",
        configuration,
    ),
    ("a_failing_container_backs_off", crash_loop),
    ("containers_outlive_the_kubelet", restart),
    ("a_pod_that_is_done_stays_done", completion),
    ("init_containers_and_sidecars_keep_their_order", order),
    ("images_that_cannot_be_had_are_reported", images),
    ("probes_decide_about_readiness_and_restarts", probes),
    ("manifests_become_static_pods", static_pods),
    ("what_does_not_fit_is_rejected", admission),
    ("mounts_that_are_missing_are_waited_for", missing_config),
    (
        "too_much_memory_ends_a_container_and_it_starts_again",
        out_of_memory,
    ),
];

/// The log of a container.
pub(crate) async fn log(cluster: &Cluster, pod: &str) -> String {
    cluster
        .pods()
        .logs(pod, &kube::api::LogParams::default())
        .await
        .unwrap()
}

fn configuration() {
    on_cluster(async |cluster| {
        cluster
            .create::<ConfigMap>(
                json!({"metadata": {"name": "cm"}, "data": {"key": "one", "file": "content"}}),
            )
            .await;
        cluster
            .create::<Secret>(json!({"metadata": {"name": "s"}, "stringData": {"pass": "word"}}))
            .await;
        let script = "echo $KEY $PASS $NAME $(cat /cm/key) $(cat /s/pass) $(cat /down/labels) $(id -u) $(stat -c %a /cm/..data/key); \
             hostname; grep -c web /etc/hosts; grep -c cluster.local /etc/resolv.conf; \
             test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo token; \
             echo x > /scratch/sub/f && echo written; trap 'exit 0' TERM; while :; do sleep 0.1; done";
        let mut main = shell("main", script);
        main["env"] = json!([
            {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "key"}}},
            {"name": "PASS", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pass"}}},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ]);
        main["volumeMounts"] = json!([
            {"name": "cm", "mountPath": "/cm"}, {"name": "s", "mountPath": "/s", "readOnly": true},
            {"name": "down", "mountPath": "/down"}, {"name": "scratch", "mountPath": "/scratch/sub", "subPath": "a/b"},
        ]);
        main["resources"] =
            json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}});
        main["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 1000});
        let spec = json!({
            "containers": [main],
            "securityContext": {"fsGroup": 2000},
            "volumes": [
                {"name": "cm", "configMap": {"name": "cm"}},
                {"name": "s", "secret": {"secretName": "s"}},
                {"name": "down", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels['app']"}}]}},
                {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            ],
        });
        cluster.pod("web", spec).await;
        let pod = cluster.until_ready("web").await;
        let status = pod.status.clone().unwrap();
        assert_eq!(status.phase.as_deref(), Some("Running"));
        assert_eq!(status.qos_class.as_deref(), Some("Burstable"));
        // By tag, though the runtime is given the id; one that came from no registry has no digest.
        assert_eq!(container(&pod)["image"], IMAGE);
        let id = container(&pod)["imageID"].as_str().unwrap().to_owned();
        assert!(id.starts_with("sha256:"), "{id}");
        assert!(status.pod_ip.as_deref().unwrap().starts_with("10.255.0."));
        assert_eq!(condition(&pod, "PodReadyToStartContainers"), "True");
        let expected = "one word web one word web 1000 644\nweb\n1\n1\ntoken\nwritten\n";
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut found = log(cluster, "web").await;
        while found != expected && std::time::Instant::now() < deadline {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            found = log(cluster, "web").await;
        }
        assert_eq!(found, expected);
        for part in [
            "Pulled: Container image",
            "Created: Container created",
            "Started: Container started",
        ] {
            cluster.until_event("web", part).await;
        }
        // A change of the ConfigMap reaches the running pod.
        let uid = pod.metadata.uid.clone().unwrap();
        let file = cluster.dir.join(format!(
            "kubelet/pods/{uid}/volumes/kubernetes.io~configmap/cm/key"
        ));
        let api = kube::Api::<ConfigMap>::namespaced(cluster.client.clone(), "default");
        api.patch(
            "cm",
            &PatchParams::default(),
            &Patch::Merge(json!({"data": {"key": "two"}})),
        )
        .await
        .unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while std::fs::read_to_string(&file).unwrap() != "two" {
            assert!(
                std::time::Instant::now() < deadline,
                "the volume follows its ConfigMap"
            );
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let memory = format!(
            "/sys/fs/cgroup/memory{}/kubepods/burstable/pod{uid}/memory.limit_in_bytes",
            cluster.config.cgroup_root
        );
        if std::path::Path::new("/sys/fs/cgroup/memory").exists() {
            assert_eq!(
                std::fs::read_to_string(memory).unwrap().trim(),
                (64 << 20).to_string()
            );
        }
        cluster.delete("web").await;
        cluster
            .until_event("web", "Killing: Stopping container main")
            .await;
    });
}

fn crash_loop() {
    on_cluster(async |cluster| {
        let mut main = shell("main", "echo oops > /dev/termination-log; exit 3");
        main["terminationMessagePath"] = json!("/dev/termination-log");
        cluster.pod("bad", json!({"containers": [main]})).await;
        let reason =
            |pod: &k8s_openapi::api::core::v1::Pod| container(pod)["state"]["waiting"]["reason"].clone();
        let pod = cluster
            .until("bad", "in a crash loop", |pod| reason(pod) == "CrashLoopBackOff")
            .await;
        let status = container(&pod);
        assert_eq!(status["restartCount"], 1);
        assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
        assert_eq!(status["lastState"]["terminated"]["message"], "oops\n");
        assert_eq!(status["lastState"]["terminated"]["reason"], "Error");
        assert!(
            status["state"]["waiting"]["message"]
                .as_str()
                .unwrap()
                .starts_with("back-off 10s restarting failed container=main pod=bad_default(")
        );
        assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Running"));
        cluster
            .until_event(
                "bad",
                "BackOff: Back-off restarting failed container main in pod bad_default(",
            )
            .await;
        // After the back-off it is started again.
        cluster
            .until("bad", "restarted twice", |pod| {
                container(pod)["restartCount"] == 2
            })
            .await;
        let previous = kube::api::LogParams {
            previous: true,
            ..Default::default()
        };
        cluster.pods().logs("bad", &previous).await.unwrap();
    });
}

fn restart() {
    on_cluster(async |cluster| {
        let mut main = shell("main", IDLE);
        main["readinessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
        cluster.pod("steady", json!({"containers": [main]})).await;
        cluster
            .pod("orphan", json!({"containers": [shell("main", IDLE)]}))
            .await;
        let before = container(&cluster.until_ready("steady").await);
        cluster.until_ready("orphan").await;
        cluster.stop_kubelet().await;
        let now = kube::api::DeleteParams::default().grace_period(0);
        cluster.pods().delete("orphan", &now).await.unwrap();
        cluster.start_kubelet();
        // A new pod shows that the new kubelet works.
        cluster
            .pod("after", json!({"containers": [shell("main", IDLE)]}))
            .await;
        cluster.until_ready("after").await;
        let pod = cluster.until_ready("steady").await;
        let after = container(&pod);
        assert_eq!(
            (&after["containerID"], &after["restartCount"]),
            (&before["containerID"], &json!(0))
        );
        let transition = |pod: &k8s_openapi::api::core::v1::Pod| {
            let conditions = pod.status.clone().unwrap().conditions.unwrap();
            conditions
                .into_iter()
                .find(|c| c.type_ == "Ready")
                .unwrap()
                .last_transition_time
                .unwrap()
                .0
        };
        assert!(
            transition(&pod)
                < pod.metadata.creation_timestamp.clone().unwrap().0 + std::time::Duration::from_secs(60)
        );
        // What ran without a pod is ended.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(15);
        loop {
            let request = keelson_cri::v1::ListPodSandboxRequest { filter: None };
            let list = cluster
                .config
                .cri
                .runtime()
                .list_pod_sandbox(request)
                .await
                .unwrap()
                .into_inner()
                .items;
            if !list
                .iter()
                .any(|sandbox| sandbox.metadata.as_ref().unwrap().name == "orphan")
            {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "the orphan is ended");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
}

fn completion() {
    on_cluster(async |cluster| {
        for (name, script, phase, reason) in [
            ("good", "exit 0", "Succeeded", "Completed"),
            ("bad", "exit 4", "Failed", "Error"),
        ] {
            cluster
                .pod(
                    name,
                    json!({"restartPolicy": "Never", "containers": [shell("main", script)]}),
                )
                .await;
            let pod = cluster.until_phase(name, phase).await;
            assert_eq!(container(&pod)["state"]["terminated"]["reason"], reason);
        }
        let pod = cluster
            .until("good", "marked complete", |pod| {
                condition(pod, "PodReadyToStartContainers") == "False"
            })
            .await;
        assert_eq!(condition(&pod, "Ready"), "False");
        let deadline = json!({"restartPolicy": "Never", "activeDeadlineSeconds": 1, "containers": [shell("main", IDLE)]});
        cluster.pod("late", deadline).await;
        let pod = cluster.until_phase("late", "Failed").await;
        assert_eq!(pod.status.unwrap().reason.as_deref(), Some("DeadlineExceeded"));
        cluster.stop_kubelet().await;
        cluster.start_kubelet();
        cluster
            .pod("after", json!({"containers": [shell("main", IDLE)]}))
            .await;
        cluster.until_ready("after").await;
        cluster.until_phase("good", "Succeeded").await;
    });
}

fn order() {
    on_cluster(async |cluster| {
        let mount = json!([{"name": "log", "mountPath": "/log"}]);
        let part = |name: &str, script: &str| {
            let mut container = shell(name, script);
            container["volumeMounts"] = mount.clone();
            container
        };
        let mut sidecar = part(
            "sidecar",
            "echo sidecar >> /log/f; trap 'echo sidecar-end >> /log/f; exit 0' TERM; while :; do sleep 0.05; done",
        );
        sidecar["restartPolicy"] = json!("Always");
        let mut main = part(
            "main",
            "echo main >> /log/f; trap 'sleep 0.2; echo main-end >> /log/f; exit 0' TERM; while :; do sleep 0.05; done",
        );
        main["lifecycle"] = json!({
            "postStart": {"exec": {"command": ["sh", "-c", "echo post >> /log/f"]}},
            "preStop": {"exec": {"command": ["sh", "-c", "echo pre >> /log/f"]}},
        });
        let host = cluster.dir.join("host");
        let spec = json!({
            "terminationGracePeriodSeconds": 10,
            "initContainers": [part("first", "echo first >> /log/f"), sidecar, part("last", "echo last >> /log/f")],
            "containers": [main],
            "volumes": [{"name": "log", "hostPath": {"path": host, "type": "DirectoryOrCreate"}}],
        });
        cluster.pod("ordered", spec).await;
        let pod = cluster.until_ready("ordered").await;
        assert_eq!(condition(&pod, "Initialized"), "True");
        cluster.delete("ordered").await;
        let text = std::fs::read_to_string(host.join("f")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let position = |line: &str| {
            lines
                .iter()
                .position(|other| *other == line)
                .unwrap_or_else(|| panic!("no {line} in {lines:?}"))
        };
        let order = ["first", "sidecar", "main", "pre", "main-end", "sidecar-end"];
        assert!(order.is_sorted_by_key(|line| position(line)), "{lines:?}");
        assert!(
            position("last") < position("main") && position("post") < position("pre"),
            "{lines:?}"
        );
    });
}

fn images() {
    on_cluster(async |cluster| {
        let with = |image: &str, policy: &str| json!({"containers": [{"name": "main", "image": image, "imagePullPolicy": policy}]});
        cluster.pod("never", with("example.test/none:1", "Never")).await;
        cluster
            .pod("broken", with("127.0.0.1:1/none:1", "IfNotPresent"))
            .await;
        let waiting = |reason: &'static str| {
            move |pod: &k8s_openapi::api::core::v1::Pod| {
                container(pod)["state"]["waiting"]["reason"] == reason
            }
        };
        cluster
            .until("never", "refused", waiting("ErrImageNeverPull"))
            .await;
        cluster
            .until("broken", "backing off", waiting("ImagePullBackOff"))
            .await;
        for part in [
            "Pulling: Pulling image \"127.0.0.1:1/none:1\"",
            "Failed: Failed to pull image",
            "Failed: Error: ErrImagePull",
            "BackOff: Back-off pulling image",
            "Failed: Error: ImagePullBackOff",
        ] {
            cluster.until_event("broken", part).await;
        }
    });
}

fn probes() {
    on_cluster(async |cluster| {
        let probe = |command: &str| json!({"exec": {"command": ["sh", "-c", command]}, "periodSeconds": 1, "failureThreshold": 1});
        let mut main = shell("main", &format!("touch /tmp/alive; {IDLE}"));
        main["startupProbe"] = probe("test -e /tmp/alive");
        main["livenessProbe"] = probe("test -e /tmp/alive");
        main["readinessProbe"] = probe("! test -e /tmp/busy");
        cluster.pod("probed", json!({"containers": [main]})).await;
        let pod = cluster.until_ready("probed").await;
        assert_eq!(container(&pod)["started"], true);
        let exec = async |script: &str| {
            let pod = cluster.pods().get("probed").await.unwrap();
            let id = container(&pod)["containerID"]
                .as_str()
                .unwrap()
                .rsplit('/')
                .next()
                .unwrap()
                .to_owned();
            let cmd = ["sh", "-c", script].map(str::to_owned).to_vec();
            let request = keelson_cri::v1::ExecSyncRequest {
                container_id: id,
                cmd,
                timeout: 5,
            };
            cluster.config.cri.runtime().exec_sync(request).await.unwrap();
        };
        exec("touch /tmp/busy").await;
        cluster
            .until("probed", "unready", |pod| condition(pod, "Ready") == "False")
            .await;
        exec("rm /tmp/busy").await;
        cluster.until_ready("probed").await;
        exec("rm /tmp/alive").await;
        cluster
            .until("probed", "restarted", |pod| container(pod)["restartCount"] == 1)
            .await;
        cluster.until_ready("probed").await;
        cluster
            .until_event("probed", "Unhealthy: Readiness probe failed: ")
            .await;
        cluster
            .until_event(
                "probed",
                "Killing: Container main failed liveness probe, will be restarted",
            )
            .await;
    });
}

fn static_pods() {
    on_cluster(async |cluster| {
        let manifest = cluster.dir.join("manifests/web.yaml");
        let write = |script: &str| {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [shell("main", script)]}});
            std::fs::write(&manifest, serde_json::to_string(&pod).unwrap()).unwrap();
        };
        write(IDLE);
        let name = format!("web-{NODE}");
        let first = cluster.until_ready(&name).await;
        assert_eq!(
            first.metadata.annotations.as_ref().unwrap()["kubernetes.io/config.source"],
            "file"
        );
        write(&format!("echo again; {IDLE}"));
        let hash = |pod: &k8s_openapi::api::core::v1::Pod| {
            pod.metadata.annotations.as_ref().unwrap()["kubernetes.io/config.hash"].clone()
        };
        let old = hash(&first);
        cluster
            .until(&name, "replaced", |pod| {
                hash(pod) != old && condition(pod, "Ready") == "True"
            })
            .await;
        std::fs::remove_file(&manifest).unwrap();
        let gone = |pod: Option<&k8s_openapi::api::core::v1::Pod>| pod.is_none();
        let waiting = kube::runtime::wait::await_condition(cluster.pods(), &name, gone);
        tokio::time::timeout(std::time::Duration::from_secs(20), waiting)
            .await
            .expect("the mirror goes")
            .unwrap();
    });
}

fn admission() {
    on_cluster(async |cluster| {
        let mut main = shell("main", IDLE);
        main["resources"] = json!({"requests": {"cpu": "1000"}});
        cluster.pod("big", json!({"containers": [main]})).await;
        let pod = cluster.until_phase("big", "Failed").await;
        let status = pod.status.unwrap();
        assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
        assert!(status.message.unwrap().starts_with(
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000, used: 0, capacity: "
        ));
        cluster
            .pod(
                "elsewhere",
                json!({"nodeSelector": {"no": "such"}, "containers": [shell("main", IDLE)]}),
            )
            .await;
        let pod = cluster.until_phase("elsewhere", "Failed").await;
        assert_eq!(pod.status.unwrap().reason.as_deref(), Some("NodeAffinity"));
    });
}

fn missing_config() {
    on_cluster(async |cluster| {
        let mut main = shell("main", IDLE);
        main["envFrom"] = json!([{"configMapRef": {"name": "env"}}]);
        cluster.pod("env", json!({"containers": [main]})).await;
        let waiting = |pod: &k8s_openapi::api::core::v1::Pod| container(pod)["state"]["waiting"].clone();
        let pod = cluster
            .until("env", "waiting", |pod| {
                waiting(pod)["reason"] == "CreateContainerConfigError"
            })
            .await;
        assert_eq!(waiting(&pod)["message"], "configmap \"env\" not found");
        let mut main = shell("main", IDLE);
        main["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        let volume: Value = json!({"name": "v", "configMap": {"name": "volume"}});
        cluster
            .pod("volume", json!({"containers": [main], "volumes": [volume]}))
            .await;
        cluster
            .until_event(
                "volume",
                "FailedMount: MountVolume.SetUp failed for volume \"v\" : configmap \"volume\" not found",
            )
            .await;
        for name in ["env", "volume"] {
            cluster
                .create::<ConfigMap>(json!({"metadata": {"name": name}, "data": {"a": "b"}}))
                .await;
        }
        cluster.until_ready("env").await;
        cluster.until_ready("volume").await;
        let nfs = json!({"name": "v", "nfs": {"server": "nowhere.invalid", "path": "/"}});
        cluster
            .pod(
                "nfs",
                json!({"containers": [{"name": "main", "image": IMAGE}], "volumes": [nfs]}),
            )
            .await;
        cluster
            .until_event("nfs", "volumes of type nfs are not supported by this kubelet")
            .await;
    });
}

fn out_of_memory() {
    on_cluster(async |cluster| {
        let mut main = shell("main", "");
        main["command"] = json!(["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]);
        main["resources"] = json!({"limits": {"memory": "16Mi"}});
        cluster.pod("hog", json!({"containers": [main]})).await;
        let pod = cluster
            .until("hog", "started again", |pod| {
                container(pod)["restartCount"].as_i64() >= Some(1)
                    && container(pod)["lastState"]["terminated"].is_object()
            })
            .await;
        let ended = container(&pod)["lastState"]["terminated"].clone();
        assert_eq!(
            (&ended["reason"], &ended["exitCode"]),
            (&json!("OOMKilled"), &json!(137)),
            "{ended:#}"
        );
    });
}
