//! A server with a scheduler, and what tests do with them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Node, Pod, ServiceAccount};
use keelson_apiserver::{ApiServer, ApiServerConfig, CertificateAndKey, ServiceAccountConfig, UserInfo};
use keelson_client::client_from_service;
use keelson_pki::{ClusterNames, Identity, Pki};
use keelson_scheduler::Config;
use keelson_store::embedded::{EmbeddedStore, Options};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server and scheduler.
pub struct Cluster {
    server: ApiServer,
    store: Arc<EmbeddedStore>,
    pub client: kube::Client,
    scheduler: JoinHandle<()>,
    shutdown: CancellationToken,
    _directory: TempDir,
}

impl Cluster {
    pub async fn start(config: Config) -> Self {
        let directory = TempDir::new().unwrap();
        let pki = Pki::ensure(&directory.path().join("pki"), &ClusterNames::default(), jiff::Timestamp::now()).unwrap();
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
        // The scheduler has its own identity and no more rights than upstream gives it.
        let own = client_from_service(server.local_service(UserInfo::new("system:kube-scheduler", &[])));
        let shutdown = CancellationToken::new();
        let scheduler = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { keelson_scheduler::run(config, own, shutdown).await.unwrap() }
        });
        let cluster = Self { server, store, client, scheduler, shutdown, _directory: directory };
        let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        cluster.api::<ServiceAccount>().create(&PostParams::default(), &account).await.unwrap();
        cluster
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.scheduler).await.expect("the scheduler ends").unwrap();
        self.server.shutdown().await;
        self.store.close().await;
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub async fn create<K>(&self, object: Value) -> K
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

    pub async fn node(&self, name: &str, allocatable: Value) {
        self.node_with(name, json!({"kubernetes.io/hostname": name}), allocatable).await;
    }

    pub async fn node_with(&self, name: &str, labels: Value, allocatable: Value) {
        let nodes = Api::<Node>::all(self.client.clone());
        let node = json!({
            "metadata": {"name": name, "labels": labels},
            "status": {"allocatable": allocatable, "capacity": allocatable,
                "conditions": [{"type": "Ready", "status": "True"}]},
        });
        let node: Node = serde_json::from_value(node).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
    }

    pub async fn taint(&self, node: &str, key: &str, value: &str) {
        let patch = json!({"spec": {"taints": [{"key": key, "value": value, "effect": "NoSchedule"}]}});
        let nodes = Api::<Node>::all(self.client.clone());
        nodes.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Creates a pod; one container is added if there is none.
    pub async fn pod(&self, mut pod: Value) {
        if pod["spec"]["containers"].is_null() {
            pod["spec"]["containers"] = json!([{"name": "c", "image": "i"}]);
        }
        self.create::<Pod>(pod).await;
    }

    /// `count` pods named `prefix-N` with these requests.
    pub async fn pods(&self, prefix: &str, count: usize, requests: Value) {
        let create = |at: usize| {
            self.pod(json!({
                "metadata": {"name": format!("{prefix}-{at}"), "labels": {"app": prefix}},
                "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}]},
            }))
        };
        futures::future::join_all((0..count).map(create)).await;
    }

    pub async fn delete_pod(&self, name: &str) {
        let now = DeleteParams::default().grace_period(0);
        self.api::<Pod>().delete(name, &now).await.unwrap();
    }

    async fn list(&self) -> Vec<Pod> {
        self.api::<Pod>().list(&ListParams::default()).await.unwrap().items
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
    pub async fn all_scheduled(&self, count: usize) -> Vec<Pod> {
        let bound = |pods: &[Pod]| {
            let bound: Vec<_> = pods.iter().filter(|pod| !node_of(pod).is_empty()).cloned().collect();
            (bound.len() >= count).then_some(bound)
        };
        self.until(&format!("{count} pods scheduled"), bound).await
    }

    pub async fn scheduled(&self, name: &str) {
        let has_node = |pod: &&Pod| pod.metadata.name.as_deref() == Some(name) && !node_of(pod).is_empty();
        self.until(&format!("{name} scheduled"), |pods| pods.iter().find(has_node).map(|_| ())).await;
    }

    pub async fn node_of(&self, name: &str) -> String {
        node_of(&self.api::<Pod>().get(name).await.unwrap())
    }

    /// The pods that are known to be unschedulable; waits until every pod is bound or that.
    pub async fn waiting(&self) -> Vec<String> {
        let settled = |pods: &[Pod]| {
            let waiting: Vec<_> = pods.iter().filter(|pod| node_of(pod).is_empty()).collect();
            let told = waiting.iter().all(|pod| condition(pod).is_some());
            told.then(|| waiting.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect())
        };
        self.until("every pod is bound or refused", settled).await
    }

    /// Waits for the condition; its message.
    pub async fn unschedulable(&self, name: &str) -> String {
        let find = |pods: &[Pod]| {
            let pod = pods.iter().find(|pod| pod.metadata.name.as_deref() == Some(name))?;
            condition(pod).map(|(_, message)| message)
        };
        self.until(&format!("{name} unschedulable"), find).await
    }

    pub async fn unschedulable_with(&self, name: &str, message: &str) {
        let find = |pods: &[Pod]| {
            let pod = pods.iter().find(|pod| pod.metadata.name.as_deref() == Some(name))?;
            (condition(pod)? == ("Unschedulable".to_owned(), message.to_owned())).then_some(())
        };
        self.until(&format!("{name} unschedulable with {message}"), find).await;
    }

    /// Waits for an event about a pod.
    pub async fn event(&self, pod: &str, reason: &str) -> Event {
        self.find_event(pod, |event| event.reason.as_deref() == Some(reason)).await
    }

    pub async fn event_with(&self, pod: &str, message: &str) -> Event {
        self.find_event(pod, |event| event.message.as_deref() == Some(message)).await
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
        tokio::time::timeout(PATIENCE, find).await.unwrap_or_else(|_| panic!("an event about {pod}"))
    }
}

pub fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

/// Reason and message of PodScheduled=False.
fn condition(pod: &Pod) -> Option<(String, String)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    Some((condition.reason.clone().unwrap_or_default(), condition.message.clone().unwrap_or_default()))
}

fn describe(pods: &[Pod]) -> String {
    let line = |pod: &Pod| {
        let name = pod.metadata.name.clone().unwrap_or_default();
        format!("{name} on {:?} {:?}", node_of(pod), condition(pod))
    };
    pods.iter().map(line).collect::<Vec<_>>().join("; ")
}
