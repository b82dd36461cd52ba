//! A cluster of one node in one process.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, ServiceAccount};
use keelson_apiserver::user::UserInfo;
use keelson_apiserver::{
    ApiServer, ApiServerConfig, CertificateAndKey, KubeletClientConfig, ServiceAccountConfig,
};
use keelson_kubelet::{Cri, KubeletConfig, ServerConfig, Threshold};
use keelson_pki::tls::ServingCertificate;
use keelson_pki::{ClusterNames, Identity, Pki};
use keelson_runtime::images::build::{BuildConfig, LayerCompression, build_image};
use keelson_runtime::images::{ImageConfig, ImageStore, ImportSource, RunConfig};
use keelson_runtime::{Config, NetworkError, PodIps, PodNetwork, PodNetworkRequest, Runtime};
use keelson_store::embedded::{EmbeddedStore, Options};
use kube::api::{Api, ListParams, PostParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The image of all tests.
pub(crate) const IMAGE: &str = "example.test/busybox:1";
/// The node.
pub(crate) const NODE: &str = "n1";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Gives every pod an address that leads nowhere.
struct TestNetwork(AtomicU8);

#[async_trait]
impl PodNetwork for TestNetwork {
    async fn setup(&self, _request: &PodNetworkRequest) -> Result<PodIps, NetworkError> {
        let last = self.0.fetch_add(1, Ordering::Relaxed);
        Ok(PodIps(vec![IpAddr::from([10, 255, 0, last])]))
    }

    async fn teardown(&self, _request: &PodNetworkRequest) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn status(&self) -> Result<(), NetworkError> {
        Ok(())
    }
}

/// API server, runtime and kubelet.
pub(crate) struct Cluster {
    api: ApiServer,
    store: Arc<EmbeddedStore>,
    pki: Pki,
    /// The built-in runtime; none where the kubelet uses another.
    runtime: Option<Runtime>,
    pub(crate) config: KubeletConfig,
    pub(crate) client: kube::Client,
    pub(crate) dir: PathBuf,
    kubelet: Option<(CancellationToken, JoinHandle<()>)>,
    temp: tempfile::TempDir,
}

/// Runs an asynchronous test on a cluster, then takes it down and looks for leftovers.
pub(crate) fn on_cluster<F>(test: F)
where
    F: AsyncFnOnce(&mut Cluster),
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let dir = directory();
        let images = ImageStore::open(ImageConfig::new(dir.path().join("images"))).unwrap();
        let busybox = build_image_of(dir.path(), IMAGE, &["sh"]);
        images.import(ImportSource::Path(busybox)).await.unwrap();
        let network = Arc::new(TestNetwork(AtomicU8::new(1)));
        let config = Config::new(dir.path().join("root"), dir.path().join("run"), network);
        let runtime = Runtime::open(config, images).await.unwrap();
        let cri = Cri::in_process(runtime.clone(), runtime.clone());
        let mut cluster = Cluster::start(dir, cri, Some(runtime)).await;
        test(&mut cluster).await;
        cluster.stop().await;
    });
}

/// As [`on_cluster`], with a runtime that serves on a socket.
pub(crate) fn on_runtime<F>(dir: tempfile::TempDir, endpoint: &str, test: F)
where
    F: AsyncFnOnce(&mut Cluster),
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let cri = Cri::connect(endpoint).unwrap();
        let mut cluster = Cluster::start(dir, cri, None).await;
        test(&mut cluster).await;
        cluster.stop().await;
    });
}

/// A directory that containers of any user may look into.
pub(crate) fn directory() -> tempfile::TempDir {
    let temp = tempfile::Builder::new()
        .prefix("keelson-kubelet-")
        .tempdir()
        .unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    temp
}

fn pem(pki: &Pki, identity: Identity) -> CertificateAndKey {
    let leaf = pki.leaf(identity);
    CertificateAndKey {
        certificate_pem: leaf.certificate.to_pem().into_bytes(),
        key_pem: leaf.key.to_pem().into_bytes(),
    }
}

impl Cluster {
    async fn start(temp: tempfile::TempDir, cri: Cri, runtime: Option<Runtime>) -> Self {
        let dir = temp.path().to_owned();
        let pki = Pki::ensure(&dir.join("pki"), &ClusterNames::default(), jiff::Timestamp::now()).unwrap();
        let store = EmbeddedStore::open(dir.join("store"), Options::default()).unwrap();
        let ca = pki.ca.certificate().to_pem().into_bytes();
        let mut api = ApiServerConfig::new(store.clone(), pem(&pki, Identity::Apiserver), ca.clone());
        api.bind_address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        api.kubelet_client = Some(KubeletClientConfig {
            identity: pem(&pki, Identity::ApiserverKubeletClient),
            ca_pem: Some(ca),
        });
        api.service_account = ServiceAccountConfig {
            signing_key_pem: pki.service_account_key.to_pem().into_bytes(),
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            ..ServiceAccountConfig::default()
        };
        let api = ApiServer::start(api).await.unwrap();
        let url = format!("https://{}", api.local_addr());
        let kubeconfig =
            kube::config::Kubeconfig::from_yaml(&pki.kubeconfig(Identity::Admin, "test", &url)).unwrap();
        let options = kube::config::KubeConfigOptions::default();
        let client = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .unwrap();
        let client = kube::Client::try_from(client).unwrap();
        let account = json!({"metadata": {"name": "default"}});
        Api::<ServiceAccount>::namespaced(client.clone(), "default")
            .create(&PostParams::default(), &serde_json::from_value(account).unwrap())
            .await
            .unwrap();

        // What the controller manager would publish.
        let bundle = json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": pki.ca.certificate().to_pem()}});
        Api::<ConfigMap>::namespaced(client.clone(), "default")
            .create(&PostParams::default(), &serde_json::from_value(bundle).unwrap())
            .await
            .unwrap();
        let mut config = KubeletConfig::new(NODE, &dir.join("kubelet"), cri);
        config.node_ips = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
        config.cgroup_root = format!("/keelson-kubelet-test-{}", std::process::id());
        config.static_pod_path = Some(dir.join("manifests"));
        // The disk of the machine that tests run on may be fuller than a node's should be.
        config.eviction_hard.nodefs_available = Threshold::Quantity(1 << 20);
        config.eviction_hard.imagefs_available = Threshold::Quantity(1 << 20);
        let serving = pem(&pki, Identity::Apiserver);
        config.server = Some(ServerConfig {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: free_port(),
            certificate: ServingCertificate::from_pem(&serving.certificate_pem, &serving.key_pem).unwrap(),
            client_ca: vec![pki.ca.certificate().der().clone()],
        });
        let mut cluster = Self {
            api,
            store,
            pki,
            runtime,
            config,
            client,
            dir,
            kubelet: None,
            temp,
        };
        cluster.start_kubelet();
        let nodes = Api::<Node>::all(cluster.client.clone());
        let ready = |node: Option<&Node>| {
            let conditions = node
                .and_then(|node| node.status.as_ref()?.conditions.clone())
                .unwrap_or_default();
            conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        tokio::time::timeout(PATIENCE, await_condition(nodes, NODE, ready))
            .await
            .unwrap()
            .unwrap();
        cluster
    }

    /// The authority of this cluster.
    pub(crate) fn pki(&self) -> &Pki {
        &self.pki
    }

    pub(crate) fn start_kubelet(&mut self) {
        let shutdown = CancellationToken::new();
        let user = UserInfo::new(format!("system:node:{NODE}"), &["system:nodes"]);
        let client = keelson_client_of(self.api.local_service(user));
        let (config, token) = (self.config.clone(), shutdown.clone());
        let task = tokio::spawn(async move { keelson_kubelet::run(config, client, token).await.unwrap() });
        self.kubelet = Some((shutdown, task));
    }

    pub(crate) async fn stop_kubelet(&mut self) {
        let (shutdown, task) = self.kubelet.take().unwrap();
        shutdown.cancel();
        tokio::time::timeout(PATIENCE, task)
            .await
            .expect("the kubelet ends")
            .unwrap();
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Creates an object of the default namespace.
    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + serde::Serialize
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let api = Api::<K>::namespaced(self.client.clone(), "default");
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap())
            .await
            .unwrap()
    }

    /// Creates a pod that is bound to the node.
    pub(crate) async fn pod(&self, name: &str, mut spec: Value) -> Pod {
        spec["nodeName"] = json!(NODE);
        spec.as_object_mut()
            .unwrap()
            .entry("terminationGracePeriodSeconds")
            .or_insert(json!(2));
        self.create(json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}))
            .await
    }

    /// Waits for a state of a pod and returns it.
    pub(crate) async fn until(&self, name: &str, what: &str, test: impl Fn(&Pod) -> bool) -> Pod {
        let condition = |pod: Option<&Pod>| pod.is_some_and(&test);
        match tokio::time::timeout(PATIENCE, await_condition(self.pods(), name, condition)).await {
            Ok(found) => found.unwrap().unwrap(),
            Err(_) => {
                let pod = self.pods().get_opt(name).await.unwrap();
                let events = self.events(name).await;
                panic!(
                    "pod {name} is not {what}: {:#?}\nevents: {events:#?}",
                    pod.map(|pod| pod.status)
                );
            }
        }
    }

    pub(crate) async fn until_phase(&self, name: &str, phase: &str) -> Pod {
        self.until(name, phase, |pod| {
            pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase)
        })
        .await
    }

    pub(crate) async fn until_ready(&self, name: &str) -> Pod {
        self.until(name, "ready", |pod| condition(pod, "Ready") == "True")
            .await
    }

    /// Deletes a pod and waits until it is gone.
    pub(crate) async fn delete(&self, name: &str) {
        let pod = self.pods().get(name).await.unwrap();
        self.pods()
            .delete(name, &kube::api::DeleteParams::default())
            .await
            .unwrap();
        let uid = pod.metadata.uid.unwrap();
        let gone = kube::runtime::conditions::is_deleted(&uid);
        let waited = tokio::time::timeout(PATIENCE, await_condition(self.pods(), name, gone)).await;
        if waited.is_err() {
            let pod = self.pods().get_opt(name).await.unwrap();
            panic!("pod {name} is not deleted: {pod:#?}");
        }
    }

    /// `reason: message` of all events about a pod.
    pub(crate) async fn events(&self, name: &str) -> Vec<String> {
        let api = Api::<Event>::namespaced(self.client.clone(), "default");
        let params = ListParams::default().fields(&format!("involvedObject.name={name}"));
        let mut events = api.list(&params).await.unwrap().items;
        events.sort_by_key(|event| event.first_timestamp.as_ref().map(|time| time.0));
        events
            .iter()
            .map(|event| {
                format!(
                    "{}: {}",
                    event.reason.clone().unwrap(),
                    event.message.clone().unwrap()
                )
            })
            .collect()
    }

    /// Waits for an event whose text contains `part`.
    pub(crate) async fn until_event(&self, name: &str, part: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let events = self.events(name).await;
            if events.iter().any(|event| event.contains(part)) {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "no event {part:?} in {events:#?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn stop(mut self) {
        for pod in self.pods().list(&ListParams::default()).await.unwrap().items {
            let mirror = pod
                .metadata
                .annotations
                .iter()
                .flatten()
                .any(|(key, _)| key == "kubernetes.io/config.mirror");
            if !mirror {
                self.delete(&pod.metadata.name.unwrap()).await;
            }
        }
        // The object goes before the last files do.
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let left: Vec<_> = fs::read_dir(self.dir.join("kubelet/pods"))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            if left.is_empty() {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "left behind: {left:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.stop_kubelet().await;
        if let Some(runtime) = &self.runtime {
            runtime.close().await;
        }
        self.api.shutdown().await;
        self.store.close().await;
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let below: Vec<&str> = mounts
            .lines()
            .filter(|line| line.contains(self.dir.to_str().unwrap()))
            .collect();
        assert!(below.is_empty(), "mounts left behind: {below:#?}");
        remove_groups(&self.config.cgroup_root);
        drop(self.temp);
    }
}

/// Removes the test's own groups in every hierarchy.
fn remove_groups(root: &str) {
    fn remove(dir: &Path) {
        for entry in fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.file_type().unwrap().is_dir())
        {
            remove(&entry.path());
        }
        let _ = fs::remove_dir(dir);
    }
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        remove(&hierarchy.path().join(root.trim_start_matches('/')));
    }
}

fn keelson_client_of(service: keelson_apiserver::LocalService) -> kube::Client {
    keelson_client::client_from_service(service)
}

fn free_port() -> u16 {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Status of a condition of a pod; empty when there is none.
pub(crate) fn condition(pod: &Pod, kind: &str) -> String {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    conditions
        .into_iter()
        .find(|condition| condition.type_ == kind)
        .map(|condition| condition.status)
        .unwrap_or_default()
}

/// Status of the only, or first, main container, as JSON.
pub(crate) fn container(pod: &Pod) -> Value {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.clone())
        .unwrap_or_default();
    statuses
        .first()
        .map(|status| serde_json::to_value(status).unwrap())
        .unwrap_or_default()
}

/// A container that runs a shell script.
pub(crate) fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]})
}

/// A script that ends at once when it is asked to.
pub(crate) const IDLE: &str = "trap 'exit 0' TERM; sleep 1000 & wait";

/// An archive of an image with busybox that runs `cmd`.
pub(crate) fn build_image_of(dir: &Path, reference: &str, cmd: &[&str]) -> PathBuf {
    let archive = dir.join(format!("{}.tar", cmd[0]));
    let root = dir.join(format!("layer-{}", cmd[0]));
    for sub in ["bin", "etc", "tmp"] {
        fs::create_dir_all(root.join(sub)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "echo", "sleep", "id", "ls", "touch", "grep", "hostname", "env", "kill", "stat", "test",
        "rm", "mkdir", "true", "false", "nc", "date", "seq", "tr", "head", "dd",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
    let config = BuildConfig {
        reference: Some(reference.to_owned()),
        run: RunConfig {
            env: vec!["PATH=/bin".to_owned()],
            cmd: cmd.iter().map(|&word| word.to_owned()).collect(),
            ..RunConfig::default()
        },
        compression: LayerCompression::None,
        ..BuildConfig::default()
    };
    build_image(&[root], &config, &archive).unwrap();
    archive
}
