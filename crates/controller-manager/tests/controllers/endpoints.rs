//! Endpoint slices against a real API server.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::{Value, json};

use crate::support::Cluster;

async fn pod(cluster: &Cluster, name: &str, address: &str, ready: bool) {
    cluster
        .create::<Pod>(json!({
            "metadata": {"name": name, "labels": {"app": "web", "hollow": "stuck"}},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]}]}
        }))
        .await;
    status(
        cluster,
        name,
        json!({"podIP": address, "podIPs": [{"ip": address}], "conditions": is_ready(ready)}),
    )
    .await;
}

fn is_ready(ready: bool) -> Value {
    json!([{"type": "Ready", "status": if ready { "True" } else { "False" },
            "lastTransitionTime": jiff::Timestamp::now().to_string()}])
}

async fn status(cluster: &Cluster, name: &str, status: Value) {
    let patch = Patch::Merge(json!({"status": status}));
    cluster
        .api::<Pod>()
        .patch_status(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

/// Of all slices of a service: address, and `r` where it is ready.
fn endpoints(slices: &[EndpointSlice], service: &str) -> Vec<String> {
    let of = slices.iter().filter(|slice| {
        slice.metadata.labels.as_ref().is_some_and(|labels| {
            labels.get("kubernetes.io/service-name").map(String::as_str) == Some(service)
        })
    });
    let mut found: Vec<String> = of
        .flat_map(|slice| slice.endpoints.iter().flatten())
        .map(|endpoint| {
            let ready = endpoint
                .conditions
                .as_ref()
                .and_then(|conditions| conditions.ready)
                == Some(true);
            format!("{}{}", endpoint.addresses[0], if ready { "r" } else { "" })
        })
        .collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_follow_services_and_pods() {
    let cluster = Cluster::start().await;
    pod(&cluster, "a", "10.244.0.1", true).await;
    pod(&cluster, "b", "10.244.0.2", false).await;
    cluster
        .create::<Service>(json!({
            "metadata": {"name": "web", "labels": {"team": "x"}},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}
        }))
        .await;
    let until = async |expected: &[&str]| {
        cluster
            .until_all::<EndpointSlice>(&format!("{expected:?}"), |slices| {
                endpoints(slices, "web") == expected
            })
            .await
    };
    let slices = until(&["10.244.0.1r", "10.244.0.2"]).await;
    let slice = slices
        .iter()
        .find(|slice| slice.metadata.name.as_deref().unwrap().starts_with("web-"))
        .unwrap();
    let labels = slice.metadata.labels.as_ref().unwrap();
    assert_eq!(
        labels["endpointslice.kubernetes.io/managed-by"],
        "endpointslice-controller.k8s.io"
    );
    assert_eq!(labels["team"], "x");
    assert_eq!(slice.metadata.owner_references.as_ref().unwrap()[0].name, "web");
    assert!(
        slice
            .metadata
            .annotations
            .as_ref()
            .unwrap()
            .contains_key("endpoints.kubernetes.io/last-change-trigger-time")
    );
    let legacy = |found: &Endpoints| {
        let ips = |addresses: &Option<Vec<_>>| -> Vec<String> {
            addresses
                .iter()
                .flatten()
                .map(|address: &k8s_openapi::api::core::v1::EndpointAddress| address.ip.clone())
                .collect()
        };
        let subsets = found.subsets.iter().flatten();
        let all: Vec<_> = subsets
            .map(|subset| (ips(&subset.addresses), ips(&subset.not_ready_addresses)))
            .collect();
        all == [(vec!["10.244.0.1".to_owned()], vec!["10.244.0.2".to_owned()])]
    };
    cluster.until::<Endpoints>("web", "both addresses", legacy).await;
    let port = &slice.ports.as_ref().unwrap()[0];
    assert_eq!(
        (port.name.as_deref(), port.port, port.protocol.as_deref()),
        (Some("http"), Some(8080), Some("TCP"))
    );

    status(&cluster, "b", json!({"conditions": is_ready(true)})).await;
    until(&["10.244.0.1r", "10.244.0.2r"]).await;
    cluster
        .api::<Pod>()
        .delete("a", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    until(&["10.244.0.2r"]).await;
    // Leaving the selection is leaving the slice.
    let relabel = Patch::Merge(json!({"metadata": {"labels": {"app": "other"}}}));
    cluster
        .api::<Pod>()
        .patch("b", &PatchParams::default(), &relabel)
        .await
        .unwrap();
    let slices = until(&[]).await;
    let of_web = |slice: &EndpointSlice| {
        slice
            .metadata
            .name
            .as_deref()
            .is_some_and(|name| name.starts_with("web-"))
    };
    assert!(slices.iter().any(of_web), "one slice says that there is none");
    // The slices go with the service.
    cluster
        .api::<Service>()
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    cluster
        .until_all::<EndpointSlice>("no slices", |slices| !slices.iter().any(of_web))
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_pod_that_changes_is_one_slice_written() {
    let cluster = Cluster::start().await;
    for number in 0..230 {
        pod(
            &cluster,
            &format!("p{number}"),
            &format!("10.244.1.{number}"),
            true,
        )
        .await;
    }
    let spec = json!({"selector": {"app": "web"}, "clusterIP": "None"});
    cluster
        .create::<Service>(json!({"metadata": {"name": "many"}, "spec": spec}))
        .await;
    let slices = cluster
        .until_all::<EndpointSlice>("230", |slices| endpoints(slices, "many").len() == 230)
        .await;
    let versions = |slices: &[EndpointSlice]| {
        let mut found: Vec<_> = slices
            .iter()
            .filter(|slice| {
                slice
                    .metadata
                    .name
                    .as_deref()
                    .is_some_and(|name| name.starts_with("many-"))
            })
            .map(|slice| {
                (
                    slice.metadata.name.clone(),
                    slice.metadata.resource_version.clone(),
                )
            })
            .collect();
        found.sort();
        found
    };
    let before = versions(&slices);
    assert_eq!(before.len(), 3);
    assert!(slices.iter().all(|slice| {
        slice
            .endpoints
            .as_ref()
            .is_none_or(|endpoints| endpoints.len() <= 100)
    }));
    status(&cluster, "p7", json!({"conditions": is_ready(false)})).await;
    let slices = cluster
        .until_all::<EndpointSlice>("p7 is not ready", |slices| {
            endpoints(slices, "many").contains(&"10.244.1.7".to_owned())
        })
        .await;
    let changed = versions(&slices)
        .iter()
        .zip(&before)
        .filter(|(new, old)| new != old)
        .count();
    assert_eq!(changed, 1);
    cluster.stop().await;
}

/// The slices of service `db`; the API server has some of its own.
fn mirrored(slices: &[EndpointSlice]) -> Vec<&EndpointSlice> {
    let of = |slice: &&EndpointSlice| {
        let labels = slice.metadata.labels.as_ref();
        labels
            .is_some_and(|labels| labels.get("kubernetes.io/service-name").map(String::as_str) == Some("db"))
    };
    slices.iter().filter(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_kept_by_hand_are_mirrored() {
    let cluster = Cluster::start().await;
    let ports = json!([{"name": "http", "port": 80}]);
    cluster
        .create::<Service>(json!({"metadata": {"name": "db"}, "spec": {"ports": ports}}))
        .await;
    let subsets = |ready: Value, not_ready: Value| json!([{"addresses": ready, "notReadyAddresses": not_ready, "ports": ports}]);
    cluster
        .create::<Endpoints>(json!({
            "metadata": {"name": "db", "labels": {"tier": "data"}, "annotations": {"owner": "me"}},
            "subsets": subsets(json!([{"ip": "192.0.2.1"}, {"ip": "2001:db8::1", "hostname": "six"}]), json!([{"ip": "192.0.2.2"}]))
        }))
        .await;
    let slices = cluster
        .until_all::<EndpointSlice>("mirrored", |slices| {
            endpoints(slices, "db") == ["192.0.2.1r", "192.0.2.2", "2001:db8::1r"]
        })
        .await;
    let slices = mirrored(&slices);
    assert_eq!(slices.len(), 2, "one per family");
    for slice in slices {
        let labels = slice.metadata.labels.as_ref().unwrap();
        let managed = &labels["endpointslice.kubernetes.io/managed-by"];
        assert_eq!(managed, "endpointslicemirroring-controller.k8s.io");
        assert_eq!(labels["tier"], "data");
        assert_eq!(slice.metadata.annotations.as_ref().unwrap()["owner"], "me");
        let owner = &slice.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Endpoints", "db"));
        assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(80));
    }
    let api = cluster.api::<Endpoints>();
    let params = PatchParams::default();
    let patch = json!({"metadata": {"annotations": {"owner": null, "team": "us"}},
                       "subsets": subsets(json!([{"ip": "192.0.2.3"}]), json!([]))});
    api.patch("db", &params, &Patch::Merge(patch)).await.unwrap();
    let changed = |slices: &[EndpointSlice]| {
        let annotations = mirrored(slices)
            .into_iter()
            .filter_map(|slice| slice.metadata.annotations.clone());
        let annotations: Vec<_> = annotations
            .flat_map(|annotations| annotations.into_keys())
            .collect();
        endpoints(slices, "db") == ["192.0.2.3r"] && annotations == ["team"]
    };
    cluster.until_all::<EndpointSlice>("changed", changed).await;
    let patch = json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}});
    api.patch("db", &params, &Patch::Merge(patch)).await.unwrap();
    cluster
        .until_all::<EndpointSlice>("not mirrored", |slices| mirrored(slices).is_empty())
        .await;
    let patch = json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": null}}});
    api.patch("db", &params, &Patch::Merge(patch)).await.unwrap();
    cluster
        .until_all::<EndpointSlice>("mirrored again", changed)
        .await;
    // With the service the mirror goes, whoever keeps the Endpoints.
    cluster
        .api::<Service>()
        .delete("db", &DeleteParams::default())
        .await
        .unwrap();
    cluster
        .until_all::<EndpointSlice>("gone", |slices| mirrored(slices).is_empty())
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_cidrs_are_ready_and_stay_while_they_are_used() {
    let cluster = Cluster::start().await;
    let api: Api<ServiceCIDR> = Api::all(cluster.client.clone());
    let until = async |name: &str, status: &str, reason: &str| {
        let (status, reason) = (status.to_owned(), reason.to_owned());
        let holds = move |cidr: Option<&ServiceCIDR>| {
            let status_of = cidr.and_then(|cidr| cidr.status.as_ref());
            let mut conditions = status_of
                .iter()
                .flat_map(|status| status.conditions.iter().flatten());
            conditions.any(|found| found.type_ == "Ready" && found.status == status && found.reason == reason)
        };
        let wait = await_condition(api.clone(), name, holds);
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("in time")
            .unwrap();
    };
    until("kubernetes", "True", "").await;
    let cidr = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.250.0.0/24"]}});
    let cidr: ServiceCIDR = serde_json::from_value(cidr).unwrap();
    let made = api.create(&PostParams::default(), &cidr).await.unwrap();
    until("more", "True", "").await;
    let labels = json!({"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io", "ipaddress.kubernetes.io/ip-family": "IPv4"});
    let address = json!({"metadata": {"name": "10.250.0.7", "labels": labels},
                         "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "s"}}});
    let addresses: Api<IPAddress> = Api::all(cluster.client.clone());
    let address = serde_json::from_value(address).unwrap();
    addresses.create(&PostParams::default(), &address).await.unwrap();
    api.delete("more", &DeleteParams::default()).await.unwrap();
    until("more", "False", "Terminating").await;
    addresses
        .delete("10.250.0.7", &DeleteParams::default())
        .await
        .unwrap();
    let uid = made.metadata.uid.unwrap();
    let gone = await_condition(api.clone(), "more", conditions::is_deleted(&uid));
    tokio::time::timeout(Duration::from_secs(30), gone)
        .await
        .expect("in time")
        .unwrap();
    cluster.stop().await;
}
