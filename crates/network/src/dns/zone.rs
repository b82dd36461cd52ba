//! The names of the cluster zone. Pure over [`Records`].
//!
//! ```text
//! <service>.<ns>.svc                     A AAAA SRV, or CNAME for ExternalName
//! _<port>._<proto>.<service>.<ns>.svc    SRV
//! <endpoint>.<service>.<ns>.svc          A AAAA; the endpoint's hostname, or its address with dashes
//! <address with dashes>.<ns>.pod         A AAAA
//! dns-version                            TXT
//! ```

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::Records;
use super::records::{cluster_ips, service_of};

/// Seconds that answers of the zone may be kept (kubeadm's setting of CoreDNS; its default is 5).
const TTL: u32 = 30;
/// Version of the Kubernetes DNS specification.
const SPECIFICATION: &str = "1.1.0";

/// What the zone says to a question.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Records, and others that help.
    Records(Vec<Record>, Vec<Record>),
    /// An alias: its record, and the name to go on with.
    Alias(Box<Record>, Name),
    /// The name exists without records of that type.
    NoData,
    /// There is no such name.
    NoName,
    /// Not this zone's business: ask upstream.
    Elsewhere,
}

/// The cluster zone.
#[derive(Clone, Debug)]
pub struct Zone {
    name: Name,
    addresses: Vec<IpAddr>,
    ranges: Vec<IpNet>,
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn address_data(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(a) => RData::A(A(a)),
        IpAddr::V6(a) => RData::AAAA(AAAA(a)),
    }
}

fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

fn undashed(label: &str) -> Option<IpAddr> {
    if label.matches('-').count() == 3 && !label.contains("--") {
        return label.replace('-', ".").parse::<Ipv4Addr>().ok().map(Into::into);
    }
    label.replace('-', ":").parse::<Ipv6Addr>().ok().map(Into::into)
}

/// An address of a Service and what leads there.
struct Target {
    ip: IpAddr,
    host: Option<String>,
    port: Option<u16>,
}

impl Zone {
    /// The zone `domain` (e.g. `cluster.local`), served at `addresses`. Addresses within `ranges` are the cluster's: nobody
    /// upstream is asked for their names. `None` when `domain` is no valid name.
    pub fn new(domain: &str, addresses: Vec<IpAddr>, ranges: Vec<IpNet>) -> Option<Self> {
        let mut name = Name::from_ascii(domain).ok()?.to_lowercase();
        name.set_fqdn(true);
        Some(Zone {
            name,
            addresses,
            ranges,
        })
    }

    /// The zone's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    fn child(&self, labels: &[&str]) -> Option<Name> {
        Name::from_labels(labels.iter().map(|l| l.as_bytes()))
            .ok()?
            .append_domain(&self.name)
            .ok()
    }

    /// The start of authority: what a negative answer carries, so that it can be kept.
    pub fn soa(&self) -> Record {
        let mname = self.child(&["ns", "dns"]).unwrap_or_else(|| self.name.clone());
        let rname = self.child(&["hostmaster"]).unwrap_or_else(|| self.name.clone());
        // The zone is never transferred: the serial number says nothing.
        record(
            &self.name,
            RData::SOA(SOA::new(mname, rname, 1, 7200, 1800, 86400, TTL)),
        )
    }

    /// The answer to a question of class IN.
    pub fn answer(&self, records: &dyn Records, name: &Name, kind: RecordType) -> Answer {
        let lower = name.to_lowercase();
        if !self.name.zone_of(&lower) {
            return self.reverse(records, name, &lower, kind);
        }
        let depth = usize::from(lower.num_labels().saturating_sub(self.name.num_labels()));
        let Some(labels) = lower
            .iter()
            .take(depth)
            .map(|l| std::str::from_utf8(l).ok())
            .collect::<Option<Vec<_>>>()
        else {
            return Answer::NoName;
        };
        match labels.as_slice() {
            [] => self.apex(name, kind),
            ["dns-version"] => match kind {
                RecordType::TXT => Answer::Records(
                    vec![record(name, RData::TXT(TXT::new(vec![SPECIFICATION.into()])))],
                    vec![],
                ),
                _ => Answer::NoData,
            },
            ["ns", "dns"] => addresses(name, kind, &self.addresses),
            ["dns" | "svc" | "pod"] => Answer::NoData,
            [.., namespace, "svc" | "pod"] if !records.has_namespace(namespace) => Answer::NoName,
            [_, "svc" | "pod"] => Answer::NoData,
            [label, _, "pod"] => match undashed(label) {
                Some(ip) => addresses(name, kind, &[ip]),
                None => Answer::NoName,
            },
            [rest @ .., service, namespace, "svc"] => {
                self.service(records, name, kind, (namespace, service), rest)
            }
            _ => Answer::NoName,
        }
    }

    fn apex(&self, name: &Name, kind: RecordType) -> Answer {
        let ns = self.child(&["ns", "dns"]);
        match (kind, ns) {
            (RecordType::SOA, _) => Answer::Records(vec![self.soa()], vec![]),
            (RecordType::NS, Some(ns)) => {
                let helpful = self
                    .addresses
                    .iter()
                    .map(|ip| record(&ns, address_data(*ip)))
                    .collect();
                Answer::Records(vec![record(name, RData::NS(NS(ns)))], helpful)
            }
            _ => Answer::NoData,
        }
    }

    fn service(
        &self,
        records: &dyn Records,
        name: &Name,
        kind: RecordType,
        (namespace, service_name): (&str, &str),
        rest: &[&str],
    ) -> Answer {
        let Some(service) = records.service(namespace, service_name) else {
            return Answer::NoName;
        };
        let Some(spec) = &service.spec else {
            return Answer::NoName;
        };
        if spec.type_.as_deref() == Some("ExternalName") {
            return external_name(&service, name, kind, rest);
        }
        let headless = cluster_ips(&service).is_empty();
        let targets = match rest {
            [host] => {
                // Only endpoints have names below a Service, whatever its kind.
                let all = endpoints(&records.slices(namespace, service_name), None);
                all.into_iter()
                    .filter(|t| t.host.as_deref() == Some(*host))
                    .collect()
            }
            [] if headless => endpoints(&records.slices(namespace, service_name), None),
            [] => cluster_targets(&service, None),
            [port, protocol] => {
                let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_'))
                else {
                    return Answer::NoName;
                };
                let wanted = Some((port, protocol));
                if headless {
                    endpoints(&records.slices(namespace, service_name), wanted)
                } else {
                    cluster_targets(&service, wanted)
                }
            }
            _ => return Answer::NoName,
        };
        if targets.is_empty() {
            // A headless Service exists also while it has no endpoints; upstream denies its name all the same.
            return Answer::NoName;
        }
        match kind {
            RecordType::SRV => self.srv(name, (namespace, service_name), &targets),
            _ => {
                let mut seen = HashSet::new();
                let ips: Vec<IpAddr> = targets
                    .iter()
                    .map(|t| t.ip)
                    .filter(|ip| seen.insert(*ip))
                    .collect();
                addresses(name, kind, &ips)
            }
        }
    }

    fn srv(&self, name: &Name, (namespace, service): (&str, &str), targets: &[Target]) -> Answer {
        let mut seen = HashSet::new();
        let (mut answers, mut helpful) = (Vec::new(), Vec::new());
        let mut hosts = HashSet::new();
        for target in targets {
            let Some(port) = target.port else { continue };
            let labels: Vec<&str> = target
                .host
                .as_deref()
                .into_iter()
                .chain([service, namespace, "svc"])
                .collect();
            let Some(host) = self.child(&labels) else { continue };
            if seen.insert((host.clone(), port)) {
                answers.push((host.clone(), port));
            }
            if hosts.insert((host.clone(), target.ip)) {
                helpful.push(record(&host, address_data(target.ip)));
            }
        }
        if answers.is_empty() {
            return Answer::NoData;
        }
        let weight = u16::try_from(100 / answers.len()).unwrap_or(100).max(1);
        let srv = |(host, port)| record(name, RData::SRV(SRV::new(0, weight, port, host)));
        Answer::Records(answers.into_iter().map(srv).collect(), helpful)
    }

    fn reverse(&self, records: &dyn Records, name: &Name, lower: &Name, kind: RecordType) -> Answer {
        let Ok(net) = lower.parse_arpa_name() else {
            return Answer::Elsewhere;
        };
        let ours = self.ranges.iter().any(|r| r.contains(&net));
        if net.prefix_len() != net.max_prefix_len() {
            return if ours { Answer::NoData } else { Answer::Elsewhere };
        }
        let ip = net.addr();
        let mut names: Vec<Name> = Vec::new();
        for service in records.services_of(ip) {
            let meta = &service.metadata;
            let parts = [
                meta.name.as_deref().unwrap_or_default(),
                meta.namespace.as_deref().unwrap_or_default(),
                "svc",
            ];
            names.extend(self.child(&parts));
        }
        if names.is_empty() {
            for slice in records.slices_of(ip) {
                let Some(service) = service_of(&slice) else {
                    continue;
                };
                for endpoint in slice.endpoints.iter().flatten().filter(|e| is_ready(e)) {
                    if endpoint.addresses.iter().any(|a| a.parse() == Ok(ip)) {
                        let host = endpoint.hostname.clone().unwrap_or_else(|| dashed(ip));
                        names.extend(self.child(&[&host, &service.name, &service.namespace, "svc"]));
                    }
                }
            }
        }
        names.sort();
        names.dedup();
        match (names.is_empty(), kind) {
            (true, _) if ours => Answer::NoName,
            (true, _) => Answer::Elsewhere,
            (false, RecordType::PTR) => Answer::Records(
                names
                    .into_iter()
                    .map(|n| record(name, RData::PTR(PTR(n))))
                    .collect(),
                vec![],
            ),
            (false, _) => Answer::NoData,
        }
    }
}

fn addresses(name: &Name, kind: RecordType, ips: &[IpAddr]) -> Answer {
    let wanted = |ip: &&IpAddr| match kind {
        RecordType::A => ip.is_ipv4(),
        RecordType::AAAA => ip.is_ipv6(),
        _ => false,
    };
    let answers: Vec<Record> = ips
        .iter()
        .filter(wanted)
        .map(|ip| record(name, address_data(*ip)))
        .collect();
    if answers.is_empty() {
        Answer::NoData
    } else {
        Answer::Records(answers, vec![])
    }
}

fn external_name(service: &Service, name: &Name, kind: RecordType, rest: &[&str]) -> Answer {
    let target = service
        .spec
        .as_ref()
        .and_then(|s| s.external_name.as_deref())
        .unwrap_or_default();
    let Ok(mut target) = Name::from_ascii(target) else {
        return Answer::NoName;
    };
    if !rest.is_empty() || target.is_root() {
        return Answer::NoName;
    }
    target.set_fqdn(true);
    match kind {
        RecordType::A | RecordType::AAAA | RecordType::CNAME => Answer::Alias(
            Box::new(record(name, RData::CNAME(CNAME(target.clone())))),
            target,
        ),
        _ => Answer::NoData,
    }
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
}

fn port_number(port: Option<i32>) -> Option<u16> {
    port.and_then(|p| u16::try_from(p).ok())
}

fn port_matches(wanted: Option<(&str, &str)>, name: Option<&str>, protocol: Option<&str>) -> bool {
    wanted.is_none_or(|(port, proto)| {
        name.unwrap_or_default().eq_ignore_ascii_case(port)
            && protocol.unwrap_or("TCP").eq_ignore_ascii_case(proto)
    })
}

fn cluster_targets(service: &Service, wanted: Option<(&str, &str)>) -> Vec<Target> {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    let mut ports: Vec<Option<u16>> = ports
        .filter(|p| port_matches(wanted, p.name.as_deref(), p.protocol.as_deref()))
        .map(|p| port_number(Some(p.port)))
        .collect();
    if ports.is_empty() && wanted.is_none() {
        ports.push(None);
    }
    let of = |ip: IpAddr| {
        ports.iter().map(move |port| Target {
            ip,
            host: None,
            port: *port,
        })
    };
    cluster_ips(service).into_iter().flat_map(of).collect()
}

fn endpoints(slices: &[Arc<EndpointSlice>], wanted: Option<(&str, &str)>) -> Vec<Target> {
    let mut out = Vec::new();
    for slice in slices
        .iter()
        .filter(|s| s.address_type == "IPv4" || s.address_type == "IPv6")
    {
        let mut ports: Vec<Option<u16>> = slice
            .ports
            .iter()
            .flatten()
            .filter(|p| port_matches(wanted, p.name.as_deref(), p.protocol.as_deref()))
            .map(|p| port_number(p.port))
            .collect();
        if ports.is_empty() && wanted.is_none() {
            // A headless Service need not have ports.
            ports.push(None);
        }
        for endpoint in slice.endpoints.iter().flatten().filter(|e| is_ready(e)) {
            for ip in endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
                let host = endpoint.hostname.clone().unwrap_or_else(|| dashed(ip));
                out.extend(ports.iter().map(|port| Target {
                    ip,
                    host: Some(host.clone()),
                    port: *port,
                }));
            }
        }
    }
    out
}
