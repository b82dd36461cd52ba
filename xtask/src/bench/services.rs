//! How long a change of an endpoint takes to reach the kernel.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};
use serde_json::json;

use crate::cluster::{Cluster, run};
use crate::context::{Context, Measurement};
use crate::figure::{Figure, Unit, median, percentile};

/// See [`crate::MEASUREMENTS`].
pub(crate) const MEASUREMENTS: &[Measurement] = &[Measurement {
    name: "services",
    doc: "1,000 Services of 10 endpoints each: from sending the patch of one EndpointSlice until the kernel tells (netlink) of the rule with the new address",
    run: |context| services(context).boxed(),
}];

const ENDPOINTS: u8 = 10;
/// Longest wait for the kernel.
const PATIENCE: Duration = Duration::from_secs(120);

async fn services(context: &Context) -> Result<Vec<Figure>> {
    let (count, rounds) = (context.rounds(1000, 20), context.rounds(100, 3));
    let cluster = Cluster::start(context, 1).await?;
    let kernel = Kernel::listen()?;
    create(&cluster, count).await?;
    let slices: Api<EndpointSlice> = Api::namespaced(cluster.client.clone(), "default");
    // Everything that was created is in the kernel when a change of the last one is.
    let mut times = Vec::with_capacity(rounds);
    for round in 0..=rounds {
        let number = (count - 1 + round * 37) % count;
        let address = Ipv4Addr::new(10, 244, 200, u8::try_from(round % 250)? + 1);
        let patch = json!({"endpoints": endpoints(number, Some(address))});
        let name = format!("s-{number}");
        kernel.expect(address)?;
        let started = Instant::now();
        slices
            .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        let seen = tokio::task::block_in_place(|| kernel.seen())?;
        if round > 0 {
            times.push(seen.duration_since(started));
        }
    }
    let (load, lines) = whole_table(context, count)?;
    cluster.stop()?;
    Ok(vec![
        Figure::new(
            "1,000 Services x 10 endpoints: one changes, rule in the kernel",
            Unit::Seconds,
            percentile(&times, 0.5),
        )
        .bounds(0.74, 0.02, 0.002)
        .peer(format!("`nft -f` of a whole table ({lines} lines)"), load)
        .note(format!(
            "median of {rounds}, p99 {}; the write to the API and its fsync are within",
            Unit::Seconds.show(percentile(&times, 0.99))
        )),
    ])
}

/// Services without selectors, and their slices.
async fn create(cluster: &Cluster, count: usize) -> Result<()> {
    let services: Api<Service> = Api::namespaced(cluster.client.clone(), "default");
    let slices: Api<EndpointSlice> = Api::namespaced(cluster.client.clone(), "default");
    let parameters = PostParams::default();
    futures::stream::iter(0..count)
        .map(|number| {
            let (services, slices, parameters) = (&services, &slices, &parameters);
            async move {
                let name = format!("s-{number}");
                let service = serde_json::from_value(json!({
                    "metadata": {"name": name},
                    "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
                }))?;
                services.create(parameters, &service).await?;
                let slice = serde_json::from_value(json!({
                    "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
                    "addressType": "IPv4",
                    "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
                    "endpoints": endpoints(number, None),
                }))?;
                slices.create(parameters, &slice).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(16)
        .try_collect()
        .await
}

/// Ten endpoints of the Service `number`; the first may have another address.
fn endpoints(number: usize, first: Option<Ipv4Addr>) -> serde_json::Value {
    let ours = (0..ENDPOINTS).map(|endpoint| {
        let index = number * usize::from(ENDPOINTS) + usize::from(endpoint);
        let address = first.filter(|_| endpoint == 0).unwrap_or(own_address(index));
        json!({"addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false}})
    });
    ours.collect()
}

/// The address of an endpoint that has not been changed.
fn own_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, (index / 250) as u8, (index % 250 + 1) as u8)
}

/// Loads a table of as many Services into an empty network namespace with `nft`: a map of addresses, a chain for each Service
/// and one for each endpoint, as upstream's nftables mode lays it out. The median time, and the table's lines.
fn whole_table(context: &Context, count: usize) -> Result<(f64, usize)> {
    let file = context.scratch.join("ruleset.nft");
    let rules = table(count);
    std::fs::write(&file, &rules)?;
    let mut times = Vec::new();
    for _ in 0..context.rounds(5, 1) {
        let started = Instant::now();
        run(Command::new("unshare").args(["--net", "nft", "-f"]).arg(&file))?;
        times.push(started.elapsed().as_secs_f64());
    }
    Ok((median(&times), rules.lines().count()))
}

fn table(count: usize) -> String {
    let (mut chains, mut elements) = (String::new(), String::new());
    for service in 0..count {
        let mut verdicts = Vec::new();
        for endpoint in 0..usize::from(ENDPOINTS) {
            let address = own_address(service * usize::from(ENDPOINTS) + endpoint);
            chains +=
                &format!("chain e{service}-{endpoint} {{\n meta l4proto tcp dnat to {address}:8080\n}}\n");
            verdicts.push(format!("{endpoint} : goto e{service}-{endpoint}"));
        }
        let verdicts = verdicts.join(", ");
        chains += &format!("chain s{service} {{\n numgen random mod {ENDPOINTS} vmap {{ {verdicts} }}\n}}\n");
        let (high, low) = (service / 250, service % 250 + 1);
        elements += &format!("10.100.{high}.{low} . tcp . 80 : goto s{service},\n");
    }
    format!(
        "table ip bench {{\n{chains}map services {{\ntype ipv4_addr . inet_proto . inet_service : verdict\n\
         elements = {{\n{elements}}}\n}}\nchain prerouting {{\ntype nat hook prerouting priority dstnat\n\
         ip daddr . meta l4proto . th dport vmap @services\n}}\n}}\n"
    )
}

/// The kernel's announcements of changes in nf_tables.
struct Kernel {
    expected: Sender<Ipv4Addr>,
    seen: Receiver<Instant>,
}

impl Kernel {
    /// Joins the multicast group NFNLGRP_NFTABLES and reads it on a thread.
    fn listen() -> Result<Self> {
        const NFNLGRP_NFTABLES: u32 = 7;
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        bind(
            socket.as_raw_fd(),
            &NetlinkAddr::new(0, 1 << (NFNLGRP_NFTABLES - 1)),
        )?;
        setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))?;
        let (expected, wanted) = channel::<Ipv4Addr>();
        let (send, seen) = channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            let mut address = None;
            // Ends with the receiver of `send`, or with the program.
            loop {
                let length = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    Ok(length) => length,
                    // Announcements were lost while thousands of rules were loaded: none that is waited for.
                    Err(nix::errno::Errno::ENOBUFS) => continue,
                    Err(_) => return,
                };
                let now = Instant::now();
                address = wanted.try_iter().last().or(address);
                let Some(octets) = address.map(|address: Ipv4Addr| address.octets()) else {
                    continue;
                };
                if buffer[..length].windows(4).any(|window| window == octets) {
                    address = None;
                    if send.send(now).is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Self { expected, seen })
    }

    /// The next announcement to wait for: one that holds `address`.
    fn expect(&self, address: Ipv4Addr) -> Result<()> {
        self.expected.send(address).context("the listener has ended")
    }

    /// When it came.
    fn seen(&self) -> Result<Instant> {
        self.seen
            .recv_timeout(PATIENCE)
            .context("the kernel was not told of the new endpoint")
    }
}
