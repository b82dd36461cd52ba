//! From a Service to an address that can be dialled.

use keelson_api::status::Status;
use serde_json::Value;

use crate::resources::Resources;

/// A port of a Service, as APIServices and webhook configurations refer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceRef {
    /// Namespace of the Service.
    pub(crate) namespace: String,
    /// Name of the Service.
    pub(crate) name: String,
    /// Port number of the Service.
    pub(crate) port: u16,
}

impl ServiceRef {
    /// Reads `{namespace, name, port}`; the port is 443 unless said.
    pub(crate) fn of(value: &Value) -> Option<Self> {
        let text = |field: &str| value[field].as_str().map(str::to_owned);
        Some(Self {
            namespace: text("namespace")?,
            name: text("name")?,
            port: value["port"]
                .as_u64()
                .and_then(|p| u16::try_from(p).ok())
                .unwrap_or(443),
        })
    }

    /// The name that the server's certificate must have.
    pub(crate) fn server_name(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }
}

/// The address of a ready endpoint of the Service; of several a random one. A Service without endpoint slices is reached
/// through its cluster address, one of type ExternalName through its name.
pub(crate) fn resolve(resources: &Resources, service: &ServiceRef) -> Result<(String, u16), Status> {
    let (namespace, name) = (service.namespace.as_str(), service.name.as_str());
    let object = resources.resource("", "services").get(namespace, name);
    let object = object
        .ok_or_else(|| Status::not_found(&keelson_api::gvk::GroupResource::new("", "service"), name))?;
    let spec = &object.value()["spec"];
    if spec["type"] == "ExternalName" {
        let host = spec["externalName"].as_str().unwrap_or_default();
        return Ok((host.to_owned(), service.port));
    }
    let port = spec["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|p| p["port"].as_u64() == Some(u64::from(service.port)));
    let Some(port) = port else {
        return Err(Status::service_unavailable(format!(
            "no service port {} found for service {name:?}",
            service.port
        )));
    };
    let port_name = port["name"].as_str().unwrap_or_default();
    let (addresses, slices) = endpoints(resources, namespace, name, port_name);
    if !addresses.is_empty() {
        let at = rand::random_range(0..addresses.len());
        return Ok(addresses[at].clone());
    }
    let cluster_ip = spec["clusterIP"].as_str().unwrap_or_default();
    if slices == 0 && !matches!(cluster_ip, "" | "None") {
        return Ok((cluster_ip.to_owned(), service.port));
    }
    Err(Status::service_unavailable(format!(
        "no endpoints available for service {name:?}"
    )))
}

/// Addresses of the ready endpoints of a Service's port, and how many slices the Service has.
pub(crate) fn endpoints(
    resources: &Resources,
    namespace: &str,
    name: &str,
    port_name: &str,
) -> (Vec<(String, u16)>, usize) {
    let mut found = Vec::new();
    let mut count = 0;
    for slice in resources
        .resource("discovery.k8s.io", "endpointslices")
        .list(Some(namespace))
    {
        if slice.label("kubernetes.io/service-name") != Some(name) {
            continue;
        }
        count += 1;
        let slice = slice.value();
        let number = slice["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|p| p["name"].as_str().unwrap_or_default() == port_name)
            .find_map(|p| u16::try_from(p["port"].as_u64()?).ok());
        let Some(number) = number else { continue };
        let ready = slice["endpoints"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|e| e["conditions"]["ready"] != false);
        found.extend(ready.filter_map(|e| Some((e["addresses"][0].as_str()?.to_owned(), number))));
    }
    (found, count)
}
