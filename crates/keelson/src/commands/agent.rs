//! `keelson agent`.

use anyhow::Result;
use keelson_cluster::agent::{self, AgentOptions};
use keelson_cluster::preflight;

use crate::cli::{AgentArgs, Global};
use crate::commands::stop_signal;

/// Joins and runs until a signal.
pub(crate) async fn run(global: &Global, args: AgentArgs) -> Result<()> {
    preflight::require_root()?;
    preflight::require_kernel()?;
    let name = match args.node_name {
        Some(name) => name,
        None => preflight::host_name()?,
    };
    let options = AgentOptions {
        paths: global.paths(),
        server: args.server,
        token: args.token,
        name,
        ip: args.node_ip,
        registries: args.registries,
        container_runtime_endpoint: args.container_runtime_endpoint,
    };
    agent::run(options, stop_signal()?).await?;
    Ok(())
}
