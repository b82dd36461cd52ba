//! Starting the controllers.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use keelson_client::{
    EventRecorder, EventSource, Informer, InformerOptions, LeaderElectionConfig, run_as_leader,
};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{BuiltIn, Provider, node, service};

/// What the controllers are told.
pub struct Config {
    /// The place to run in.
    pub provider: Arc<BuiltIn>,
    /// Hold the lease `cloud-controller-manager` under this name; `None` runs without one.
    pub leader_identity: Option<String>,
}

/// Runs the controllers until `shutdown`.
pub async fn run(config: Config, client: Client, shutdown: CancellationToken) {
    let provider = config.provider;
    match config.leader_identity {
        None => lead(provider, client, shutdown).await,
        Some(identity) => {
            let election = LeaderElectionConfig::new("cloud-controller-manager", identity);
            let clients = client.clone();
            run_as_leader(client, election, shutdown, |token| lead(provider, clients, token)).await;
        }
    }
}

async fn lead(provider: Arc<BuiltIn>, client: Client, shutdown: CancellationToken) {
    let tracker = TaskTracker::new();
    let all = InformerOptions::default();
    let services: Informer<Service> =
        Informer::spawn(Api::all(client.clone()), all.clone(), &tracker, &shutdown);
    let nodes: Informer<Node> = Informer::spawn(Api::all(client.clone()), all, &tracker, &shutdown);
    let source = EventSource {
        component: "service-controller".into(),
        host: None,
    };
    let recorder = EventRecorder::start(client.clone(), source, &tracker, shutdown.clone());
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = async { tokio::join!(services.synced(), nodes.synced()); } => {
            // What was given out before a restart must not be given out again.
            services.list().iter().for_each(|service| provider.adopt(service));
            let provider: Arc<dyn Provider> = provider;
            tokio::join!(
                service::run(provider.clone(), client.clone(), services, recorder, shutdown.clone()),
                node::run(provider, client, nodes, shutdown.clone()),
            );
        }
    }
    tracker.close();
    tracker.wait().await;
}
