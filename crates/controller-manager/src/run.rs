//! Leader election, then all controllers until the end.

use keelson_client::{LeaderElectionConfig, run_as_leader};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{CONTROLLERS, Config, Context};

/// Why the controller manager ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another candidate holds the lease, or it could not be renewed; upstream's process exits then, too.
    #[error("leaderelection lost")]
    LeadershipLost,
    /// A name in `disabled_controllers` is not in the list.
    #[error("{0:?} is not in the list of known controllers")]
    UnknownController(String),
}

/// Runs until `shutdown` is cancelled; all tasks have ended when it returns.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let known = |name: &str| CONTROLLERS.iter().any(|controller| controller.name == name);
    if let Some(name) = config.disabled_controllers.iter().find(|name| !known(name)) {
        return Err(Error::UnknownController(name.clone()));
    }
    let Some(election) = config.leader_election.clone() else {
        lead(config, shutdown).await;
        return Ok(());
    };
    let lease = LeaderElectionConfig::new("kube-controller-manager", election.identity);
    let client = config.informer_client.clone();
    run_as_leader(client, lease, shutdown.clone(), |leading| lead(config, leading)).await;
    if shutdown.is_cancelled() {
        Ok(())
    } else {
        Err(Error::LeadershipLost)
    }
}

async fn lead(config: Config, shutdown: CancellationToken) {
    let tracker = TaskTracker::new();
    let Some(first) = CONTROLLERS.first() else { return };
    let disabled = config.disabled_controllers.clone();
    let context = Context::new(config, first, tracker.clone(), shutdown.clone());
    for controller in CONTROLLERS {
        if disabled.contains(controller.name) {
            tracing::info!(controller = controller.name, "controller is disabled");
            continue;
        }
        let work = (controller.start)(context.of(controller));
        let shutdown = shutdown.clone();
        tracker.spawn(async move {
            work.await;
            if !shutdown.is_cancelled() {
                tracing::info!(
                    controller = controller.name,
                    "controller has nothing to do and ended"
                );
            }
        });
    }
    drop(context);
    shutdown.cancelled().await;
    tracker.close();
    tracker.wait().await;
}
