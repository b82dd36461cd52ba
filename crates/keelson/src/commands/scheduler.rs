//! `keelson kube-scheduler`: the scheduler alone.

use anyhow::{Context, Result};
use keelson_scheduler::{Config, Configuration};

use crate::cli::SchedulerArgs;
use crate::commands::{standalone, stop_signal};

/// Schedules until a signal or until another candidate leads.
pub(crate) async fn run(args: &SchedulerArgs) -> Result<()> {
    let stop = stop_signal()?;
    let file = match &args.config {
        None => None,
        Some(path) => {
            let text = standalone::read_text("config", path)?;
            let file = Configuration::parse(&text);
            Some(file.with_context(|| format!("--config {}", path.display()))?)
        }
    };
    let named = file.as_ref().and_then(|file| file.kubeconfig.as_ref());
    let kubeconfig = named
        .or(args.kubeconfig.as_ref())
        .context("no --kubeconfig is given, and --config names none")?;
    let client = keelson_client::client_from_kubeconfig(kubeconfig, "kube-scheduler").await?;
    let leader_elect = file.as_ref().and_then(|file| file.leader_elect);
    let config = Config {
        leader_election_identity: leader_elect
            .unwrap_or(args.leader_elect)
            .then(standalone::leader_identity),
        ..file.map(|file| file.config).unwrap_or_default()
    };
    keelson_scheduler::run(config, client, stop).await?;
    Ok(())
}
