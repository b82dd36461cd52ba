//! The provider of bare machines: load-balancer addresses from a pool, which the service proxy of every node answers.

use std::net::{IpAddr, Ipv4Addr};

use async_trait::async_trait;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, NodeAddress, Service};
use keelson_client::NamespacedName;
use parking_lot::Mutex;

use crate::{InstanceMetadata, Pool, Provider, ProviderError};

/// Where the kubelet says which address it was told to use.
const PROVIDED_NODE_IP: &str = "alpha.kubernetes.io/provided-node-ip";

/// The built-in provider.
pub struct BuiltIn {
    pool: Mutex<Pool>,
}

impl BuiltIn {
    /// Gives out addresses of `range`.
    pub fn new(range: Ipv4Net) -> Self {
        Self {
            pool: Mutex::new(Pool::new(range)),
        }
    }

    /// Takes note of what a Service holds already; call it for every Service before the first `ensure`.
    pub fn adopt(&self, service: &Service) {
        let mut pool = self.pool.lock();
        for address in held(service) {
            if let Err(error) = pool.take(&holder(service), Some(address)) {
                tracing::warn!(service = holder(service), %error, "an address that a Service has cannot be kept");
            }
        }
    }
}

fn holder(service: &Service) -> String {
    NamespacedName::of(service).to_string()
}

/// The addresses in the Service's status.
fn held(service: &Service) -> Vec<Ipv4Addr> {
    let ingress = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref())
        .and_then(|l| l.ingress.as_ref());
    ingress
        .into_iter()
        .flatten()
        .filter_map(|i| i.ip.as_ref()?.parse().ok())
        .collect()
}

#[async_trait]
impl Provider for BuiltIn {
    fn name(&self) -> &'static str {
        "keelson"
    }

    async fn ensure_load_balancer(
        &self,
        service: &Service,
    ) -> Result<Vec<LoadBalancerIngress>, ProviderError> {
        let spec = service.spec.as_ref();
        let families = spec.and_then(|s| s.ip_families.as_ref());
        if families.is_some_and(|families| families.iter().all(|family| family == "IPv6")) {
            return Err(ProviderError::Unsupported(
                "the load balancer range has no IPv6 addresses".into(),
            ));
        }
        let wanted = match spec
            .and_then(|s| s.load_balancer_ip.as_deref())
            .filter(|ip| !ip.is_empty())
        {
            Some(text) => Some(text.parse().map_err(|_| {
                ProviderError::Unsupported(format!("spec.loadBalancerIP {text} is not an IPv4 address"))
            })?),
            None => None,
        };
        let address = self.pool.lock().take(&holder(service), wanted)?;
        Ok(vec![LoadBalancerIngress {
            ip: Some(IpAddr::V4(address).to_string()),
            ip_mode: Some("VIP".into()),
            ..LoadBalancerIngress::default()
        }])
    }

    async fn delete_load_balancer(&self, service: &Service) -> Result<(), ProviderError> {
        self.pool.lock().release(&holder(service));
        Ok(())
    }

    async fn instance(&self, node: &Node) -> Result<Option<InstanceMetadata>, ProviderError> {
        let name = node.metadata.name.clone().unwrap_or_default();
        let provided = node
            .metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(PROVIDED_NODE_IP));
        let mut addresses: Vec<NodeAddress> = provided
            .into_iter()
            .flat_map(|list| list.split(','))
            .map(|ip| NodeAddress {
                type_: "InternalIP".into(),
                address: ip.trim().into(),
            })
            .collect();
        addresses.push(NodeAddress {
            type_: "Hostname".into(),
            address: name.clone(),
        });
        Ok(Some(InstanceMetadata {
            provider_id: format!("keelson://{name}"),
            addresses,
            zone: None,
            region: None,
        }))
    }
}
