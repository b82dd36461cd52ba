//! From a pod's change to the services whose endpoints may change.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Pod, Service};
use keelson_client::{Change, Index, Informer, NamespacedName};

use crate::shared::owner::is_deleting;
use crate::shared::pod::{is_finished, is_ready, node_name};

/// The services of each namespace.
pub(crate) struct ServicesOfPods {
    by_namespace: Index<String, Service>,
}

impl ServicesOfPods {
    pub(crate) fn new(services: &Informer<Service>) -> Self {
        let by_namespace =
            services.index(|service: &Service| vec![service.metadata.namespace.clone().unwrap_or_default()]);
        Self { by_namespace }
    }

    /// The services that select the pod.
    pub(crate) fn of(&self, pod: &Pod) -> HashSet<NamespacedName> {
        let services = self
            .by_namespace
            .get(pod.metadata.namespace.as_deref().unwrap_or_default());
        let selecting = services.iter().filter(|service| selects(service, pod));
        selecting
            .map(|service| NamespacedName::of(service.as_ref()))
            .collect()
    }

    /// The services that the change touches.
    pub(crate) fn affected(&self, change: &Change<Pod>) -> HashSet<NamespacedName> {
        match change {
            Change::Added(pod) | Change::Deleted(pod) => self.of(pod),
            Change::Updated(old, new) if is_same_endpoint(old, new) => {
                if old.metadata.labels == new.metadata.labels {
                    return HashSet::new();
                }
                let (before, after) = (self.of(old), self.of(new));
                before.symmetric_difference(&after).cloned().collect()
            }
            Change::Updated(old, new) => &self.of(old) | &self.of(new),
        }
    }
}

/// Whether the service's selector fits the pod's labels.
pub(crate) fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else {
        return false;
    };
    let labels = pod.metadata.labels.as_ref();
    !selector.is_empty()
        && selector
            .iter()
            .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

fn is_same_endpoint(old: &Pod, new: &Pod) -> bool {
    let ips = |pod: &Pod| {
        pod.status
            .as_ref()
            .map(|status| (status.pod_ip.clone(), status.pod_ips.clone()))
    };
    let host = |pod: &Pod| {
        pod.spec
            .as_ref()
            .map(|spec| (spec.hostname.clone(), spec.subdomain.clone()))
    };
    is_ready(old) == is_ready(new)
        && is_deleting(old) == is_deleting(new)
        && is_finished(old) == is_finished(new)
        && node_name(old) == node_name(new)
        && ips(old) == ips(new)
        && host(old) == host(new)
}
