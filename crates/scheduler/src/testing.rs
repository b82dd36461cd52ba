//! A world of nodes and pods for the tests of plugins: no server, real framework, real plugins.

use std::sync::Arc;

use http::{Request, Response};
use k8s_openapi::api::core::v1::{Node, Pod};
use keelson_client::{EventRecorder, EventSource, NamespacedName, client_from_service};
use kube::Resource;
use kube::client::Body;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::{Cache, PodInfo, Snapshot};
use crate::config::Config;
use crate::framework::{Framework, Handle, Lister, Listers, Nominator};
use crate::plugins;
use crate::schedule_one::{Algorithm, ScheduleError};

/// Objects that never change.
struct Fixed<K>(Vec<Arc<K>>);

impl<K: Resource + Send + Sync> Lister<K> for Fixed<K> {
    fn get(&self, key: &NamespacedName) -> Option<Arc<K>> {
        self.0
            .iter()
            .find(|object| NamespacedName::of(&***object) == *key)
            .cloned()
    }

    fn list(&self) -> Vec<Arc<K>> {
        self.0.clone()
    }

    fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        self.0
            .iter()
            .filter(|object| object.meta().namespace.as_deref() == Some(namespace))
            .cloned()
            .collect()
    }
}

fn fixed<K: Resource + DeserializeOwned + Send + Sync + 'static>(
    objects: &[Value],
    kind: &str,
) -> Arc<dyn Lister<K>> {
    let of_kind = objects.iter().filter(|object| object["kind"] == kind);
    let parse = |object: &Value| Arc::new(serde_json::from_value(object.clone()).expect(kind));
    Arc::new(Fixed(of_kind.map(parse).collect()))
}

/// See the module. Objects are JSON with `kind`; pods get namespace `default`, a UID and one container where they have none.
pub(crate) struct World {
    pub(crate) framework: Framework,
    pub(crate) cache: Cache,
    pub(crate) snapshot: Snapshot,
}

pub(crate) fn pod(mut pod: Value) -> Arc<PodInfo> {
    if pod["metadata"]["name"].is_null() {
        pod["metadata"]["name"] = json!("pod");
    }
    if pod["metadata"]["namespace"].is_null() {
        pod["metadata"]["namespace"] = json!("default");
    }
    if pod["metadata"]["uid"].is_null() {
        pod["metadata"]["uid"] = pod["metadata"]["name"].clone();
    }
    if pod["spec"]["containers"].is_null() {
        pod["spec"]["containers"] = json!([{"name": "c", "image": "i"}]);
    }
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    Arc::new(PodInfo::new(Arc::new(pod)))
}

/// A pod whose only container requests this.
pub(crate) fn requesting(name: &str, node: &str, priority: i32, requests: Value) -> Value {
    json!({"kind": "Pod", "metadata": {"name": name}, "spec": {"nodeName": node, "priority": priority,
        "containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}]}})
}

/// A node with plenty of everything and the labels of a host name and, if given, a zone.
pub(crate) fn node(name: &str, zone: &str) -> Value {
    let mut node = json!({"kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}});
    if !zone.is_empty() {
        node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!(zone);
    }
    node
}

/// A handle whose client reaches nobody. Needs a runtime.
pub(crate) fn handle(objects: &[Value], config: Config) -> Handle {
    let nobody =
        tower::service_fn(|_: Request<Body>| async { Ok::<_, std::io::Error>(Response::new(Body::empty())) });
    let client = client_from_service(nobody);
    let tasks = TaskTracker::new();
    let source = EventSource {
        component: "default-scheduler".to_owned(),
        host: None,
    };
    let recorder = EventRecorder::start(client.clone(), source, &tasks, CancellationToken::new());
    let listers = Listers {
        pods: fixed(objects, "Pod"),
        namespaces: fixed(objects, "Namespace"),
        services: fixed(objects, "Service"),
        replication_controllers: fixed(objects, "ReplicationController"),
        replica_sets: fixed(objects, "ReplicaSet"),
        stateful_sets: fixed(objects, "StatefulSet"),
        budgets: fixed(objects, "PodDisruptionBudget"),
        claims: fixed(objects, "PersistentVolumeClaim"),
        volumes: fixed(objects, "PersistentVolume"),
        storage_classes: fixed(objects, "StorageClass"),
    };
    Handle {
        client,
        config: Arc::new(config),
        scheduler_name: "default-scheduler".into(),
        listers,
        recorder,
        nominator: Arc::new(Nominator::default()),
        tasks,
        claim_changes: watch::Sender::new(()),
        queue: Arc::default(),
    }
}

impl World {
    /// Must be called within a runtime.
    pub(crate) fn new(objects: &[Value]) -> Self {
        let handle = handle(objects, Config::default());
        let mut framework = Framework::new(handle.nominator.clone());
        plugins::register_all(&mut framework, &handle);
        let mut cache = Cache::default();
        for object in objects {
            match object["kind"].as_str() {
                Some("Node") => {
                    let node: Node = serde_json::from_value(object.clone()).expect("a node");
                    cache.set_node(&Arc::new(node));
                }
                Some("Pod") => cache.set_pod(pod(object.clone())),
                _ => {}
            }
        }
        let mut snapshot = Snapshot::default();
        cache.update(&mut snapshot);
        Self {
            framework,
            cache,
            snapshot,
        }
    }

    /// The names of the nodes that a pod fits on, or the message for its owner.
    pub(crate) fn feasible(&self, incoming: Value) -> Result<Vec<String>, String> {
        let mut state = crate::framework::CycleState::default();
        let pod = pod(incoming);
        match Algorithm::new(100).find_feasible(&self.framework, &self.snapshot, &mut state, &pod) {
            Ok(nodes) => {
                let mut names: Vec<_> = nodes.iter().map(|node| node.name().to_owned()).collect();
                names.sort();
                Ok(names)
            }
            Err(ScheduleError::Fit(mut error, state)) => {
                let (_, outcome) =
                    self.framework
                        .run_post_filter(&state, &pod, &self.snapshot, &error.diagnosis);
                if let Err(status) = outcome {
                    error.diagnosis.post_filter = status.message();
                }
                Err(error.to_string())
            }
            Err(ScheduleError::NoNodes) => Err("no nodes".to_owned()),
            Err(ScheduleError::Failed(status)) => Err(status.message()),
        }
    }

    /// The feasible nodes in the order of their scores, the best first.
    pub(crate) fn ranked(&self, incoming: Value) -> Vec<(String, i64)> {
        let mut state = crate::framework::CycleState::default();
        let pod = pod(incoming);
        let Ok(nodes) = Algorithm::new(100).find_feasible(&self.framework, &self.snapshot, &mut state, &pod)
        else {
            return Vec::new();
        };
        self.framework
            .run_pre_score(&mut state, &pod, &nodes, &self.snapshot)
            .expect("scores");
        let scores = self.framework.run_score(&state, &pod, &nodes, &self.snapshot);
        let mut ranked: Vec<_> = nodes
            .iter()
            .map(|node| node.name().to_owned())
            .zip(scores)
            .collect();
        ranked.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        ranked
    }
}
