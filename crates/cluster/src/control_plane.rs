//! Scheduler and controllers of the server process, each under its own name.

use std::sync::Arc;

use ipnet::IpNet;
use keelson_apiserver::{ApiServer, LocalApi};
use keelson_cloud_controller_manager as cloud;
use keelson_controller_manager as controllers;
use keelson_metrics_server::MetricsServer;
use keelson_pki::Pki;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::identities::Identities;
use crate::server::Error;
use crate::settings::ClusterSettings;

/// Adds the parts of the control plane to `parts`.
pub(crate) fn spawn(
    parts: &mut JoinSet<Result<(), Error>>,
    settings: &ClusterSettings,
    pki: &Pki,
    api: &ApiServer,
    stop: &CancellationToken,
) {
    let identities = Identities::new(api.clone());
    let scheduler = identities.client("kube-scheduler", "system:kube-scheduler", &[]);
    let token = stop.clone();
    parts.spawn(async move {
        let result = keelson_scheduler::run(keelson_scheduler::Config::default(), scheduler, token).await;
        result.map_err(|source| Error::Component {
            component: "kube-scheduler",
            source: source.into(),
        })
    });

    let token = stop.clone();
    let manager = controller_manager_config(settings, pki, &identities);
    parts.spawn(async move {
        let result = controllers::run(manager, token).await;
        result.map_err(|source| Error::Component {
            component: "kube-controller-manager",
            source: source.into(),
        })
    });

    let metrics =
        MetricsServer::new(identities.client("metrics-server", "system:keelson-metrics-server", &[]));
    let (api, token) = (api.clone(), stop.clone());
    parts.spawn(async move {
        let local = LocalApi::new("metrics.k8s.io", "v1beta1", metrics.clone());
        api.serve_locally(local)
            .await
            .map_err(|source| Error::Component {
                component: "metrics-server",
                source: source.into(),
            })?;
        metrics.run(token).await;
        Ok(())
    });

    let client = identities.client("cloud-controller-manager", "system:cloud-controller-manager", &[]);
    let provider = Arc::new(cloud::BuiltIn::new(settings.load_balancer_cidr));
    let token = stop.clone();
    parts.spawn(async move {
        cloud::run(
            cloud::Config {
                provider,
                leader_identity: None,
            },
            client,
            token,
        )
        .await;
        Ok(())
    });
}

fn controller_manager_config(
    settings: &ClusterSettings,
    pki: &Pki,
    identities: &Identities,
) -> controllers::Config {
    const COMPONENT: &str = "kube-controller-manager";
    let client = identities.client(COMPONENT, "system:kube-controller-manager", &[]);
    let mut config = controllers::Config::new(client);
    let per_controller = identities.clone();
    config.client = Arc::new(move |name| per_controller.service_account(COMPONENT, "kube-system", name));
    config.cluster_cidrs = vec![IpNet::V4(settings.cluster_cidr)];
    config.allocate_node_cidrs = true;
    config.service_cidrs = vec![IpNet::V4(settings.service_cidr)];
    config.signing_ca = Some(Arc::new(pki.ca.clone()));
    config.root_ca_pem = Some(pki.ca.certificate().to_pem());
    config.service_account_key_pem = Some(pki.service_account_key.to_pem().to_string());
    config
}
