//! A real API server in this process, the controller manager with its real identities, and a hollow kubelet that says
//! of pods what their label `hollow` asks for: `run` (the default), `succeed`, `fail` or `stuck`.

use std::collections::HashMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod, ServiceAccount};
use keelson_apiserver::user::UserInfo;
use keelson_apiserver::{ApiServer, ApiServerConfig, CertificateAndKey, ServiceAccountConfig};
use keelson_client::{Change, Informer, InformerOptions, client_from_service};
use keelson_controller_manager::{CONTROLLERS, Config, LeaderElection, run};
use keelson_pki::{ClusterNames, Identity, Pki};
use keelson_store::embedded::{EmbeddedStore, Options};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{Condition as Awaited, await_condition};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// The cluster under test.
pub(crate) struct Cluster {
    server: ApiServer,
    store: Arc<EmbeddedStore>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
    manager: CancellationToken,
    pub(crate) client: Client,
    tune: fn(&mut Config),
    /// Signs tokens: the API server's key, and so the controllers'.
    account_key_pem: String,
    _directory: TempDir,
}

/// A kind of objects that live in namespaces, with all that the functions below need of it.
pub(crate) trait Kind:
    Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
    + Serialize
    + DeserializeOwned
    + Clone
    + Debug
    + Send
    + Sync
    + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + Sync
        + 'static
{
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A cluster whose controller managers get the configuration that `tune` makes of the usual one.
    pub(crate) async fn start_with(tune: fn(&mut Config)) -> Self {
        let directory = TempDir::new().unwrap();
        let names = ClusterNames::default();
        let pki = Pki::ensure(&directory.path().join("pki"), &names, jiff::Timestamp::now()).unwrap();
        let store = EmbeddedStore::open(directory.path().join("store"), Options::default()).unwrap();
        let leaf = pki.leaf(Identity::Apiserver);
        let serving = CertificateAndKey {
            certificate_pem: leaf.certificate.to_pem().into_bytes(),
            key_pem: leaf.key.to_pem().into_bytes(),
        };
        let ca = pki.ca.certificate().to_pem().into_bytes();
        let mut config = ApiServerConfig::new(store.clone(), serving, ca);
        config.bind_address = SocketAddr::from(([127, 0, 0, 1], 0));
        config.service_account = ServiceAccountConfig {
            signing_key_pem: pki.service_account_key.to_pem().into_bytes(),
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            ..ServiceAccountConfig::default()
        };
        let server = ApiServer::start(config).await.unwrap();
        let admin = UserInfo::new("kubernetes-admin", &["system:masters", "system:authenticated"]);
        let client = client_from_service(server.local_service(admin));
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());

        let mut cluster = Self {
            server,
            store,
            tracker,
            shutdown,
            manager: CancellationToken::new(),
            tune,
            account_key_pem: pki.service_account_key.to_pem().to_string(),
            client,
            _directory: directory,
        };
        cluster.start_manager("first");
        cluster.be_kubelet();
        // Pods need it, and its own controller is another test's business.
        let accounts: Api<ServiceAccount> = cluster.api();
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        if let Err(error) = accounts.create(&PostParams::default(), &account).await {
            assert!(error.to_string().contains("already exists"), "{error}");
        }
        cluster
    }

    /// Starts a controller manager, in which every controller has the identity that upstream gives it.
    pub(crate) fn start_manager(&mut self, identity: &str) {
        let authenticated = "system:authenticated";
        let groups = [
            "system:serviceaccounts",
            "system:serviceaccounts:kube-system",
            authenticated,
        ];
        let client = |account: &str| {
            let user = UserInfo::new(format!("system:serviceaccount:kube-system:{account}"), &groups);
            client_from_service(self.server.local_service(user))
        };
        let clients: HashMap<String, Client> = CONTROLLERS
            .iter()
            .map(|controller| controller.account)
            .filter(|account| !account.is_empty())
            .map(|account| (account.to_owned(), client(account)))
            .collect();
        let fallback = self.client.clone();
        let manager = UserInfo::new("system:kube-controller-manager", &[authenticated]);
        let mut config = Config::new(client_from_service(self.server.local_service(manager)));
        config.client = Arc::new(move |account| clients.get(account).unwrap_or(&fallback).clone());
        config.leader_election = Some(LeaderElection {
            identity: identity.into(),
        });
        config.service_account_key_pem = Some(self.account_key_pem.clone());
        (self.tune)(&mut config);
        self.manager = self.shutdown.child_token();
        let token = self.manager.clone();
        self.tracker
            .spawn(async move { run(config, token).await.unwrap() });
    }

    /// Tells the controller manager that was started last to stop, and does not wait for it.
    pub(crate) fn stop_manager(&self) {
        self.manager.cancel();
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.tracker.close();
        tokio::time::timeout(PATIENCE, self.tracker.wait())
            .await
            .expect("all tasks end");
        self.server.shutdown().await;
        self.store.close().await;
    }

    /// The objects of a kind in namespace `default`.
    pub(crate) fn api<K: Kind>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Creates an object in namespace `default`.
    pub(crate) async fn create<K: Kind>(&self, object: Value) -> K {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>()
            .create(&PostParams::default(), &object)
            .await
            .unwrap()
    }

    /// All objects of a kind in namespace `default`.
    pub(crate) async fn list<K: Kind>(&self) -> Vec<K> {
        self.api::<K>().list(&ListParams::default()).await.unwrap().items
    }

    /// Changes an object in namespace `default` by a merge patch.
    pub(crate) async fn patch<K: Kind>(&self, name: &str, patch: Value) -> K {
        let patch = Patch::Merge(patch);
        self.api::<K>()
            .patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap()
    }

    /// Changes the status of an object in namespace `default` by a merge patch, as its kubelet or controller would.
    pub(crate) async fn patch_status<K: Kind>(&self, name: &str, status: Value) -> K {
        let patch = Patch::Merge(json!({ "status": status }));
        self.api::<K>()
            .patch_status(name, &PatchParams::default(), &patch)
            .await
            .unwrap()
    }

    /// Waits until the controller has seen the newest spec and the status has these fields; null means absent.
    pub(crate) async fn until_status<K: Kind>(&self, name: &str, fields: Value) -> K {
        let holds = |object: &K| {
            let object = serde_json::to_value(object).unwrap();
            let (status, seen) = (&object["status"], &object["status"]["observedGeneration"]);
            let mut wanted = fields.as_object().unwrap().iter();
            (seen.is_null() || *seen == object["metadata"]["generation"])
                && wanted.all(|(field, value)| status[field] == *value)
        };
        self.until::<K>(name, &fields.to_string(), holds).await
    }

    /// The messages of the events of that reason, when there are at least `count`.
    pub(crate) async fn messages(&self, reason: &str, count: usize) -> Vec<String> {
        let is = |event: &&Event| event.reason.as_deref() == Some(reason);
        let holds = |events: &[Event]| events.iter().filter(is).count() >= count;
        let events = self.until_all::<Event>(reason, holds).await;
        let messages = events.iter().filter(is).filter_map(|event| event.message.clone());
        messages.collect()
    }

    /// Waits until the object satisfies `holds`.
    pub(crate) async fn until<K: Kind>(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(&K) -> bool + Send,
    ) -> K {
        struct Holds<F>(F);
        impl<K, F: Fn(&K) -> bool> Awaited<K> for Holds<F> {
            fn matches_object(&self, object: Option<&K>) -> bool {
                object.is_some_and(&self.0)
            }
        }
        let api = self.api::<K>();
        let wait = await_condition(api.clone(), name, Holds(holds));
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(found) => found.unwrap().unwrap(),
            Err(_) => panic!(
                "{name} never came to {what}; it is {:#?}",
                api.get_opt(name).await
            ),
        }
    }

    /// Waits until the objects of a kind satisfy `holds`.
    pub(crate) async fn until_all<K: Kind>(&self, what: &str, holds: impl Fn(&[K]) -> bool) -> Vec<K> {
        let tracker = TaskTracker::new();
        let done = CancellationToken::new();
        let informer = Informer::spawn(self.api::<K>(), InformerOptions::default(), &tracker, &done);
        let changed = Arc::new(tokio::sync::Notify::new());
        let notify = changed.clone();
        informer.on_change(move |_| notify.notify_one());
        informer.synced().await;
        let objects = || -> Vec<K> { informer.list().iter().map(|object| K::clone(object)).collect() };
        let wait = async {
            while !holds(&objects()) {
                changed.notified().await;
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, wait).await;
        done.cancel();
        assert!(outcome.is_ok(), "never came to {what}: {:#?}", objects());
        objects()
    }

    fn be_kubelet(&self) {
        let api: Api<Pod> = Api::all(self.client.clone());
        let informer = Informer::spawn(api, InformerOptions::default(), &self.tracker, &self.shutdown);
        let (sender, mut receiver) = mpsc::unbounded_channel::<Arc<Pod>>();
        informer.on_change(move |change| {
            if let Change::Added(pod) | Change::Updated(_, pod) = change {
                // The receiver is gone only when the test is over.
                let _ = sender.send(pod.clone());
            }
        });
        let (client, shutdown) = (self.client.clone(), self.shutdown.clone());
        self.tracker.spawn(async move {
            loop {
                let pod = tokio::select! {
                    () = shutdown.cancelled() => return,
                    pod = receiver.recv() => pod.unwrap(),
                };
                if let Some(status) = hollow_status(&pod) {
                    let api: Api<Pod> =
                        Api::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap());
                    let name = pod.metadata.name.as_deref().unwrap();
                    let patch = Patch::Merge(json!({"status": status}));
                    // Pods may be gone meanwhile.
                    let _ = api.patch_status(name, &PatchParams::default(), &patch).await;
                }
            }
        });
    }
}

fn hollow_status(pod: &Pod) -> Option<Value> {
    let labels = pod.metadata.labels.as_ref();
    let wish = labels
        .and_then(|labels| labels.get("hollow"))
        .map_or("run", String::as_str);
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending");
    if phase != "Pending" || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ended = |code: i32| {
        json!([{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code, "finishedAt": jiff::Timestamp::now().to_string()}}}])
    };
    match wish {
        "run" => Some(json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": jiff::Timestamp::now().to_string()}]})),
        "succeed" => Some(json!({"phase": "Succeeded", "containerStatuses": ended(0)})),
        "fail" => Some(json!({"phase": "Failed", "containerStatuses": ended(1)})),
        _ => None,
    }
}

/// What all conditions have, whatever their kind.
#[derive(Clone, Debug, serde::Deserialize)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    type_: String,
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) reason: String,
}

/// The condition of that type.
pub(crate) fn condition<K: Serialize>(object: &K, type_: &str) -> Option<Condition> {
    let object = serde_json::to_value(object).unwrap();
    let conditions = object.pointer("/status/conditions")?.clone();
    let conditions: Vec<Condition> = serde_json::from_value(conditions).unwrap();
    conditions.into_iter().find(|found| found.type_ == type_)
}

/// The names of objects, sorted.
pub(crate) fn names<K: Resource>(objects: &[K]) -> Vec<String> {
    let mut names: Vec<_> = objects
        .iter()
        .filter_map(|object| object.meta().name.clone())
        .collect();
    names.sort();
    names
}

/// A pod template with labels.
pub(crate) fn template(labels: Value, image: &str) -> Value {
    json!({"metadata": {"labels": labels},
           "spec": {"containers": [{"name": "c", "image": image}], "restartPolicy": "Always"}})
}

/// A pod template for Jobs.
pub(crate) fn job_template(wish: &str) -> Value {
    json!({"metadata": {"labels": {"hollow": wish}},
           "spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}})
}
