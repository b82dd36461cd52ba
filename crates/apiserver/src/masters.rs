//! What the server keeps about itself in the cluster: the `kubernetes` Service and its endpoints.

use std::net::IpAddr;

use keelson_api::status::Status;
use serde_json::{Value, json};

use crate::admission::Notes;
use crate::registry::{Context, Kind, Registry, Update, metadata};
use crate::user::UserInfo;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Creates the namespaces that always exist, the mandatory flow control objects and the ServiceCIDR.
pub(crate) async fn defaults(registry: &Registry, cidrs: &[String]) -> Result<(), Status> {
    for name in NAMESPACES {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ensure(registry, "", "namespaces", "", object).await?;
    }
    for (resource, object) in crate::flow::mandatory() {
        ensure(registry, "flowcontrol.apiserver.k8s.io", resource, "", object).await?;
    }
    let cidr = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes", "finalizers": ["networking.k8s.io/service-cidr-finalizer"]},
        "spec": {"cidrs": cidrs}});
    ensure(registry, "networking.k8s.io", "servicecidrs", "", cidr).await
}

/// Creates an object unless it is there.
async fn ensure(
    registry: &Registry,
    group: &str,
    resource: &str,
    namespace: &str,
    object: Value,
) -> Result<(), Status> {
    let kind = registry.kind(group, "v1", resource);
    let kind = kind.ok_or_else(|| Status::internal(format!("{resource} is not served")))?;
    let name = metadata::text(&object, "name").to_owned();
    if registry
        .resources()
        .resource(group, resource)
        .get(namespace, &name)
        .is_some()
    {
        return Ok(());
    }
    let (user, notes) = (UserInfo::api_server(), Notes::default());
    let cx = Context::internal(&user, &notes);
    let object = defaulted(&kind, object)?;
    match registry.create(&cx, &kind, namespace, object).await {
        Err(status) if status.reason == keelson_api::status::Reason::AlreadyExists => Ok(()),
        other => other.map(drop),
    }
}

fn defaulted(kind: &Kind, object: Value) -> Result<Value, Status> {
    use crate::registry::{model, options::FieldValidation};
    model::finish_decode(
        &kind.gvk,
        kind.schema()?,
        object,
        &[],
        FieldValidation::Ignore,
        &Notes::default(),
    )
}

/// Keeps `default/kubernetes`: the Service, its Endpoints and its EndpointSlice name this server's address.
pub(crate) async fn kubernetes_service(
    registry: &Registry,
    service_ip: IpAddr,
    address: IpAddr,
    port: u16,
) -> Result<(), Status> {
    let family = if service_ip.is_ipv6() { "IPv6" } else { "IPv4" };
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": service_ip.to_string(), "type": "ClusterIP", "sessionAffinity": "None",
            "ipFamilies": [family], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]}});
    ensure(registry, "", "services", "default", service).await?;
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": address.to_string()}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]});
    put(registry, "", "endpoints", endpoints, "subsets").await?;
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family,
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}]});
    put(registry, "discovery.k8s.io", "endpointslices", slice, "endpoints").await
}

/// Creates an object of namespace `default`, or makes `field` (and `ports`) what it shall be.
async fn put(
    registry: &Registry,
    group: &str,
    resource: &str,
    object: Value,
    field: &str,
) -> Result<(), Status> {
    ensure(registry, group, resource, "default", object.clone()).await?;
    let kind = registry.kind(group, "v1", resource);
    let kind = kind.ok_or_else(|| Status::internal(format!("{resource} is not served")))?;
    let (user, notes) = (UserInfo::api_server(), Notes::default());
    let cx = Context::internal(&user, &notes);
    let update = Update {
        namespace: "default",
        name: metadata::text(&object, "name"),
        subresource: "",
        may_create: false,
        apply: false,
    };
    let wanted = defaulted(&kind, object.clone())?;
    let result = registry.update(&cx, &kind, &update, |old| {
        let mut new = old.cloned().unwrap_or_default();
        for field in [field, "ports"] {
            if let Some(value) = wanted.get(field) {
                new[field] = value.clone();
            }
        }
        Ok(new)
    });
    result.await.map(drop)
}
