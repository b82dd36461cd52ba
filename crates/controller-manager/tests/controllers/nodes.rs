//! Nodes that fall silent, and what becomes of pods, against a real API server.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};

use crate::support::{Cluster, job_template};

fn quick(config: &mut keelson_controller_manager::Config) {
    config.node_monitor_grace_period = Duration::from_secs(2);
    config.terminated_pod_gc_threshold = 2;
}

async fn node(cluster: &Cluster, name: &str) -> Api<Node> {
    let api: Api<Node> = Api::all(cluster.client.clone());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    api.create(&PostParams::default(), &node).await.unwrap();
    beat(&api, name).await;
    api
}

async fn beat(api: &Api<Node>, name: &str) {
    let now = jiff::Timestamp::now().to_string();
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "m",
                       "lastHeartbeatTime": now, "lastTransitionTime": now});
    let patch = Patch::Strategic(json!({"status": {"conditions": [ready]}}));
    api.patch_status(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

async fn pod(cluster: &Cluster, name: &str, node: &str, seconds: Option<i64>) {
    let toleration = |key: &str| {
        let mut toleration =
            json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": "NoExecute"});
        if let Some(seconds) = seconds {
            toleration["tolerationSeconds"] = json!(seconds);
        }
        toleration
    };
    cluster
        .create::<Pod>(json!({
            "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": 30,
                     "tolerations": [toleration("not-ready"), toleration("unreachable")]}
        }))
        .await;
}

fn taints(node: &Node) -> Vec<String> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints
        .map(|taint| format!("{}:{}", taint.key, taint.effect))
        .collect()
}

async fn until_node(api: &Api<Node>, name: &str, what: &str, holds: impl Fn(&Node) -> bool + Send) {
    let wait = await_condition(api.clone(), name, |node: Option<&Node>| node.is_some_and(&holds));
    let found = tokio::time::timeout(Duration::from_secs(20), wait).await;
    assert!(
        found.is_ok(),
        "{name} never came to {what}: {:#?}",
        api.get(name).await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_tainted_and_its_pods_leave() {
    let cluster = Cluster::start_with(quick).await;
    let nodes = node(&cluster, "alive").await;
    node(&cluster, "silent").await;
    pod(&cluster, "patient", "silent", None).await;
    pod(&cluster, "hasty", "silent", Some(1)).await;
    pod(&cluster, "elsewhere", "alive", Some(0)).await;
    // One kubelet renews its lease.
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-node-lease");
    let lease: Lease =
        serde_json::from_value(json!({"metadata": {"name": "alive"}, "spec": {"holderIdentity": "alive"}}))
            .unwrap();
    leases.create(&PostParams::default(), &lease).await.unwrap();
    let renewing = tokio::spawn(async move {
        let mut timer = tokio::time::interval(Duration::from_millis(500));
        loop {
            timer.tick().await;
            let now = jiff::Timestamp::now();
            let patch = Patch::Merge(json!({"spec": {"renewTime": format!("{now:.6}")}}));
            leases
                .patch("alive", &PatchParams::default(), &patch)
                .await
                .unwrap();
        }
    });
    until_node(&nodes, "silent", "unknown and taints", |node| {
        let ready = node
            .status
            .as_ref()
            .unwrap()
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "Ready");
        ready.is_some_and(|ready| {
            ready.status == "Unknown"
                && ready.reason.as_deref() == Some("NodeStatusUnknown")
                && ready.message.as_deref() == Some("Kubelet stopped posting node status.")
        }) && taints(node)
            == [
                "node.kubernetes.io/unreachable:NoSchedule",
                "node.kubernetes.io/unreachable:NoExecute",
            ]
    })
    .await;
    let hasty = cluster
        .until::<Pod>("hasty", "being deleted", |pod| {
            pod.metadata.deletion_timestamp.is_some()
        })
        .await;
    let target = |pod: &Pod| {
        let conditions = pod
            .status
            .as_ref()
            .unwrap()
            .conditions
            .clone()
            .unwrap_or_default();
        conditions
            .into_iter()
            .find(|condition| condition.type_ == "DisruptionTarget")
            .and_then(|found| found.reason)
    };
    assert_eq!(target(&hasty).as_deref(), Some("DeletionByTaintManager"));
    let not_ready = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|found| {
            found
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "False")
        })
    };
    let patient = cluster.until::<Pod>("patient", "not ready", not_ready).await;
    assert!(patient.metadata.deletion_timestamp.is_none());
    let says = |events: &[Event], reason: &str, message: &str| {
        events
            .iter()
            .any(|event| event.reason.as_deref() == Some(reason) && event.message.as_deref() == Some(message))
    };
    cluster
        .until_all::<Event>("events", |events| {
            says(
                events,
                "TaintManagerEviction",
                "Marking for deletion Pod default/hasty",
            ) && says(events, "NodeNotReady", "Node silent status is now: NodeNotReady")
                && says(events, "NodeNotReady", "Node is not ready")
        })
        .await;
    assert_eq!(taints(&nodes.get("alive").await.unwrap()), [""; 0]);
    assert!(
        cluster
            .api::<Pod>()
            .get("elsewhere")
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_none()
    );
    // It comes back.
    beat(&nodes, "silent").await;
    until_node(&nodes, "silent", "no taints", |node| taints(node).is_empty()).await;
    renewing.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leftovers_are_collected() {
    let cluster = Cluster::start_with(quick).await;
    // The oldest finished pods beyond the threshold.
    for name in ["one", "two", "three"] {
        let labels = json!({"hollow": "succeed"});
        let spec = json!({"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"});
        cluster
            .create::<Pod>(json!({"metadata": {"name": name, "labels": labels}, "spec": spec}))
            .await;
    }
    cluster
        .until_all::<Pod>("two are left", |pods| pods.len() == 2)
        .await;
    // A Job whose time has passed, with its pods.
    cluster
        .create::<Job>(json!({
            "metadata": {"name": "brief"},
            "spec": {"ttlSecondsAfterFinished": 1, "template": job_template("succeed")}
        }))
        .await;
    cluster
        .until::<Job>("brief", "complete", |job| {
            job.status
                .as_ref()
                .is_some_and(|status| status.succeeded == Some(1))
        })
        .await;
    cluster.until_all::<Job>("no job", <[Job]>::is_empty).await;
    let gone = |pods: &[Pod]| {
        !pods
            .iter()
            .any(|pod| pod.metadata.generate_name.as_deref() == Some("brief-"))
    };
    cluster.until_all::<Pod>("no pods of it", gone).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_roles_are_aggregated() {
    let cluster = Cluster::start().await;
    let roles: Api<ClusterRole> = Api::all(cluster.client.clone());
    let create = async |role: Value| {
        let role: ClusterRole = serde_json::from_value(role).unwrap();
        roles.create(&PostParams::default(), &role).await.unwrap();
    };
    create(json!({"metadata": {"name": "all"}, "rules": [],
                  "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "all"}}]}}))
    .await;
    let rule = json!([{"apiGroups": ["x.test"], "resources": ["xs"], "verbs": ["get"]}]);
    create(json!({"metadata": {"name": "part", "labels": {"to": "all"}}, "rules": rule})).await;
    let until = async |count: usize| {
        let holds = |role: Option<&ClusterRole>| {
            role.is_some_and(|role| role.rules.iter().flatten().count() == count)
        };
        let wait = await_condition(roles.clone(), "all", holds);
        assert!(
            tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok(),
            "never {count} rules"
        );
    };
    until(1).await;
    roles.delete("part", &DeleteParams::default()).await.unwrap();
    until(0).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_told_how_long_to_cache() {
    let cluster = Cluster::start().await;
    let api = node(&cluster, "n1").await;
    let told = |node: Option<&Node>| {
        let annotations = node.and_then(|node| node.metadata.annotations.as_ref());
        annotations
            .is_some_and(|all| all.get("node.alpha.kubernetes.io/ttl").map(String::as_str) == Some("0"))
    };
    tokio::time::timeout(Duration::from_secs(20), await_condition(api, "n1", told))
        .await
        .unwrap()
        .unwrap();
    cluster.stop().await;
}
