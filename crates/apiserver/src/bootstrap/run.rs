//! The post-start hook.

use crate::config::ApiServerConfig;
use crate::registry::Registry;

/// Runs before the server reports ready; creates and reconciles through `registry` (no authorization, no admission).
/// Must be idempotent and safe when several servers run it at once.
pub async fn run(_config: &ApiServerConfig, _registry: &Registry) -> Result<(), keelson_api::status::Status> {
    Ok(())
}
