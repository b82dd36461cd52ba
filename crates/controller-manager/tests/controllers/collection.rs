//! The garbage collector and the namespace controller against a real API server.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::{Value, json};

use crate::support::{Cluster, template};

fn owner(kind: &str, name: &str, uid: &str, blocking: bool) -> Value {
    json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "blockOwnerDeletion": blocking}])
}

async fn map(cluster: &Cluster, name: &str, owners: Value, finalizers: Value) -> String {
    let object = json!({"metadata": {"name": name, "ownerReferences": owners, "finalizers": finalizers}});
    cluster.create::<ConfigMap>(object).await.metadata.uid.unwrap()
}

fn named(maps: &[ConfigMap], name: &str) -> bool {
    maps.iter().any(|map| map.metadata.name.as_deref() == Some(name))
}

fn policy(policy: PropagationPolicy) -> DeleteParams {
    DeleteParams {
        propagation_policy: Some(policy),
        ..DeleteParams::default()
    }
}

async fn unfinalize<K>(api: &Api<K>, name: &str)
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch(name, &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_three_ways_of_deleting_an_owner() {
    let cluster = Cluster::start().await;
    let api = cluster.api::<ConfigMap>();

    // In the background: the owner at once, then what it owned.
    let uid = map(&cluster, "bg", json!([]), json!([])).await;
    map(&cluster, "bg-a", owner("ConfigMap", "bg", &uid, true), json!([])).await;
    let middle = map(&cluster, "bg-b", owner("ConfigMap", "bg", &uid, true), json!([])).await;
    map(
        &cluster,
        "bg-b-a",
        owner("ConfigMap", "bg-b", &middle, true),
        json!([]),
    )
    .await;
    api.delete("bg", &policy(PropagationPolicy::Background))
        .await
        .unwrap();
    cluster
        .until_all::<ConfigMap>("no bg", |maps| {
            !["bg-a", "bg-b", "bg-b-a"].iter().any(|name| named(maps, name))
        })
        .await;

    // In the foreground: the owner waits for those that block it, and only for them.
    let uid = map(&cluster, "fg", json!([]), json!([])).await;
    map(
        &cluster,
        "fg-held",
        owner("ConfigMap", "fg", &uid, true),
        json!(["keelson.test/hold"]),
    )
    .await;
    map(
        &cluster,
        "fg-free",
        owner("ConfigMap", "fg", &uid, true),
        json!([]),
    )
    .await;
    map(
        &cluster,
        "fg-loose",
        owner("ConfigMap", "fg", &uid, false),
        json!(["keelson.test/hold"]),
    )
    .await;
    api.delete("fg", &policy(PropagationPolicy::Foreground))
        .await
        .unwrap();
    let maps = cluster
        .until_all::<ConfigMap>("free is gone", |maps| !named(maps, "fg-free"))
        .await;
    assert!(named(&maps, "fg"), "it waits");
    unfinalize(&api, "fg-held").await;
    let maps = cluster
        .until_all::<ConfigMap>("fg is gone", |maps| !named(maps, "fg"))
        .await;
    assert!(named(&maps, "fg-loose"), "it was not waited for");
    unfinalize(&api, "fg-loose").await;
    cluster
        .until_all::<ConfigMap>("all are gone", |maps| !named(maps, "fg-loose"))
        .await;

    // Orphans stay, without the reference.
    let uid = map(&cluster, "or", json!([]), json!([])).await;
    map(&cluster, "or-a", owner("ConfigMap", "or", &uid, true), json!([])).await;
    api.delete("or", &policy(PropagationPolicy::Orphan))
        .await
        .unwrap();
    cluster
        .until_all::<ConfigMap>("or is gone", |maps| !named(maps, "or"))
        .await;
    assert_eq!(
        api.get("or-a")
            .await
            .unwrap()
            .metadata
            .owner_references
            .unwrap_or_default(),
        []
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_no_owner_holds_is_deleted() {
    let cluster = Cluster::start().await;
    let api = cluster.api::<ConfigMap>();
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap();
    let node = nodes
        .create(&PostParams::default(), &node)
        .await
        .unwrap()
        .metadata
        .uid
        .unwrap();

    // Two owners: one that never was is taken out, the other holds; a cluster-scoped owner holds, too.
    let solid = map(&cluster, "solid", json!([]), json!([])).await;
    let mut two = owner("ConfigMap", "solid", &solid, false);
    two.as_array_mut().unwrap().extend(
        owner("ConfigMap", "never", "0-0", false)
            .as_array()
            .unwrap()
            .clone(),
    );
    map(&cluster, "two", two, json!([])).await;
    map(&cluster, "on-node", owner("Node", "n1", &node, false), json!([])).await;
    // The name is right, the UID is another's; the UID is right, the kind is not.
    map(
        &cluster,
        "replaced",
        owner("ConfigMap", "solid", "1-1", false),
        json!([]),
    )
    .await;
    map(
        &cluster,
        "confused",
        owner("Secret", "solid", &solid, false),
        json!([]),
    )
    .await;
    let maps = cluster
        .until_all::<ConfigMap>("dangling ones are gone", |maps| {
            let two = maps
                .iter()
                .find(|map| map.metadata.name.as_deref() == Some("two"));
            let owners = two.map(|map| map.metadata.owner_references.iter().flatten().count());
            !named(maps, "replaced") && !named(maps, "confused") && owners == Some(1)
        })
        .await;
    assert!(named(&maps, "on-node"));
    nodes.delete("n1", &DeleteParams::default()).await.unwrap();
    cluster
        .until_all::<ConfigMap>("the node's is gone", |maps| !named(maps, "on-node"))
        .await;

    // A cycle goes when its outside owner goes in the foreground.
    let root = map(&cluster, "root", json!([]), json!([])).await;
    let first = map(
        &cluster,
        "first",
        owner("ConfigMap", "root", &root, true),
        json!([]),
    )
    .await;
    map(
        &cluster,
        "second",
        owner("ConfigMap", "first", &first, true),
        json!([]),
    )
    .await;
    let back = json!({"metadata": {"ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "first", "uid": first, "blockOwnerDeletion": true}]}});
    api.patch("root", &PatchParams::default(), &Patch::Merge(back))
        .await
        .unwrap();
    api.delete("root", &policy(PropagationPolicy::Foreground))
        .await
        .unwrap();
    cluster
        .until_all::<ConfigMap>("no cycle", |maps| {
            !["root", "first", "second"].iter().any(|name| named(maps, name))
        })
        .await;

    // An owner in another namespace is no owner; the event says so.
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let other: Namespace = serde_json::from_value(json!({"metadata": {"name": "other"}})).unwrap();
    namespaces.create(&PostParams::default(), &other).await.unwrap();
    let foreign: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "foreign"}})).unwrap();
    let elsewhere: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "other");
    let foreign = elsewhere
        .create(&PostParams::default(), &foreign)
        .await
        .unwrap()
        .metadata
        .uid
        .unwrap();
    map(
        &cluster,
        "misled",
        owner("ConfigMap", "foreign", &foreign, false),
        json!([]),
    )
    .await;
    cluster
        .until_all::<ConfigMap>("the misled is gone", |maps| !named(maps, "misled"))
        .await;
    let wanted = format!(
        "ownerRef [v1/ConfigMap, namespace: default, name: foreign, uid: {foreign}] does not exist in namespace \"default\""
    );
    cluster
        .until_all::<Event>("the event", |events| {
            events.iter().any(|event| {
                event.reason.as_deref() == Some("OwnerRefInvalidNamespace")
                    && event.message.as_deref() == Some(&wanted)
            })
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_goes_with_all_that_it_made() {
    let cluster = Cluster::start().await;
    let labels = json!({"app": "web"});
    cluster
        .create::<Deployment>(json!({
            "metadata": {"name": "web"},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template(labels.clone(), "v1")}
        }))
        .await;
    let ready = |found: &Deployment| {
        found
            .status
            .as_ref()
            .is_some_and(|status| status.available_replicas == Some(2))
    };
    cluster.until::<Deployment>("web", "available", ready).await;
    cluster
        .api::<Deployment>()
        .delete("web", &policy(PropagationPolicy::Foreground))
        .await
        .unwrap();
    cluster.until_all::<Pod>("no pods", <[Pod]>::is_empty).await;
    cluster
        .until_all::<ReplicaSet>("no sets", <[ReplicaSet]>::is_empty)
        .await;
    cluster
        .until_all::<Deployment>("no deployment", <[Deployment]>::is_empty)
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_resources_are_collected_as_soon_as_they_are_served() {
    let cluster = Cluster::start().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let definition: CustomResourceDefinition = serde_json::from_value(json!({
        "metadata": {"name": "gizmos.keelson.test"},
        "spec": {"group": "keelson.test", "scope": "Namespaced",
                 "names": {"plural": "gizmos", "singular": "gizmo", "kind": "Gizmo", "listKind": "GizmoList"},
                 "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                     "type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}
    }))
    .unwrap();
    definitions
        .create(&PostParams::default(), &definition)
        .await
        .unwrap();
    let established = kube::runtime::conditions::is_crd_established();
    await_condition(definitions.clone(), "gizmos.keelson.test", established)
        .await
        .unwrap();
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("keelson.test", "v1", "Gizmo"), "gizmos");
    let gizmos: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), "default", &resource);
    let gizmo = |name: &str| DynamicObject::new(name, &resource);
    let uid = gizmos
        .create(&PostParams::default(), &gizmo("g"))
        .await
        .unwrap()
        .metadata
        .uid
        .unwrap();
    let mut reference = owner("Gizmo", "g", &uid, true);
    reference[0]["apiVersion"] = json!("keelson.test/v1");
    map(&cluster, "of-gizmo", reference, json!([])).await;
    // The custom resource as a dependent.
    let root = map(&cluster, "root", json!([]), json!([])).await;
    let mut dependent = gizmo("dependent");
    dependent.metadata.owner_references =
        serde_json::from_value(owner("ConfigMap", "root", &root, true)).unwrap();
    let dependent = gizmos.create(&PostParams::default(), &dependent).await.unwrap();
    let dependent_uid = dependent.metadata.uid.unwrap();

    cluster
        .api::<ConfigMap>()
        .delete("root", &policy(PropagationPolicy::Foreground))
        .await
        .unwrap();
    cluster
        .until_all::<ConfigMap>("the root is gone", |maps| !named(maps, "root"))
        .await;
    // A collector that had not yet heard of the dependent when its root went collects it for want of an owner.
    await_condition(
        gizmos.clone(),
        "dependent",
        conditions::is_deleted(&dependent_uid),
    )
    .await
    .unwrap();
    gizmos
        .delete("g", &policy(PropagationPolicy::Background))
        .await
        .unwrap();
    cluster
        .until_all::<ConfigMap>("the gizmo's is gone", |maps| !named(maps, "of-gizmo"))
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_are_emptied_before_they_go() {
    let cluster = Cluster::start().await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "doomed"}})).unwrap();
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "doomed");
    for (name, finalizers) in [("plain", json!([])), ("held", json!(["keelson.test/hold"]))] {
        let map =
            serde_json::from_value(json!({"metadata": {"name": name, "finalizers": finalizers}})).unwrap();
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    namespaces
        .delete("doomed", &DeleteParams::default())
        .await
        .unwrap();
    let reported = |namespace: Option<&Namespace>| {
        let conditions = namespace.and_then(|namespace| namespace.status.as_ref()?.conditions.as_ref());
        conditions.is_some_and(|conditions| {
            let of = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True");
            let remaining = of("NamespaceContentRemaining").and_then(|condition| condition.message.as_deref());
            let finalizers = of("NamespaceFinalizersRemaining").and_then(|condition| condition.message.as_deref());
            remaining == Some("Some resources are remaining: configmaps. has 1 resource instances")
                && finalizers
                    == Some("Some content in the namespace has finalizers remaining: keelson.test/hold in 1 resource instances")
        })
    };
    let patience = std::time::Duration::from_secs(20);
    let wait = await_condition(namespaces.clone(), "doomed", reported);
    let found = tokio::time::timeout(patience, wait).await;
    assert!(
        found.is_ok(),
        "never reported: {:#?}",
        namespaces.get_opt("doomed").await
    );
    unfinalize(&maps, "held").await;
    let gone = await_condition(namespaces.clone(), "doomed", |namespace: Option<&Namespace>| {
        namespace.is_none()
    });
    let found = tokio::time::timeout(patience, gone).await;
    assert!(
        found.is_ok(),
        "never gone: {:#?}",
        namespaces.get_opt("doomed").await
    );
    cluster.stop().await;
}
