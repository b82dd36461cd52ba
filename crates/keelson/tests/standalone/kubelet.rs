//! The kubelet alone, on a CRI runtime behind a socket.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use keelson_runtime::images::build::{BuildConfig, build_image};
use keelson_runtime::images::{ImageConfig, ImageStore, ImportSource, RunConfig};
use keelson_runtime::{Config, NoNetwork, Runtime};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::Cluster;
use crate::support::in_own_network;

const IMAGE: &str = "example.test/busybox:1";

/// The built-in runtime in this process, served on a socket as containerd would be.
struct CriServer {
    threads: tokio::runtime::Runtime,
    runtime: Runtime,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl CriServer {
    fn start(directory: &Path, socket: &Path) -> Self {
        let threads = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let images = ImageStore::open(ImageConfig::new(directory.join("images"))).unwrap();
        let mut config = Config::new(directory.join("root"), directory.join("run"), Arc::new(NoNetwork));
        config.shim_command = vec![
            env!("CARGO_BIN_EXE_keelson").into(),
            "internal".into(),
            "shim".into(),
        ];
        let runtime = threads.block_on(async {
            images
                .import(ImportSource::Path(busybox(directory)))
                .await
                .unwrap();
            Runtime::open(config, images).await.unwrap()
        });
        let stop = CancellationToken::new();
        let (served, socket, token) = (runtime.clone(), socket.to_owned(), stop.clone());
        let task =
            threads.spawn(async move { keelson_runtime::serve(served, &socket, token).await.unwrap() });
        Self {
            threads,
            runtime,
            stop,
            task,
        }
    }

    fn stop(self) {
        self.stop.cancel();
        self.threads.block_on(async {
            self.runtime.close().await;
            self.task.await.unwrap();
        });
    }
}

fn busybox(directory: &Path) -> std::path::PathBuf {
    let (root, archive) = (directory.join("layer"), directory.join("busybox.tar"));
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in ["sh", "cat", "echo", "sleep"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    let run = RunConfig {
        env: vec!["PATH=/bin".into()],
        cmd: vec!["sh".into()],
        ..RunConfig::default()
    };
    let config = BuildConfig {
        reference: Some(IMAGE.into()),
        run,
        ..BuildConfig::default()
    };
    build_image(&[root], &config, &archive).unwrap();
    archive
}

/// Own mounts for this thread and what it starts: pods' logs are where upstream has them, but not on this machine.
fn own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    for arguments in [
        &["--make-rprivate", "/"][..],
        &["-t", "tmpfs", "tmpfs", "/var/log"],
    ] {
        assert!(Command::new("mount").args(arguments).status().unwrap().success());
    }
}

/// Removes the groups below `root`, which is the test's own, in every hierarchy.
fn remove_groups(root: &str) {
    fn remove(directory: &Path) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path());
            }
        }
        // It exists in some hierarchies only.
        let _ = std::fs::remove_dir(directory);
    }
    let mount = Path::new("/sys/fs/cgroup");
    remove(&mount.join(root));
    for hierarchy in std::fs::read_dir(mount).unwrap().flatten() {
        remove(&hierarchy.path().join(root));
    }
}

fn pod_spec(script: &str) -> Value {
    json!({
        "hostNetwork": true,
        "terminationGracePeriodSeconds": 2,
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "test", "effect": "NoSchedule"}],
        "containers": [{"name": "main", "image": IMAGE, "command": ["sh", "-c", script]}],
    })
}

fn apply(cluster: &Cluster, object: &Value) {
    let file = cluster.path("object.json");
    std::fs::write(&file, object.to_string()).unwrap();
    cluster.run(&["apply", "-f", file.to_str().unwrap()]);
}

/// A node made by flags, pods from the API and from a manifest, logs and exec; nothing stays behind.
pub(crate) fn runs_pods() {
    let cluster = Cluster::new();
    let cgroup = format!("keelson-cli-test-{}", std::process::id());
    in_own_network(|| {
        own_mounts();
        let apiserver = cluster.apiserver();
        let manager = cluster.controller_manager();
        let scheduler = cluster.component(
            "kube-scheduler",
            &[cluster.kubeconfig(keelson_pki::Identity::Scheduler)],
        );
        std::fs::create_dir(cluster.path("cri")).unwrap();
        let socket = cluster.path("cri.sock");
        let runtime = CriServer::start(&cluster.path("cri"), &socket);
        let manifests = cluster.path("manifests");
        std::fs::create_dir(&manifests).unwrap();
        let path = |flag: &str, name: &str| format!("--{flag}={}", cluster.path(name).display());
        let kubelet = cluster.component(
            "kubelet",
            &[
                path("kubeconfig", "node"),
                format!("--container-runtime-endpoint=unix://{}", socket.display()),
                "--hostname-override=one".into(),
                "--node-ip=127.0.0.1".into(),
                path("root-dir", "kubelet"),
                path("cert-dir", "kubelet-pki"),
                path("pod-manifest-path", "manifests"),
                cluster.file("client-ca-file", "ca.crt"),
                "--cluster-dns=10.96.0.10".into(),
                format!("--cgroup-root=/{cgroup}"),
                "--register-with-taints=dedicated=test:NoSchedule".into(),
                "--node-labels=disk=ssd,node.kubernetes.io/rack=r1".into(),
                "--max-pods=20".into(),
            ],
        );
        cluster.run(&["wait", "--for=create", "node/one", "--timeout=60s"]);
        cluster.run(&["wait", "--for=condition=Ready", "node/one", "--timeout=60s"]);
        let node = cluster.get(&["node", "one"]);
        let labels = &node["metadata"]["labels"];
        assert_eq!(
            (
                labels["disk"].as_str(),
                labels["node.kubernetes.io/rack"].as_str()
            ),
            (Some("ssd"), Some("r1"))
        );
        let taints = node["spec"]["taints"].as_array().unwrap();
        let ours = json!({"key": "dedicated", "value": "test", "effect": "NoSchedule"});
        assert!(taints.contains(&ours), "{taints:?}");
        assert_eq!(node["status"]["capacity"]["pods"], "20");

        let labels = json!({"app": "web"});
        apply(
            &cluster,
            &json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
                "spec": {
                    "replicas": 1,
                    "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": pod_spec("echo hello; trap 'exit 0' TERM; sleep 1000 & wait"),
                    },
                },
            }),
        );
        cluster.run(&[
            "wait",
            "--for=condition=Available",
            "deployment/web",
            "--timeout=60s",
        ]);
        // Through the API server to the kubelet's self-signed certificate.
        assert_eq!(cluster.run(&["logs", "deployment/web"]), "hello\n");
        assert_eq!(
            cluster.run(&["exec", "deployment/web", "--", "echo", "from", "inside"]),
            "from inside\n"
        );
        assert!(cluster.path("kubelet-pki/kubelet.crt").exists());

        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "static"},
            "spec": pod_spec("trap 'exit 0' TERM; sleep 1000 & wait"),
        });
        std::fs::write(cluster.path("static.json"), manifest.to_string()).unwrap();
        std::fs::rename(cluster.path("static.json"), manifests.join("static.json")).unwrap();
        cluster.run(&["wait", "--for=create", "pod/static-one", "--timeout=60s"]);
        cluster.run(&["wait", "--for=condition=Ready", "pod/static-one", "--timeout=60s"]);

        std::fs::remove_file(manifests.join("static.json")).unwrap();
        cluster.run(&["delete", "deployment", "web"]);
        cluster.run(&["wait", "--for=delete", "pod", "--all", "--timeout=60s"]);
        kubelet.stop(Signal::SIGTERM);
        scheduler.stop(Signal::SIGTERM);
        manager.stop(Signal::SIGTERM);
        apiserver.stop(Signal::SIGTERM);
        runtime.stop();
    });
    remove_groups(&cgroup);
}
