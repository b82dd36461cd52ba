//! The DNS server as a component of a node.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_client::{Informer, InformerOptions};
use keelson_sys::netns::NetNs;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Forwarder, InformerRecords, Server, Zone};
use crate::rtnl::Rtnl;

/// Settings of the DNS server of one node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Network namespace of the node; `None` is the process's own.
    pub netns: Option<PathBuf>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// Cluster DNS addresses: they are put on `lo` of the node and served on port 53.
    pub cluster_addresses: Vec<IpAddr>,
    /// Further addresses to serve.
    pub other_addresses: Vec<SocketAddr>,
    /// Ranges of pods and Services: reverse names within are never asked upstream.
    pub ranges: Vec<IpNet>,
    /// Where the upstream resolvers are listed.
    pub resolv_conf: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        let nets = ["10.244.0.0/16", "10.96.0.0/12"];
        Config {
            netns: None,
            cluster_domain: "cluster.local".into(),
            cluster_addresses: vec![IpAddr::from([10, 96, 0, 10])],
            other_addresses: Vec::new(),
            ranges: nets
                .iter()
                .map(|n| n.parse().expect("invariant: a literal network"))
                .collect(),
            resolv_conf: "/etc/resolv.conf".into(),
        }
    }
}

/// Why the DNS server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The domain is not a name.
    #[error("invalid cluster domain {0:?}")]
    Domain(String),
    /// The node's network namespace could not be entered.
    #[error("network namespace of the node: {0}")]
    Namespace(#[source] io::Error),
    /// The address could not be put on `lo`.
    #[error("cannot put the cluster DNS address on lo: {0}")]
    Address(#[source] io::Error),
    /// The port is taken or the address is not there.
    #[error("cannot serve DNS on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
}

fn bind(address: SocketAddr) -> io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let udp = std::net::UdpSocket::bind(address)?;
    udp.set_nonblocking(true)?;
    let tcp = std::net::TcpListener::bind(udp.local_addr()?)?;
    tcp.set_nonblocking(true)?;
    Ok((udp, tcp))
}

fn put_on_loopback(addresses: &[IpAddr]) -> io::Result<()> {
    let work = || {
        let mut rtnl = Rtnl::open()?;
        let lo = rtnl.link("lo")?;
        rtnl.set_up(lo.index)?;
        addresses
            .iter()
            .try_for_each(|ip| rtnl.add_address(lo.index, IpNet::from(*ip)))
    };
    work().map_err(io::Error::other)
}

/// Serves cluster DNS on this node until `shutdown`.
pub async fn run(config: Config, client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    let zone = Zone::new(
        &config.cluster_domain,
        config.cluster_addresses.clone(),
        config.ranges.clone(),
    )
    .ok_or_else(|| Error::Domain(config.cluster_domain.clone()))?;
    let netns = match &config.netns {
        Some(path) => NetNs::open(path),
        None => NetNs::current(),
    }
    .map_err(Error::Namespace)?;
    let own: Vec<SocketAddr> = config
        .cluster_addresses
        .iter()
        .map(|ip| SocketAddr::new(*ip, 53))
        .chain(config.other_addresses.iter().copied())
        .collect();
    let sockets = {
        let (netns, own, on_lo) = (netns.clone(), own.clone(), config.cluster_addresses.clone());
        let work = move || {
            netns.run(move || {
                if let Err(e) = put_on_loopback(&on_lo) {
                    return Ok(Err(Error::Address(e)));
                }
                let all = own
                    .iter()
                    .map(|a| bind(*a).map_err(|source| Error::Listen { address: *a, source }));
                Ok(all.collect::<Result<Vec<_>, _>>())
            })
        };
        let done = tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| Error::Namespace(io::Error::other(e)))?;
        done.map_err(Error::Namespace)??
    };
    let (services, service_task) =
        Informer::<Service>::new(Api::all(client.clone()), InformerOptions::default());
    let (slices, slice_task) =
        Informer::<EndpointSlice>::new(Api::all(client.clone()), InformerOptions::default());
    let (namespaces, namespace_task) =
        Informer::<Namespace>::new(Api::all(client), InformerOptions::default());
    let records = Arc::new(InformerRecords::new(services, slices, namespaces));
    // In the process's own namespace sockets need no detour.
    let upstream_netns = config.netns.is_some().then_some(netns);
    let forwarder = Forwarder::new(config.resolv_conf.clone(), own.clone(), upstream_netns);
    let server = Arc::new(Server::new(zone, records, forwarder));
    let tracker = TaskTracker::new();
    let stop = shutdown.child_token();
    let _guard = stop.clone().drop_guard();
    tracker.spawn(service_task.run(stop.clone()));
    tracker.spawn(slice_task.run(stop.clone()));
    tracker.spawn(namespace_task.run(stop.clone()));
    for (address, (udp, tcp)) in own.into_iter().zip(sockets) {
        let fail = |source| Error::Listen { address, source };
        let udp = tokio::net::UdpSocket::from_std(udp).map_err(fail)?;
        let tcp = tokio::net::TcpListener::from_std(tcp).map_err(fail)?;
        tracker.spawn(server.clone().serve_udp(udp, stop.clone()));
        tracker.spawn(server.clone().serve_tcp(tcp, stop.clone()));
    }
    tracker.close();
    tracker.wait().await;
    Ok(())
}
