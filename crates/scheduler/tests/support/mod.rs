//! A server with a scheduler, and what tests do with them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use http::Request;
use k8s_openapi::api::core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::StorageClass;
use keelson_apiserver::user::UserInfo;
use keelson_apiserver::{ApiServer, ApiServerConfig, CertificateAndKey, ServiceAccountConfig};
use keelson_client::client_from_service;
use keelson_pki::{ClusterNames, Identity, Pki};
use keelson_scheduler::Config;
use keelson_store::embedded::{EmbeddedStore, Options};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server and scheduler.
pub(crate) struct Cluster {
    server: ApiServer,
    store: Arc<EmbeddedStore>,
    pub(crate) client: kube::Client,
    scheduler: tokio::sync::Mutex<Option<Scheduler>>,
    _directory: TempDir,
}

/// A running scheduler.
pub(crate) struct Scheduler {
    task: JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Scheduler {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("the scheduler ends")
            .unwrap();
    }
}

impl Cluster {
    pub(crate) async fn start(config: Config) -> Self {
        Self::start_with_failures(config, 0).await
    }

    /// The first `failures` bindings do not reach the server.
    pub(crate) async fn start_with_failures(config: Config, failures: usize) -> Self {
        let directory = TempDir::new().unwrap();
        let pki = Pki::ensure(
            &directory.path().join("pki"),
            &ClusterNames::default(),
            jiff::Timestamp::now(),
        )
        .unwrap();
        let store = EmbeddedStore::open(directory.path().join("store"), Options::default()).unwrap();
        let leaf = pki.leaf(Identity::Apiserver);
        let serving = CertificateAndKey {
            certificate_pem: leaf.certificate.to_pem().into_bytes(),
            key_pem: leaf.key.to_pem().into_bytes(),
        };
        let ca = pki.ca.certificate().to_pem().into_bytes();
        let mut server_config = ApiServerConfig::new(store.clone(), serving, ca);
        server_config.bind_address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        server_config.service_account = ServiceAccountConfig {
            signing_key_pem: pki.service_account_key.to_pem().into_bytes(),
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            ..ServiceAccountConfig::default()
        };
        let server = ApiServer::start(server_config).await.unwrap();
        let client = client_from_service(server.local_service(UserInfo::new("admin", &["system:masters"])));
        let cluster = Self {
            server,
            store,
            client,
            scheduler: tokio::sync::Mutex::default(),
            _directory: directory,
        };
        *cluster.scheduler.lock().await = Some(cluster.unreliable(config, failures));
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        cluster
            .api::<ServiceAccount>()
            .create(&PostParams::default(), &account)
            .await
            .unwrap();
        cluster
    }

    /// One more scheduler. It has its own identity and no more rights than upstream gives it.
    pub(crate) fn another(&self, config: Config) -> Scheduler {
        self.unreliable(config, 0)
    }

    fn unreliable(&self, config: Config, failures: usize) -> Scheduler {
        let server = self
            .server
            .local_service(UserInfo::new("system:kube-scheduler", &[]));
        let left = Arc::new(AtomicUsize::new(failures));
        let client = client_from_service(tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            let binds = request.uri().path().ends_with("/binding");
            let fails = binds
                && left
                    .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
                    .is_ok();
            async move {
                if fails {
                    return Err(tower::BoxError::from("the network is down"));
                }
                server.oneshot(request).await.map_err(tower::BoxError::from)
            }
        }));
        let shutdown = CancellationToken::new();
        let until = shutdown.clone();
        let task = tokio::spawn(async move { keelson_scheduler::run(config, client, until).await.unwrap() });
        Scheduler { task, shutdown }
    }

    /// Stops the first scheduler.
    pub(crate) async fn stop_scheduler(&self) {
        if let Some(scheduler) = self.scheduler.lock().await.take() {
            scheduler.stop().await;
        }
    }

    pub(crate) async fn stop(self) {
        self.stop_scheduler().await;
        self.server.shutdown().await;
        self.store.close().await;
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + serde::Serialize
            + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api().create(&PostParams::default(), &object).await.unwrap()
    }

    pub(crate) async fn node(&self, name: &str, allocatable: Value) {
        self.node_with(name, json!({"kubernetes.io/hostname": name}), allocatable)
            .await;
    }

    pub(crate) async fn node_with(&self, name: &str, labels: Value, allocatable: Value) {
        let nodes = Api::<Node>::all(self.client.clone());
        let node = json!({
            "metadata": {"name": name, "labels": labels},
            "status": {"allocatable": allocatable, "capacity": allocatable,
                "conditions": [{"type": "Ready", "status": "True"}]},
        });
        let node: Node = serde_json::from_value(node).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
        // A new node is tainted as not ready until the node controller has seen it.
        let ready = Patch::Merge(json!({"spec": {"taints": null}}));
        nodes.patch(name, &PatchParams::default(), &ready).await.unwrap();
    }

    pub(crate) async fn taint(&self, node: &str, key: &str, value: &str) {
        let patch = json!({"spec": {"taints": [{"key": key, "value": value, "effect": "NoSchedule"}]}});
        let nodes = Api::<Node>::all(self.client.clone());
        nodes
            .patch(node, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    /// Creates a pod; one container is added if there is none.
    pub(crate) async fn pod(&self, mut pod: Value) {
        if pod["spec"]["containers"].is_null() {
            pod["spec"]["containers"] = json!([{"name": "c", "image": "i"}]);
        }
        self.create::<Pod>(pod).await;
    }

    /// `count` pods named `prefix-N` with these requests.
    pub(crate) async fn pods(&self, prefix: &str, count: usize, requests: Value) {
        let create = |at: usize| {
            self.pod(json!({
                "metadata": {"name": format!("{prefix}-{at}"), "labels": {"app": prefix}},
                "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}]},
            }))
        };
        futures::future::join_all((0..count).map(create)).await;
    }

    pub(crate) async fn delete_pod(&self, name: &str) {
        let now = DeleteParams::default().grace_period(0);
        self.api::<Pod>().delete(name, &now).await.unwrap();
    }

    pub(crate) async fn patch_pod(&self, name: &str, patch: Value) {
        self.api::<Pod>()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    async fn create_global<K>(&self, object: Value)
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
            + Clone
            + DeserializeOwned
            + serde::Serialize
            + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        Api::<K>::all(self.client.clone())
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
    }

    pub(crate) async fn priority_class(&self, name: &str, value: i32) {
        self.create_global::<PriorityClass>(json!({"metadata": {"name": name}, "value": value}))
            .await;
    }

    pub(crate) async fn storage_class(&self, name: &str, mode: &str) {
        let provisioner = "kubernetes.io/no-provisioner";
        let class =
            json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
        self.create_global::<StorageClass>(class).await;
    }

    pub(crate) async fn local_volume(&self, name: &str, class: &str, node: &str) {
        let terms = json!([{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]);
        let volume = json!({"metadata": {"name": name}, "spec": {
            "storageClassName": class, "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"],
            "local": {"path": "/data"}, "nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}});
        self.create_global::<PersistentVolume>(volume).await;
        let available = Patch::Merge(json!({"status": {"phase": "Available"}}));
        let volumes = Api::<PersistentVolume>::all(self.client.clone());
        volumes
            .patch_status(name, &PatchParams::default(), &available)
            .await
            .unwrap();
    }

    /// Waits until the volume is given to the claim, then makes the claim bound.
    pub(crate) async fn complete_binding(&self, volume: &str, claim: &str) {
        let given =
            |volume: &PersistentVolume| volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some());
        let config = watcher::Config::default().fields(&format!("metadata.name={volume}"));
        let api = Api::<PersistentVolume>::all(self.client.clone());
        let mut changes = Box::pin(watcher(api, config).touched_objects());
        let wait = async { while !given(&futures::StreamExt::next(&mut changes).await.unwrap().unwrap()) {} };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("the volume is given to the claim");
        let bound = json!({
            "metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
            "spec": {"volumeName": volume},
        });
        let claims = self.api::<PersistentVolumeClaim>();
        claims
            .patch(claim, &PatchParams::default(), &Patch::Merge(bound))
            .await
            .unwrap();
    }

    pub(crate) async fn names(&self) -> Vec<String> {
        self.list()
            .await
            .into_iter()
            .map(|pod| pod.metadata.name.unwrap())
            .collect()
    }

    pub(crate) async fn uid_of(&self, name: &str) -> String {
        self.api::<Pod>().get(name).await.unwrap().metadata.uid.unwrap()
    }

    /// Waits until the pod has a node, and ends terminating pods meanwhile, as a kubelet does.
    pub(crate) async fn scheduled_while_deleting(&self, name: &str) {
        let config = watcher::Config::default();
        let mut changes = Box::pin(watcher(self.api::<Pod>(), config).touched_objects());
        let wait = async {
            loop {
                let pod = futures::StreamExt::next(&mut changes).await.unwrap().unwrap();
                let its_name = pod.metadata.name.clone().unwrap();
                if its_name == name && !node_of(&pod).is_empty() {
                    return;
                }
                if pod.metadata.deletion_timestamp.is_some() {
                    let now = DeleteParams::default().grace_period(0);
                    // It may be gone already: the watch also tells of that.
                    drop(self.api::<Pod>().delete(&its_name, &now).await);
                }
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("{name} scheduled: {}", describe(&self.list().await));
        }
    }

    async fn list(&self) -> Vec<Pod> {
        self.api::<Pod>()
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
    }

    /// Watches pods until `done` is content with all of them.
    async fn until<T>(&self, what: &str, mut done: impl FnMut(&[Pod]) -> Option<T>) -> T {
        let config = watcher::Config::default();
        let mut changes = Box::pin(watcher(self.api::<Pod>(), config).touched_objects());
        let wait = async {
            loop {
                let pods = self.list().await;
                if let Some(result) = done(&pods) {
                    return result;
                }
                futures::StreamExt::next(&mut changes).await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(result) => result,
            Err(_) => panic!("{what}: {}", describe(&self.list().await)),
        }
    }

    /// Waits until this many pods have a node; those.
    pub(crate) async fn all_scheduled(&self, count: usize) -> Vec<Pod> {
        let bound = |pods: &[Pod]| {
            let bound: Vec<_> = pods
                .iter()
                .filter(|pod| !node_of(pod).is_empty())
                .cloned()
                .collect();
            (bound.len() >= count).then_some(bound)
        };
        self.until(&format!("{count} pods scheduled"), bound).await
    }

    pub(crate) async fn scheduled(&self, name: &str) {
        let has_node = |pod: &&Pod| pod.metadata.name.as_deref() == Some(name) && !node_of(pod).is_empty();
        self.until(&format!("{name} scheduled"), |pods| {
            pods.iter().find(has_node).map(|_| ())
        })
        .await;
    }

    pub(crate) async fn node_of(&self, name: &str) -> String {
        node_of(&self.api::<Pod>().get(name).await.unwrap())
    }

    /// The pods that are known to be unschedulable; waits until every pod is bound or that.
    pub(crate) async fn waiting(&self) -> Vec<String> {
        let settled = |pods: &[Pod]| {
            let waiting: Vec<_> = pods.iter().filter(|pod| node_of(pod).is_empty()).collect();
            let told = waiting.iter().all(|pod| condition(pod).is_some());
            told.then(|| {
                waiting
                    .iter()
                    .map(|pod| pod.metadata.name.clone().unwrap())
                    .collect()
            })
        };
        self.until("every pod is bound or refused", settled).await
    }

    /// Waits for the condition; its message.
    pub(crate) async fn unschedulable(&self, name: &str) -> String {
        let find = |pods: &[Pod]| {
            let pod = pods
                .iter()
                .find(|pod| pod.metadata.name.as_deref() == Some(name))?;
            condition(pod).map(|(_, message)| message)
        };
        self.until(&format!("{name} unschedulable"), find).await
    }

    pub(crate) async fn unschedulable_with(&self, name: &str, message: &str) {
        let find = |pods: &[Pod]| {
            let pod = pods
                .iter()
                .find(|pod| pod.metadata.name.as_deref() == Some(name))?;
            (condition(pod)? == ("Unschedulable".to_owned(), message.to_owned())).then_some(())
        };
        self.until(&format!("{name} unschedulable with {message}"), find)
            .await;
    }

    /// Waits for an event about a pod.
    pub(crate) async fn event(&self, pod: &str, reason: &str) -> Event {
        self.find_event(pod, |event| event.reason.as_deref() == Some(reason))
            .await
    }

    pub(crate) async fn event_with(&self, pod: &str, message: &str) -> Event {
        self.find_event(pod, |event| event.message.as_deref() == Some(message))
            .await
    }

    pub(crate) async fn event_starting(&self, pod: &str, prefix: &str) -> Event {
        self.find_event(pod, |event| {
            event
                .message
                .as_deref()
                .is_some_and(|message| message.starts_with(prefix))
        })
        .await
    }

    /// The names of pods as they get their nodes, seen through a watch.
    pub(crate) fn bound_pods(&self) -> tokio::sync::mpsc::Receiver<String> {
        let (sender, receiver) = tokio::sync::mpsc::channel(1000);
        let mut changes = Box::pin(watcher(self.api::<Pod>(), watcher::Config::default()).applied_objects());
        tokio::spawn(async move {
            let mut known = std::collections::HashSet::new();
            while let Some(Ok(pod)) = futures::StreamExt::next(&mut changes).await {
                let name = pod.metadata.name.clone().unwrap();
                // The receiver's end is the end of the test.
                if !node_of(&pod).is_empty() && known.insert(name.clone()) && sender.send(name).await.is_err()
                {
                    return;
                }
            }
        });
        receiver
    }

    async fn find_event(&self, pod: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let config = watcher::Config::default().fields(&format!("involvedObject.name={pod}"));
        let mut events = Box::pin(watcher(self.api::<Event>(), config).touched_objects());
        let find = async {
            loop {
                let event = futures::StreamExt::next(&mut events).await.unwrap().unwrap();
                if wanted(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(PATIENCE, find)
            .await
            .unwrap_or_else(|_| panic!("an event about {pod}"))
    }
}

pub(crate) fn node_of(pod: &Pod) -> String {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.clone())
        .unwrap_or_default()
}

/// Reason and message of PodScheduled=False.
fn condition(pod: &Pod) -> Option<(String, String)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions
        .iter()
        .find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    Some((
        condition.reason.clone().unwrap_or_default(),
        condition.message.clone().unwrap_or_default(),
    ))
}

fn describe(pods: &[Pod]) -> String {
    let line = |pod: &Pod| {
        let name = pod.metadata.name.clone().unwrap_or_default();
        format!("{name} on {:?} {:?}", node_of(pod), condition(pod))
    };
    pods.iter().map(line).collect::<Vec<_>>().join("; ")
}
