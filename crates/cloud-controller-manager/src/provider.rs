//! The contract between the controllers and a place to run in.

use std::net::IpAddr;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, NodeAddress, Service};

/// The provider could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// No address is left.
    #[error("no address left in {0}")]
    PoolExhausted(String),
    /// The address that the Service asks for is not to be had.
    #[error("address {address} {problem}")]
    Address {
        /// What was asked for.
        address: IpAddr,
        /// Why not.
        problem: &'static str,
    },
    /// The Service asks for what this provider cannot do.
    #[error("{0}")]
    Unsupported(String),
}

/// What a provider knows of a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceMetadata {
    /// `spec.providerID`.
    pub provider_id: String,
    /// `status.addresses`.
    pub addresses: Vec<NodeAddress>,
    /// `topology.kubernetes.io/zone`, where there is one.
    pub zone: Option<String>,
    /// `topology.kubernetes.io/region`, where there is one.
    pub region: Option<String>,
}

/// A place to run in. Every call is idempotent.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// Name, the scheme of provider IDs.
    fn name(&self) -> &'static str;

    /// Makes or keeps the load balancer of `service` and returns its addresses.
    async fn ensure_load_balancer(
        &self,
        service: &Service,
    ) -> Result<Vec<LoadBalancerIngress>, ProviderError>;

    /// Takes the load balancer of `service` away.
    async fn delete_load_balancer(&self, service: &Service) -> Result<(), ProviderError>;

    /// What is known of the machine behind `node`; `None` when there is no such machine any more.
    async fn instance(&self, node: &Node) -> Result<Option<InstanceMetadata>, ProviderError>;
}
