//! Where the zone finds its objects.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_client::{Index, Informer, NamespacedName};

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The objects that names are made of.
pub trait Records: Send + Sync {
    /// Whether all objects are known; before that, nothing may be denied.
    fn ready(&self) -> bool;
    /// A Service by name.
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    /// The slices of a Service.
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>>;
    /// Whether there is such a namespace.
    fn has_namespace(&self, name: &str) -> bool;
    /// Services with that cluster address.
    fn services_of(&self, ip: IpAddr) -> Vec<Arc<Service>>;
    /// Slices with an endpoint of that address.
    fn slices_of(&self, ip: IpAddr) -> Vec<Arc<EndpointSlice>>;
}

/// [`Records`] over informers; nothing is copied, the indexes follow each change.
pub struct InformerRecords {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    namespaces: Informer<Namespace>,
    by_service: Index<NamespacedName, EndpointSlice>,
    by_cluster_ip: Index<IpAddr, Service>,
    by_endpoint_ip: Index<IpAddr, EndpointSlice>,
}

impl InformerRecords {
    /// Indexes informers that may be shared with others.
    pub fn new(
        services: Informer<Service>,
        slices: Informer<EndpointSlice>,
        namespaces: Informer<Namespace>,
    ) -> Self {
        let by_service = slices.index(|s: &EndpointSlice| service_of(s).into_iter().collect());
        let by_cluster_ip = services.index(|s: &Service| cluster_ips(s));
        let by_endpoint_ip = slices.index(|s: &EndpointSlice| {
            let all = s.endpoints.iter().flatten().flat_map(|e| &e.addresses);
            let mut ips: Vec<IpAddr> = all.filter_map(|a| a.parse().ok()).collect();
            ips.sort();
            ips.dedup();
            ips
        });
        InformerRecords {
            services,
            slices,
            namespaces,
            by_service,
            by_cluster_ip,
            by_endpoint_ip,
        }
    }
}

/// The Service that a slice belongs to.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<NamespacedName> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some(NamespacedName::new(
        slice.metadata.namespace.as_deref().unwrap_or_default(),
        name,
    ))
}

/// The cluster addresses of a Service; none for a headless one.
pub(crate) fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let mut ips: Vec<IpAddr> = match &spec.cluster_ips {
        Some(ips) if !ips.is_empty() => ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        _ => spec.cluster_ip.iter().filter_map(|ip| ip.parse().ok()).collect(),
    };
    ips.dedup();
    ips
}

impl Records for InformerRecords {
    fn ready(&self) -> bool {
        self.services.has_synced() && self.slices.has_synced() && self.namespaces.has_synced()
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(&NamespacedName::new(namespace, name))
    }

    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        self.by_service.get(&NamespacedName::new(namespace, service))
    }

    fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.get(&NamespacedName::new("", name)).is_some()
    }

    fn services_of(&self, ip: IpAddr) -> Vec<Arc<Service>> {
        self.by_cluster_ip.get(&ip)
    }

    fn slices_of(&self, ip: IpAddr) -> Vec<Arc<EndpointSlice>> {
        self.by_endpoint_ip.get(&ip)
    }
}
