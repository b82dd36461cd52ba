//! A node with a runtime, and what tests ask of it again and again.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use keelson_cri::v1;
use keelson_cri::v1::runtime_service_client::RuntimeServiceClient;
use keelson_runtime::images::build::{BuildConfig, LayerCompression, build_image};
use keelson_runtime::images::{ImageConfig, ImageStore, ImportSource, RunConfig};
use keelson_runtime::{Config, NoNetwork, Runtime, serve};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};

/// The image of all tests.
pub(crate) const IMAGE: &str = "example.test/busybox:1";
/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A runtime on a socket, and its client.
pub(crate) struct Node {
    pub(crate) cri: RuntimeServiceClient<Channel>,
    pub(crate) runtime: Runtime,
    /// Group of everything that this node starts.
    pub(crate) cgroup: String,
    pub(crate) dir: PathBuf,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<()>,
    _temp: Arc<tempfile::TempDir>,
}

/// After a failed test: kills what it has started and unmounts what it has mounted.
impl Drop for Node {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let dir = self.dir.display().to_string();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let pid = entry.file_name().to_string_lossy().parse::<i32>();
            if let (Ok(pid), true) = (pid, String::from_utf8_lossy(&arguments).contains(&dir)) {
                // It may have ended since it was read.
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
        let group = keelson_runtime::cgroup::Cgroups::detect()
            .unwrap()
            .group(Path::new(&self.cgroup));
        group.kill_all();
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
            if let Some(path) = line.split(' ').nth(4).filter(|path| path.starts_with(&dir)) {
                // Best effort: the test has failed already, and a panic here would hide why.
                let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
            }
        }
        let deadline = Instant::now() + Duration::from_secs(2);
        while group.remove().is_err() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

async fn open(dir: &Path) -> Runtime {
    let images = ImageStore::open(ImageConfig::new(dir.join("images"))).unwrap();
    let mut config = Config::new(dir.join("root"), dir.join("run"), Arc::new(NoNetwork));
    config.shim_command = vec![env!("CARGO_BIN_EXE_keelson-shim").into()];
    config.seccomp_root = dir.join("seccomp");
    Runtime::open(config, images).await.unwrap()
}

impl Node {
    /// A fresh node with the test image.
    pub(crate) async fn start() -> Self {
        let temp = Arc::new(tempfile::Builder::new().prefix("keelson-cri-").tempdir().unwrap());
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let dir = temp.path().to_owned();
        let archive = build_busybox(&dir);
        let node = Self::open_in(dir, temp).await;
        node.runtime
            .images()
            .import(ImportSource::Path(archive))
            .await
            .unwrap();
        node
    }

    async fn open_in(dir: PathBuf, temp: Arc<tempfile::TempDir>) -> Self {
        let runtime = open(&dir).await;
        let socket = dir.join("cri.sock");
        let shutdown = CancellationToken::new();
        let (served, path, stop) = (runtime.clone(), socket.clone(), shutdown.clone());
        let server = tokio::spawn(async move { serve(served, &path, stop).await.unwrap() });
        let channel = loop {
            let path = socket.clone();
            let connect = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
            });
            match Endpoint::from_static("http://cri")
                .connect_with_connector(connect)
                .await
            {
                Ok(channel) => break channel,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let cgroup = format!("/keelson-cri-test-{}", std::process::id());
        Self {
            cri: RuntimeServiceClient::new(channel),
            runtime,
            cgroup,
            dir,
            shutdown,
            server,
            _temp: temp,
        }
    }

    /// Ends this runtime as a crash would, as far as shims can tell, and opens a new one.
    pub(crate) async fn restart(self) -> Self {
        let (dir, temp) = (self.dir.clone(), Arc::clone(&self._temp));
        self.close().await;
        Self::open_in(dir, temp).await
    }

    async fn close(mut self) {
        self.shutdown.cancel();
        // First: it ends the event streams, which the server waits for.
        self.runtime.close().await;
        let server = std::mem::replace(&mut self.server, tokio::spawn(async {}));
        drop(self);
        server.await.unwrap();
    }

    /// Removes every sandbox, and checks that nothing is left of them.
    pub(crate) async fn finish(mut self) {
        let request = v1::ListPodSandboxRequest::default();
        for sandbox in self
            .cri
            .list_pod_sandbox(request)
            .await
            .unwrap()
            .into_inner()
            .items
        {
            let request = v1::RemovePodSandboxRequest {
                pod_sandbox_id: sandbox.id,
            };
            self.cri.remove_pod_sandbox(request).await.unwrap();
        }
        let (dir, cgroup) = (self.dir.clone(), self.cgroup.clone());
        let temp = Arc::clone(&self._temp);
        self.close().await;
        for sub in [
            "root/sandboxes",
            "root/containers",
            "run/netns",
            "run/shm",
            "run/shims",
            "images/containers",
        ] {
            let left: Vec<_> = fs::read_dir(dir.join(sub))
                .unwrap()
                .map(|e| e.unwrap().path())
                .collect();
            assert!(left.is_empty(), "left behind: {left:?}");
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(dir.to_str().unwrap()),
            "mounts left behind:\n{mounts}"
        );
        let group = keelson_runtime::cgroup::Cgroups::detect()
            .unwrap()
            .group(Path::new(&cgroup));
        assert_eq!(group.processes(), Vec::<i32>::new());
        group.remove().unwrap();
        drop(temp);
    }

    /// A sandbox configuration for a pod of this name.
    pub(crate) fn pod(&self, name: &str) -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.dir.join("logs").join(name).display().to_string(),
            labels: HashMap::from([("app".to_owned(), name.to_owned())]),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/{name}", self.cgroup),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        pid: v1::NamespaceMode::Container as i32,
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub(crate) async fn run_pod(&mut self, config: &v1::PodSandboxConfig) -> String {
        let request = v1::RunPodSandboxRequest {
            config: Some(config.clone()),
            ..Default::default()
        };
        self.cri
            .run_pod_sandbox(request)
            .await
            .unwrap()
            .into_inner()
            .pod_sandbox_id
    }

    pub(crate) async fn create(
        &mut self,
        sandbox: &str,
        pod: &v1::PodSandboxConfig,
        config: v1::ContainerConfig,
    ) -> Result<String, tonic::Status> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(pod.clone()),
        };
        Ok(self
            .cri
            .create_container(request)
            .await?
            .into_inner()
            .container_id)
    }

    /// Creates and starts a container.
    pub(crate) async fn start_container(
        &mut self,
        sandbox: &str,
        pod: &v1::PodSandboxConfig,
        config: v1::ContainerConfig,
    ) -> String {
        let id = self.create(sandbox, pod, config).await.unwrap();
        self.cri
            .start_container(v1::StartContainerRequest {
                container_id: id.clone(),
            })
            .await
            .unwrap();
        id
    }

    /// A sandbox with one container that runs a shell script.
    pub(crate) async fn run(&mut self, name: &str, script: &str) -> (v1::PodSandboxConfig, String, String) {
        let pod = self.pod(name);
        let sandbox = self.run_pod(&pod).await;
        let container = self.start_container(&sandbox, &pod, shell("main", script)).await;
        (pod, sandbox, container)
    }

    pub(crate) async fn status(&mut self, container: &str) -> v1::ContainerStatus {
        let request = v1::ContainerStatusRequest {
            container_id: container.to_owned(),
            verbose: false,
        };
        self.cri
            .container_status(request)
            .await
            .unwrap()
            .into_inner()
            .status
            .unwrap()
    }

    /// Process id of a sandbox's shim.
    pub(crate) async fn shim_pid(&mut self, sandbox: &str) -> i32 {
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id: sandbox.to_owned(),
            verbose: true,
        };
        let response = self.cri.pod_sandbox_status(request).await.unwrap();
        let info: serde_json::Value = serde_json::from_str(&response.into_inner().info["info"]).unwrap();
        i32::try_from(info["pid"].as_i64().unwrap()).unwrap()
    }

    /// Waits for the end of a container.
    pub(crate) async fn exited(&mut self, container: &str) -> v1::ContainerStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(container).await;
            if status.state == v1::ContainerState::ContainerExited as i32 {
                return status;
            }
            assert!(Instant::now() < deadline, "container does not end: {status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Runs a script to its end and returns its log as (stream, line) pairs.
    pub(crate) async fn output(&mut self, name: &str, config: v1::ContainerConfig) -> Vec<(String, String)> {
        let pod = self.pod(name);
        let sandbox = self.run_pod(&pod).await;
        let id = self.start_container(&sandbox, &pod, config).await;
        let status = self.exited(&id).await;
        read_log(&status.log_path)
    }

    pub(crate) async fn exec(&mut self, container: &str, script: &str) -> (i32, String, String) {
        let response = self
            .cri
            .exec_sync(v1::ExecSyncRequest {
                container_id: container.to_owned(),
                cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
                timeout: 10,
            })
            .await
            .unwrap()
            .into_inner();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (response.exit_code, text(response.stdout), text(response.stderr))
    }
}

/// A container that runs a shell script and logs to `<name>.log`.
pub(crate) fn shell(name: &str, script: &str) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: IMAGE.to_owned(),
            ..Default::default()
        }),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: format!("{name}.log"),
        linux: Some(v1::LinuxContainerConfig {
            resources: None,
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(v1::NamespaceOption {
                    pid: v1::NamespaceMode::Container as i32,
                    ..Default::default()
                }),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// Changes the security context of a container.
pub(crate) fn secure(
    mut config: v1::ContainerConfig,
    change: impl FnOnce(&mut v1::LinuxContainerSecurityContext),
) -> v1::ContainerConfig {
    change(config.linux.as_mut().unwrap().security_context.as_mut().unwrap());
    config
}

/// The entries of a CRI log, all of them whole lines: stream and line.
pub(crate) fn read_log(path: &str) -> Vec<(String, String)> {
    let entries = read_tagged_log(path).into_iter().map(|(stream, tag, line)| {
        assert_eq!(tag, "F", "{line}");
        (stream, line)
    });
    entries.collect()
}

/// The entries of a CRI log: stream, `F` for a whole line or `P` for a part of one, and line.
pub(crate) fn read_tagged_log(path: &str) -> Vec<(String, String, String)> {
    let text = fs::read_to_string(path).unwrap();
    let entries = text.lines().map(|line| {
        let mut fields = line.splitn(4, ' ').skip(1).map(str::to_owned);
        let (stream, tag) = (fields.next().unwrap(), fields.next().unwrap());
        (stream, tag, fields.next().unwrap_or_default())
    });
    entries.collect()
}

/// Packs busybox with a user and a group into an image archive.
fn build_busybox(dir: &Path) -> PathBuf {
    let root = dir.join("layer");
    for sub in ["bin", "etc", "tmp", "data", "home/web"] {
        fs::create_dir_all(root.join(sub)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "echo", "sleep", "id", "ls", "touch", "mkdir", "grep", "head", "tail", "dd", "hostname",
        "ps", "mount", "env", "pwd", "kill", "stat", "nc", "true", "false", "tty", "stty", "unshare",
        "chroot", "test", "mknod", "readlink", "date", "seq", "ifconfig",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("bin/not-executable"), "x").unwrap();
    fs::write(root.join("bin/not-a-program"), "\0\0\0\0nothing the kernel knows").unwrap();
    fs::set_permissions(root.join("bin/not-a-program"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n",
    )
    .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nwww:x:34:\nextra:x:50:web\n").unwrap();
    let archive = dir.join("busybox.tar");
    let config = BuildConfig {
        reference: Some(IMAGE.to_owned()),
        run: RunConfig {
            env: vec!["PATH=/bin".to_owned(), "FROM_IMAGE=yes".to_owned()],
            cmd: vec![
                "sh".to_owned(),
                "-c".to_owned(),
                "echo default command".to_owned(),
            ],
            ..RunConfig::default()
        },
        compression: LayerCompression::None,
        ..BuildConfig::default()
    };
    build_image(&[root], &config, &archive).unwrap();
    archive
}
