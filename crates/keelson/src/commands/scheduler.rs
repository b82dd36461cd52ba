//! `keelson kube-scheduler`: the scheduler alone.

use anyhow::Result;
use keelson_scheduler::Config;

use crate::cli::SchedulerArgs;
use crate::commands::{standalone, stop_signal};

/// Schedules until a signal or until another candidate leads.
pub(crate) async fn run(args: &SchedulerArgs) -> Result<()> {
    let stop = stop_signal()?;
    let client = keelson_client::client_from_kubeconfig(&args.kubeconfig).await?;
    let config = Config {
        leader_election_identity: args.leader_elect.then(standalone::leader_identity),
        ..Config::default()
    };
    keelson_scheduler::run(config, client, stop).await?;
    Ok(())
}
