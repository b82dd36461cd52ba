//! Endpoint slices against a real API server.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use support::Cluster;

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
