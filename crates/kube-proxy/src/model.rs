//! What Service and EndpointSlice objects mean for one node and one address family. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_nftables::proto;

/// Services and slices with this label belong to another proxy.
pub(crate) const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Upstream's default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: u32 = 10_800;

/// Address and port of an endpoint.
pub type Target = (IpAddr, u16);

/// Where this proxy runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Name of the node.
    pub node: String,
    /// Its `topology.kubernetes.io/zone` label.
    pub zone: Option<String>,
}

/// One endpoint of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address and port.
    pub target: Target,
    /// Takes new connections.
    pub ready: bool,
    /// Would take them, were it not terminating.
    pub serving: bool,
    /// Is being deleted.
    pub terminating: bool,
    /// Runs on this node.
    pub local: bool,
    /// Zones that should use it; empty when there is no hint.
    pub zones: BTreeSet<String>,
    /// Nodes that should use it; empty when there is no hint.
    pub nodes: BTreeSet<String>,
}

/// One port of one Service, as seen by one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `namespace/name/protocol/port name`, as upstream writes it in names of chains.
    pub id: String,
    /// IP protocol.
    pub proto: u8,
    /// Port of cluster, external and load-balancer addresses.
    pub port: u16,
    /// Cluster addresses of the family.
    pub cluster_ips: Vec<IpAddr>,
    /// External and load-balancer addresses of the family.
    pub external_ips: Vec<IpAddr>,
    /// Those of them that are load-balancer addresses: source ranges apply.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Node port, 0 for none.
    pub node_port: u16,
    /// Who may use the load-balancer addresses; empty: everyone.
    pub source_ranges: Vec<IpNet>,
    /// Seconds that a client stays with its endpoint.
    pub affinity_seconds: Option<u32>,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// Endpoints for traffic that may go anywhere.
    pub cluster_endpoints: BTreeSet<Target>,
    /// Endpoints on this node for traffic that must stay.
    pub local_endpoints: BTreeSet<Target>,
    /// Whether any endpoint anywhere is usable: without one, clients are refused instead of ignored.
    pub has_endpoints: bool,
    /// All endpoints that may hold established flows.
    pub serving: BTreeSet<Target>,
}

impl ServicePort {
    /// Whether it is reached other than by its cluster addresses.
    pub fn externally_accessible(&self) -> bool {
        self.node_port != 0 || !self.external_ips.is_empty()
    }
}

/// Health check of a Service with `externalTrafficPolicy: Local`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `healthCheckNodePort`.
    pub port: u16,
    /// Distinct ready endpoints on this node.
    pub local_endpoints: usize,
}

/// Everything of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceModel {
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its health check, if it has one.
    pub health_check: Option<HealthCheck>,
}

fn protocol(name: Option<&str>) -> Option<(u8, &'static str)> {
    match name.unwrap_or("TCP") {
        "TCP" => Some((proto::TCP, "tcp")),
        "UDP" => Some((proto::UDP, "udp")),
        "SCTP" => Some((proto::SCTP, "sctp")),
        _ => None,
    }
}

fn port_number(port: Option<i32>) -> u16 {
    port.and_then(|p| u16::try_from(p).ok()).unwrap_or(0)
}

fn addresses<'a>(texts: impl Iterator<Item = &'a String>, v6: bool) -> Vec<IpAddr> {
    let mut out: Vec<IpAddr> = texts
        .filter_map(|t| t.parse::<IpAddr>().ok())
        .filter(|ip| ip.is_ipv6() == v6)
        .collect();
    out.sort();
    out.dedup();
    out
}

/// Whether the Service is this proxy's business.
pub fn is_proxied(service: &Service) -> bool {
    let labelled = service
        .metadata
        .labels
        .as_ref()
        .is_some_and(|l| l.contains_key(PROXY_NAME_LABEL));
    let Some(spec) = &service.spec else { return false };
    let cluster_ip = spec.cluster_ip.as_deref().unwrap_or_default();
    !labelled
        && spec.type_.as_deref() != Some("ExternalName")
        && !cluster_ip.is_empty()
        && cluster_ip != "None"
}

/// The model of `service` with its `slices`, for one family.
pub fn service_model(
    service: &Service,
    slices: &[&EndpointSlice],
    location: &Location,
    v6: bool,
) -> ServiceModel {
    let Some(spec) = service.spec.as_ref().filter(|_| is_proxied(service)) else {
        return ServiceModel::default();
    };
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let cluster_ips = match &spec.cluster_ips {
        Some(ips) if !ips.is_empty() => addresses(ips.iter(), v6),
        _ => addresses(spec.cluster_ip.iter(), v6),
    };
    let ingress = service
        .status
        .iter()
        .flat_map(|s| s.load_balancer.iter())
        .flat_map(|l| l.ingress.iter().flatten())
        .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|i| i.ip.as_ref());
    let is_load_balancer = spec.type_.as_deref() == Some("LoadBalancer");
    let load_balancer_ips = if is_load_balancer {
        addresses(ingress, v6)
    } else {
        Vec::new()
    };
    let mut external_ips = addresses(spec.external_ips.iter().flatten(), v6);
    external_ips.extend(&load_balancer_ips);
    external_ips.sort();
    external_ips.dedup();
    let source_ranges: Vec<IpNet> = spec
        .load_balancer_source_ranges
        .iter()
        .flatten()
        .filter_map(|r| r.trim().parse().ok())
        .filter(|r: &IpNet| r.addr().is_ipv6() == v6)
        .collect();
    let affinity_seconds = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let seconds = spec
            .session_affinity_config
            .as_ref()
            .and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
        seconds
            .and_then(|s| u32::try_from(s).ok())
            .filter(|s| *s > 0)
            .unwrap_or(AFFINITY_SECONDS)
    });
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let mut local_targets = HashSet::new();
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let Some((number, protocol_name)) = protocol(port.protocol.as_deref()) else {
            continue;
        };
        let port_name = port.name.as_deref().unwrap_or_default();
        let endpoints = endpoints(slices, port_name, number, location, v6);
        local_targets.extend(
            endpoints
                .iter()
                .filter(|e| e.local && e.ready)
                .map(|e| e.target.0),
        );
        let mut model = ServicePort {
            id: format!("{namespace}/{name}/{protocol_name}/{port_name}"),
            proto: number,
            port: port_number(Some(port.port)),
            cluster_ips: cluster_ips.clone(),
            external_ips: external_ips.clone(),
            load_balancer_ips: load_balancer_ips.clone(),
            node_port: port_number(port.node_port),
            source_ranges: source_ranges.clone(),
            affinity_seconds,
            external_local,
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            cluster_endpoints: BTreeSet::new(),
            local_endpoints: BTreeSet::new(),
            has_endpoints: false,
            serving: endpoints.iter().filter(|e| e.serving).map(|e| e.target).collect(),
        };
        categorize(&mut model, &endpoints, location);
        ports.push(model);
    }
    let check_port = port_number(spec.health_check_node_port);
    let health_check = (is_load_balancer && external_local && check_port != 0).then_some(HealthCheck {
        port: check_port,
        local_endpoints: local_targets.len(),
    });
    ServiceModel { ports, health_check }
}

/// The endpoints of the slices for the port of that name. One address in two slices counts once; the better state wins.
fn endpoints(
    slices: &[&EndpointSlice],
    port_name: &str,
    proto: u8,
    location: &Location,
    v6: bool,
) -> Vec<Endpoint> {
    let kind = if v6 { "IPv6" } else { "IPv4" };
    let mut out: BTreeMap<Target, Endpoint> = BTreeMap::new();
    for slice in slices.iter().filter(|s| s.address_type == kind) {
        let ports = slice.ports.iter().flatten().filter(|p| {
            p.name.as_deref().unwrap_or_default() == port_name
                && protocol(p.protocol.as_deref()).is_some_and(|(number, _)| number == proto)
        });
        for port in ports.map(|p| port_number(p.port)).filter(|p| *p != 0) {
            for endpoint in slice.endpoints.iter().flatten() {
                let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse::<IpAddr>().ok()) else {
                    continue;
                };
                let conditions = endpoint.conditions.clone().unwrap_or_default();
                let ready = conditions.ready.unwrap_or(true);
                let hints = endpoint.hints.as_ref();
                let names = |list: Option<BTreeSet<String>>| list.unwrap_or_default();
                let new =
                    Endpoint {
                        target: (ip, port),
                        ready,
                        serving: conditions.serving.unwrap_or(ready),
                        terminating: conditions.terminating.unwrap_or(false),
                        local: endpoint.node_name.as_deref() == Some(location.node.as_str()),
                        zones: names(hints.and_then(|h| {
                            Some(h.for_zones.as_ref()?.iter().map(|z| z.name.clone()).collect())
                        })),
                        nodes: names(hints.and_then(|h| {
                            Some(h.for_nodes.as_ref()?.iter().map(|z| z.name.clone()).collect())
                        })),
                    };
                match out.get(&new.target) {
                    Some(old) if (old.ready, old.serving) >= (new.ready, new.serving) => {}
                    _ => {
                        out.insert(new.target, new);
                    }
                }
            }
        }
    }
    out.into_values().collect()
}

/// Which endpoints traffic may use: ready ones, as topology hints say; terminating ones that still serve when there is no
/// other (KEP-1669), for each policy by itself.
fn categorize(port: &mut ServicePort, endpoints: &[Endpoint], location: &Location) {
    let pick = |keep: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<Target> {
        endpoints.iter().filter(|e| keep(e)).map(|e| e.target).collect()
    };
    let prefer = preference(endpoints, location);
    let preferred = |e: &Endpoint| match prefer {
        Preference::Node => e.nodes.contains(&location.node),
        Preference::Zone => location.zone.as_ref().is_some_and(|z| e.zones.contains(z)),
        Preference::None => true,
    };
    port.has_endpoints = endpoints.iter().any(|e| e.ready || (e.serving && e.terminating));
    if !port.internal_local || port.externally_accessible() {
        port.cluster_endpoints = pick(&|e| e.ready && preferred(e));
        if port.cluster_endpoints.is_empty() {
            port.cluster_endpoints = pick(&|e| e.serving && e.terminating);
        }
    }
    if port.internal_local || (port.external_local && port.externally_accessible()) {
        port.local_endpoints = pick(&|e| e.local && e.ready);
        if port.local_endpoints.is_empty() {
            port.local_endpoints = pick(&|e| e.local && e.serving && e.terminating);
        }
    }
}

enum Preference {
    Node,
    Zone,
    None,
}

/// Hints count only when every ready endpoint has them and one is for us.
fn preference(endpoints: &[Endpoint], location: &Location) -> Preference {
    let ready = || endpoints.iter().filter(|e| e.ready);
    if ready().all(|e| !e.nodes.is_empty()) && ready().any(|e| e.nodes.contains(&location.node)) {
        return Preference::Node;
    }
    if let Some(zone) = &location.zone
        && ready().all(|e| !e.zones.is_empty())
        && ready().any(|e| e.zones.contains(zone))
    {
        return Preference::Zone;
    }
    Preference::None
}
