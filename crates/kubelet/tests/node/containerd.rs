//! The kubelet on Debian's containerd instead of the built-in runtime, all in namespaces of their own: whatever goes wrong, the
//! kernel ends everything with them.

use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::json;

use super::Test;
use super::fixture::{IDLE, IMAGE, build_image_of, container, directory, on_runtime, shell};

const NAME: &str = "a_pod_runs_on_containerd";
pub(crate) const TESTS: &[Test] = &[(NAME, outer)];

/// Set for the process in the namespaces.
const INSIDE: &str = "KEELSON_TEST_INSIDE";
/// What containerd makes sandboxes of.
const PAUSE: &str = "example.test/pause:1";

fn outer() {
    if std::env::var_os(INSIDE).is_some() {
        return inner();
    }
    if Command::new("containerd").arg("--version").output().is_err() {
        println!("skipped: containerd is not installed");
        return;
    }
    let status = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .args([
            "sh",
            "-ec",
            "ip link set lo up; mount -t tmpfs tmpfs /run; exec \"$0\" \"$@\"",
        ])
        .arg(std::env::current_exe().unwrap())
        .args([NAME, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

fn config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
  address = "{dir}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{dir}/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"#
    )
}

fn network(dir: &Path) -> String {
    json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{
        "type": "bridge", "bridge": "cni0", "isGateway": true,
        "ipam": {"type": "host-local", "dataDir": dir.join("ipam"), "ranges": [[{"subnet": "10.22.0.0/24"}]],
                 "routes": [{"dst": "0.0.0.0/0"}]},
    }]})
    .to_string()
}

fn ctr(dir: &Path, args: &[&str]) -> bool {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(dir.join("containerd.sock"));
    command.args(["--namespace", "k8s.io"]).args(args);
    command.output().unwrap().status.success()
}

fn start(dir: &Path) -> Child {
    std::fs::create_dir_all(dir.join("net.d")).unwrap();
    std::fs::write(dir.join("net.d/10-net.conflist"), network(dir)).unwrap();
    std::fs::write(dir.join("config.toml"), config(dir)).unwrap();
    let log = std::fs::File::create(dir.join("containerd.log")).unwrap();
    // It says so here when it serves.
    let notify = dir.join("notify.sock");
    let ready = UnixDatagram::bind(&notify).unwrap();
    ready.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let child = Command::new("containerd")
        .arg("--config")
        .arg(dir.join("config.toml"))
        .env("NOTIFY_SOCKET", &notify)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .process_group(0)
        .spawn()
        .unwrap();
    let mut message = [0; 64];
    let length = ready.recv(&mut message).unwrap_or_default();
    assert!(
        message[..length].starts_with(b"READY=1"),
        "containerd does not answer: {}",
        std::fs::read_to_string(dir.join("containerd.log")).unwrap()
    );
    child
}

fn inner() {
    let dir = directory();
    let base = dir.path().join("containerd");
    std::fs::create_dir(&base).unwrap();
    let mut containerd = start(&base);
    for (reference, cmd) in [(IMAGE, &["sh"][..]), (PAUSE, &["sleep", "1000000"])] {
        let archive = build_image_of(dir.path(), reference, cmd);
        assert!(ctr(&base, &["images", "import", archive.to_str().unwrap()]));
    }
    let endpoint = format!("unix://{}/containerd.sock", base.display());
    on_runtime(dir, &endpoint, async |cluster| {
        let mut main = shell("main", &format!("echo hello; echo $(cat /scratch/f); {IDLE}"));
        main["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/scratch"}]);
        main["readinessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
        main["resources"] = json!({"limits": {"cpu": "100m", "memory": "64Mi"}});
        let mut init = shell("init", "echo from init > /scratch/f");
        init["volumeMounts"] = main["volumeMounts"].clone();
        let spec = json!({
            "initContainers": [init], "containers": [main],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        });
        cluster.pod("web", spec).await;
        let pod = cluster.until_ready("web").await;
        let id = container(&pod)["containerID"].as_str().unwrap().to_owned();
        assert!(id.starts_with("containerd://"), "{id}");
        let ip = pod.status.unwrap().pod_ip.unwrap();
        assert!(ip.starts_with("10.22.0."), "{ip}");
        let text = cluster.pods().logs("web", &Default::default()).await.unwrap();
        assert_eq!(text, "hello\nfrom init\n");
        // A container that ends is started again.
        cluster
            .pod("twice", json!({"containers": [shell("main", "exit 3")]}))
            .await;
        cluster
            .until("twice", "started again", |pod| {
                container(pod)["restartCount"].as_i64() >= Some(1)
                    && container(pod)["lastState"]["terminated"]["exitCode"] == 3
            })
            .await;
    });
    containerd.kill().unwrap();
    containerd.wait().unwrap();
}
