//! How long a sandbox and its container take through CRI, beside Debian's containerd with runc.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::FutureExt;
use keelson_cri::v1;
use keelson_cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::{Cluster, run};
use crate::context::{Context, Measurement};
use crate::figure::{Figure, Unit, percentile};
use crate::peer::Peer;

/// See [`crate::MEASUREMENTS`].
pub(crate) const MEASUREMENTS: &[Measurement] = &[Measurement {
    name: "containers",
    doc: "through CRI, one by one, image present: RunPodSandbox with a network, CreateContainer, StartContainer; the built-in runtime, and containerd with runc and the bridge plugin",
    run: |context| containers(context).boxed(),
}];

/// Both images are made of busybox; the second is what containerd keeps a sandbox's namespaces with.
const IMAGES: [&str; 2] = ["busybox:1", "pause:1"];

async fn containers(context: &Context) -> Result<Vec<Figure>> {
    let cluster = Cluster::start(context, 1).await?;
    cluster.import(context, IMAGES[0])?;
    let ours = measure(context, "/run/keelson/cri.sock")
        .await
        .context("the built-in runtime")?;
    cluster.stop()?;
    let figure = Figure::new(
        "sandbox and container started through CRI, p50",
        Unit::Seconds,
        percentile(&ours, 0.5),
    );
    let theirs = containerd(context).await?;
    remove_cgroup()?;
    Ok(vec![match theirs {
        Some(theirs) => figure
            .peer("containerd and runc", percentile(&theirs, 0.5))
            .note(format!("{} each", ours.len())),
        None => figure.note("containerd is not installed"),
    }])
}

/// One after the other; each is removed before the next.
async fn measure(context: &Context, socket: &str) -> Result<Vec<Duration>> {
    let channel = Endpoint::from_shared(format!("unix://{socket}"))?
        .connect()
        .await?;
    let mut runtime = RuntimeServiceClient::new(channel);
    let mut times = Vec::new();
    for number in 0..context.rounds(40, 2) {
        let pod = pod(&format!("bench-{number}"), &context.scratch);
        let started = Instant::now();
        let sandbox = start(&mut runtime, pod).await?;
        times.push(started.elapsed());
        let pod_sandbox_id = sandbox.clone();
        runtime
            .stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id })
            .await?;
        let pod_sandbox_id = sandbox;
        runtime
            .remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id })
            .await?;
    }
    Ok(times)
}

/// The sandbox's id.
async fn start(runtime: &mut RuntimeServiceClient<Channel>, pod: v1::PodSandboxConfig) -> Result<String> {
    let request = v1::RunPodSandboxRequest {
        config: Some(pod.clone()),
        ..Default::default()
    };
    let sandbox = runtime
        .run_pod_sandbox(request)
        .await?
        .into_inner()
        .pod_sandbox_id;
    let container = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: "main".into(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: keelson_testkit::images::reference(IMAGES[0]),
            ..Default::default()
        }),
        command: vec!["/bin/sleep".into(), "1000000".into()],
        log_path: "main.log".into(),
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(container),
        sandbox_config: Some(pod),
    };
    let container_id = runtime.create_container(request).await?.into_inner().container_id;
    runtime
        .start_container(v1::StartContainerRequest { container_id })
        .await?;
    Ok(sandbox)
}

fn pod(name: &str, scratch: &Path) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: scratch.join("pod-logs").join(name).display().to_string(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: format!("/{}", cgroup()),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The control group that all pods of this measurement are in.
fn cgroup() -> String {
    format!("keelson-bench-{}", std::process::id())
}

/// Removes it from every hierarchy; the runtimes have removed what was in it.
fn remove_cgroup() -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root)?.map(|entry| entry.map(|entry| entry.path()));
    for hierarchy in hierarchies.chain([Ok(root.to_owned())]) {
        let group = hierarchy?.join(cgroup());
        if group.is_dir() {
            std::fs::remove_dir(&group).with_context(|| format!("cannot remove {}", group.display()))?;
        }
    }
    Ok(())
}

/// As the kubelet asks for a pod that shares no processes between containers.
fn namespaces() -> v1::NamespaceOption {
    v1::NamespaceOption {
        pid: v1::NamespaceMode::Container as i32,
        ..Default::default()
    }
}

/// The same with containerd; `None` when it is not installed.
async fn containerd(context: &Context) -> Result<Option<Vec<Duration>>> {
    const STATE: &str = "/run/bench-containerd";
    let root = context.scratch.join("containerd");
    std::fs::create_dir_all(root.join("cni"))?;
    let (config, socket) = (root.join("config.toml"), format!("{STATE}/containerd.sock"));
    std::fs::write(&config, configuration(&root, STATE, &socket))?;
    std::fs::write(root.join("cni/10-bridge.conflist"), CNI)?;
    let log = context.scratch.join("containerd.log");
    let mut command = Command::new("containerd");
    command.arg("--config").arg(&config);
    let Some(mut peer) = Peer::start(&mut command, &log)? else {
        return Ok(None);
    };
    let endpoint = Endpoint::from_shared(format!("unix://{socket}"))?;
    peer.answers(|| endpoint.connect()).await?;
    for image in IMAGES {
        let archive = keelson_testkit::images::archive(&context.images, image);
        let ctr = ["--address", &socket, "--namespace", "k8s.io", "images", "import"];
        run(Command::new("ctr").args(ctr).arg(archive))?;
    }
    let times = measure(context, &socket).await.context("containerd");
    drop(peer);
    // It mounts some of its own directories.
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    for mount in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        if mount.starts_with(STATE) || Path::new(mount).starts_with(&root) {
            run(Command::new("umount").args(["--lazy", mount]))?;
        }
    }
    times.map(Some)
}

const CNI: &str = r#"{"cniVersion": "0.4.0", "name": "bench", "plugins": [
{"type": "bridge", "bridge": "bench0", "isGateway": true,
 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.245.0.0/24"}]]}}]}"#;

fn configuration(root: &Path, state: &str, socket: &str) -> String {
    let root = root.display();
    let pause = keelson_testkit::images::reference(IMAGES[1]);
    format!(
        r#"version = 2
root = "{root}/root"
state = "{state}"
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{root}/cni"
"#
    )
}
