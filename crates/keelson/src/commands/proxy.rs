//! `keelson kube-proxy`: the service proxy alone.

use anyhow::Result;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use keelson_client::{Informer, InformerOptions};
use keelson_cluster::preflight;
use keelson_kube_proxy::Config;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use crate::cli::ProxyArgs;
use crate::commands::{standalone, stop_signal};

/// Keeps the kernel's rules in step until a signal; they stay afterwards.
pub(crate) async fn run(args: ProxyArgs) -> Result<()> {
    preflight::require_root()?;
    let stop = stop_signal()?;
    let mut config = Config::new(&standalone::node_name(args.hostname_override.as_deref())?);
    config.cluster_cidrs = args.cluster_cidr;
    config.node_port_addresses = args.nodeport_addresses;
    config.healthz_bind_address = Some(args.healthz_bind_address);
    config.metrics_bind_address = Some(args.metrics_bind_address);
    let client = keelson_client::client_from_kubeconfig(&args.kubeconfig, "kube-proxy").await?;
    config.service_cidrs = service_cidrs(client.clone(), &stop).await;
    config.ipv6 = config.service_cidrs.iter().any(|range| range.addr().is_ipv6());
    tracing::info!(node = config.node_name, mode = args.proxy_mode, ranges = ?config.service_cidrs, "starting the proxy");
    keelson_kube_proxy::run(config, client, stop).await?;
    Ok(())
}

/// The ranges of Services as the API has them; waits until it answers. Empty when `stop` comes first.
async fn service_cidrs(client: Client, stop: &CancellationToken) -> Vec<IpNet> {
    let stop = stop.child_token();
    let (ranges, watch) = Informer::<ServiceCIDR>::new(Api::all(client), InformerOptions::default());
    tokio::select! {
        () = watch.run(stop.clone()) => return Vec::new(),
        () = ranges.synced() => {}
    }
    let texts = ranges.list();
    let specs = texts
        .iter()
        .filter_map(|range| range.spec.as_ref()?.cidrs.as_ref());
    specs.flatten().filter_map(|cidr| cidr.parse().ok()).collect()
}
