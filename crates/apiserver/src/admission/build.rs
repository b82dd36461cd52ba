//! The list of plugins, in upstream's order.

use crate::admission::Chain;
use crate::config::ApiServerConfig;
use crate::resources::Resources;

/// Builds the chain once at start; plugins read the cluster through `resources`.
pub fn build(_config: &ApiServerConfig, _resources: &Resources) -> Chain {
    Chain::default()
}
