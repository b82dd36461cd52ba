//! From a Service's model to chains, maps and elements. Pure.
//!
//! A port has at most two pools of endpoints (cluster-wide and on this node). A pool is a map from number to endpoint and a
//! chain that picks a random number: replacing an endpoint changes one element. With session affinity the pool also has
//! a dynamic map from client to endpoint, which counts while its endpoint is a member of the pool.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use keelson_nftables::{CmpOp, Data, DynsetOp, Expr, Reg, SetSpec, Verdict, rule};

use crate::Config;
use crate::model::{ServiceModel, ServicePort, Target};

/// Maps and sets that all Services share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shared {
    /// address . protocol . port to the chain that translates.
    ServiceIps,
    /// protocol . port to the chain that translates.
    NodePorts,
    /// address . protocol . port to a refusal.
    NoEndpointServices,
    /// protocol . port to a refusal.
    NoEndpointNodePorts,
    /// address . protocol . port to a check of the source.
    FirewallIps,
    /// Cluster addresses.
    ClusterIps,
    /// endpoint . endpoint: who talks to itself is masqueraded.
    Hairpin,
}

impl Shared {
    /// All of them.
    pub const ALL: [Shared; 7] = [
        Shared::ServiceIps,
        Shared::NodePorts,
        Shared::NoEndpointServices,
        Shared::NoEndpointNodePorts,
        Shared::FirewallIps,
        Shared::ClusterIps,
        Shared::Hairpin,
    ];

    /// Name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Shared::ServiceIps => "service-ips",
            Shared::NodePorts => "service-nodeports",
            Shared::NoEndpointServices => "no-endpoint-services",
            Shared::NoEndpointNodePorts => "no-endpoint-nodeports",
            Shared::FirewallIps => "firewall-ips",
            Shared::ClusterIps => "cluster-ips",
            Shared::Hairpin => "hairpin",
        }
    }

    /// How it is made.
    pub fn spec(self, v6: bool) -> SetSpec {
        match self {
            Shared::ServiceIps | Shared::NoEndpointServices | Shared::FirewallIps => {
                SetSpec::by_address_proto_port(self.name(), v6).to_verdict()
            }
            Shared::NodePorts | Shared::NoEndpointNodePorts => {
                SetSpec::by_proto_port(self.name()).to_verdict()
            }
            Shared::ClusterIps => SetSpec::by_address(self.name(), v6),
            Shared::Hairpin => SetSpec::by_address_pair(self.name(), v6),
        }
    }
}

/// Chain that refuses.
pub const REJECT_CHAIN: &str = "reject-chain";
/// Chain that marks for masquerade.
pub const MARK_CHAIN: &str = "mark-for-masquerade";

/// A set or map that one Service owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnSet {
    /// How it is made.
    pub spec: SetSpec,
    /// What is in it, unless rules fill it.
    pub elements: BTreeMap<Vec<u8>, Option<Data>>,
}

/// All that one Service has in the table of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Its chains' rules.
    pub chains: BTreeMap<String, Vec<Vec<Expr>>>,
    /// Its sets and maps.
    pub sets: BTreeMap<String, OwnSet>,
    /// Its elements in shared maps.
    pub shared: BTreeMap<(Shared, Vec<u8>), Option<Data>>,
    /// Order of the endpoints in each pool; the next rendering keeps it as far as it can.
    pub pools: BTreeMap<String, Vec<Target>>,
}

/// Most clients that a pool remembers.
const AFFINITY_SIZE: u32 = 65_535;
/// Longest chain or set name that the kernel takes is 255.
const NAME_LIMIT: usize = 240;

fn chain_name(kind: &str, id: &str) -> String {
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut name = format!("{kind}-{:08X}-{id}", hash >> 32);
    name.truncate(NAME_LIMIT);
    name
}

fn padded_port(port: u16) -> [u8; 4] {
    let [a, b] = port.to_be_bytes();
    [a, b, 0, 0]
}

fn target_bytes(target: Target) -> Vec<u8> {
    [&rule::octets(target.0)[..], &padded_port(target.1)].concat()
}

fn proto_port(proto: u8, port: u16) -> Vec<u8> {
    [&[proto, 0, 0, 0][..], &padded_port(port)].concat()
}

fn frontend(ip: IpAddr, proto: u8, port: u16) -> Vec<u8> {
    [&rule::octets(ip)[..], &proto_port(proto, port)].concat()
}

/// Puts `wanted` in an order that differs from `old` in as few places as possible.
pub fn assign(old: &[Target], wanted: &BTreeSet<Target>) -> Vec<Target> {
    let known: BTreeSet<Target> = old.iter().copied().collect();
    let mut fresh = wanted.iter().filter(|t| !known.contains(t)).copied();
    let mut slots: Vec<Option<Target>> = old
        .iter()
        .map(|t| {
            if wanted.contains(t) {
                Some(*t)
            } else {
                fresh.next()
            }
        })
        .collect();
    slots.extend(fresh.map(Some));
    let mut i = 0;
    while i < slots.len() {
        if slots[i].is_some() {
            i += 1;
        } else {
            slots.swap_remove(i);
        }
    }
    slots.into_iter().flatten().collect()
}

/// Renders one Service; `previous` is its rendering before.
pub fn render(config: &Config, model: &ServiceModel, v6: bool, previous: Option<&Rendered>) -> Rendered {
    let mut out = Rendered::default();
    for port in &model.ports {
        Renderer {
            config,
            port,
            v6,
            previous,
            out: &mut out,
        }
        .port();
    }
    out
}

struct Renderer<'a> {
    config: &'a Config,
    port: &'a ServicePort,
    v6: bool,
    previous: Option<&'a Rendered>,
    out: &'a mut Rendered,
}

/// What is done with packets that have nowhere to go.
#[derive(Clone)]
enum Way {
    Chain(String),
    Refuse(Verdict),
}

impl Renderer<'_> {
    fn port(mut self) {
        let port = self.port;
        let cluster = self.pool("service", &port.cluster_endpoints);
        let local = self.pool("local", &port.local_endpoints);
        let reject = || Verdict::Goto(REJECT_CHAIN.into());
        // Endpoints elsewhere must not be given away by a refusal: another node may answer.
        let refuse = |local_policy: bool| {
            if local_policy && port.has_endpoints {
                Verdict::Drop
            } else {
                reject()
            }
        };
        let internal = if port.internal_local { &local } else { &cluster };
        let internal = internal
            .clone()
            .map_or_else(|| Way::Refuse(refuse(port.internal_local)), Way::Chain);
        for ip in &port.cluster_ips {
            self.out
                .shared
                .insert((Shared::ClusterIps, rule::octets(*ip)), None);
            self.frontend(*ip, &internal);
        }
        if !port.externally_accessible() {
            return;
        }
        let external_pool = if port.external_local { &local } else { &cluster };
        let refusal = external_pool.is_none().then(|| refuse(port.external_local));
        let chain = (cluster.is_some() || local.is_some())
            .then(|| self.external(cluster.as_deref(), local.as_deref()));
        for ip in &port.external_ips {
            if let Some(chain) = &chain {
                self.frontend(*ip, &Way::Chain(chain.clone()));
            }
            if let Some(verdict) = &refusal {
                self.frontend(*ip, &Way::Refuse(verdict.clone()));
            }
        }
        if port.node_port != 0 {
            let key = proto_port(port.proto, port.node_port);
            if let Some(chain) = &chain {
                let goto = Data::Verdict(Verdict::Goto(chain.clone()));
                self.out
                    .shared
                    .insert((Shared::NodePorts, key.clone()), Some(goto));
            }
            if let Some(verdict) = refusal {
                self.out
                    .shared
                    .insert((Shared::NoEndpointNodePorts, key), Some(Data::Verdict(verdict)));
            }
        }
        self.firewall();
    }

    fn frontend(&mut self, ip: IpAddr, way: &Way) {
        let key = frontend(ip, self.port.proto, self.port.port);
        let (set, verdict) = match way {
            Way::Chain(chain) => (Shared::ServiceIps, Verdict::Goto(chain.clone())),
            Way::Refuse(verdict) => (Shared::NoEndpointServices, verdict.clone()),
        };
        self.out.shared.insert((set, key), Some(Data::Verdict(verdict)));
    }

    /// The chain of a pool; `None` when it has no endpoints.
    fn pool(&mut self, kind: &str, endpoints: &BTreeSet<Target>) -> Option<String> {
        let count = u32::try_from(endpoints.len()).ok().filter(|n| *n > 0)?;
        let id = &self.port.id;
        let chain = chain_name(kind, id);
        let map = chain_name(&format!("{kind}-endpoints"), id);
        let old = self
            .previous
            .and_then(|p| p.pools.get(&chain))
            .map(Vec::as_slice)
            .unwrap_or_default();
        let order = assign(old, endpoints);
        let elements = order
            .iter()
            .zip(0u32..)
            .map(|(target, i)| (i.to_ne_bytes().to_vec(), Some(Data::Bytes(target_bytes(*target)))))
            .collect();
        let spec = SetSpec::by_number(&map).to_address_port(self.v6);
        self.out.sets.insert(map.clone(), OwnSet { spec, elements });
        for (ip, _) in endpoints {
            let bytes = rule::octets(*ip);
            self.out
                .shared
                .insert((Shared::Hairpin, [&bytes[..], &bytes].concat()), None);
        }
        let rules = match self.port.affinity_seconds {
            None => vec![self.spread(&map, count)],
            Some(seconds) => self.affinity(kind, &map, count, seconds, endpoints),
        };
        self.out.chains.insert(chain.clone(), rules);
        self.out.pools.insert(chain.clone(), order);
        Some(chain)
    }

    // Registers: 0 to 3 the client's address, 4 the random number, 8 and following the endpoint's address and port.
    const CLIENT: Reg = Reg(0);
    const NUMBER: Reg = Reg(4);
    const TARGET: Reg = Reg(8);

    fn dnat(&self) -> Expr {
        let (family, port) = if self.v6 { (10, Reg(12)) } else { (2, Reg(9)) };
        Expr::Dnat {
            family,
            addr: Self::TARGET,
            port: Some(port),
        }
    }

    fn spread(&self, map: &str, modulus: u32) -> Vec<Expr> {
        vec![
            Expr::Random {
                modulus,
                dst: Self::NUMBER,
            },
            Expr::MapLookup {
                map: map.to_owned(),
                key: Self::NUMBER,
                dst: Self::TARGET,
            },
            self.dnat(),
        ]
    }

    fn affinity(
        &mut self,
        kind: &str,
        map: &str,
        count: u32,
        seconds: u32,
        endpoints: &BTreeSet<Target>,
    ) -> Vec<Vec<Expr>> {
        let clients = chain_name(&format!("{kind}-affinity"), &self.port.id);
        let members = chain_name(&format!("{kind}-members"), &self.port.id);
        let spec = SetSpec::by_address(&clients, self.v6)
            .to_address_port(self.v6)
            .dynamic(AFFINITY_SIZE);
        self.out.sets.insert(
            clients.clone(),
            OwnSet {
                spec,
                elements: BTreeMap::new(),
            },
        );
        let spec = SetSpec::by_address_port(&members, self.v6);
        let elements = endpoints.iter().map(|t| (target_bytes(*t), None)).collect();
        self.out.sets.insert(members.clone(), OwnSet { spec, elements });
        let remember = Expr::Dynset {
            set: clients.clone(),
            op: DynsetOp::Update,
            key: Self::CLIENT,
            data: Some(Self::TARGET),
            timeout_ms: Some(u64::from(seconds) * 1000),
        };
        let forget = Expr::Dynset {
            set: clients.clone(),
            op: DynsetOp::Delete,
            key: Self::CLIENT,
            // Of no meaning, but the kernel wants one for a map.
            data: Some(Self::TARGET),
            timeout_ms: None,
        };
        let client = rule::source_address(self.v6, Self::CLIENT);
        let known = vec![
            client.clone(),
            Expr::MapLookup {
                map: clients,
                key: Self::CLIENT,
                dst: Self::TARGET,
            },
            Expr::Lookup {
                set: members,
                key: Self::TARGET,
                invert: false,
            },
            remember.clone(),
            self.dnat(),
        ];
        // An update keeps the data of an element that exists: forget a client whose endpoint is gone first.
        let mut new = self.spread(map, count);
        let dnat = new.pop().expect("invariant: a spread ends with the translation");
        new.extend([client, forget, remember, dnat]);
        vec![known, new]
    }

    /// The chain for traffic from outside.
    fn external(&mut self, cluster: Option<&str>, local: Option<&str>) -> String {
        let name = chain_name("external", &self.port.id);
        let mut rules = Vec::new();
        let mark = rule::jump(MARK_CHAIN);
        if self.port.external_local {
            if let Some(cluster) = cluster {
                // Pods of this node are inside: as if they had gone out to a load balancer and come back, no policy is
                // about them, and their replies find back without masquerade.
                for range in self
                    .config
                    .cluster_cidrs
                    .iter()
                    .filter(|r| r.addr().is_ipv6() == self.v6)
                {
                    let mut pods = rule::source_in(range.network(), range.prefix_len(), CmpOp::Eq);
                    pods.push(rule::goto(cluster));
                    rules.push(pods);
                }
                // The node itself is inside, too; the address it asks may be its own and so the packet's source.
                let mut own = rule::address_is_local(true, CmpOp::Eq);
                own.push(mark);
                rules.push(own);
                let mut own = rule::address_is_local(true, CmpOp::Eq);
                own.push(rule::goto(cluster));
                rules.push(own);
            }
            rules.extend(local.map(|local| vec![rule::goto(local)]));
        } else {
            // The endpoint may be on another node, which would answer the client directly.
            rules.push(vec![mark]);
            rules.extend(cluster.map(|cluster| vec![rule::goto(cluster)]));
        }
        self.out.chains.insert(name.clone(), rules);
        name
    }

    fn firewall(&mut self) {
        let port = self.port;
        if port.source_ranges.is_empty() || port.load_balancer_ips.is_empty() {
            return;
        }
        let name = chain_name("firewall", &port.id);
        let mut rules = Vec::new();
        for range in &port.source_ranges {
            let mut allowed = rule::source_in(range.network(), range.prefix_len(), CmpOp::Eq);
            allowed.push(Expr::Verdict(Verdict::Return));
            rules.push(allowed);
        }
        rules.push(vec![Expr::Verdict(Verdict::Drop)]);
        self.out.chains.insert(name.clone(), rules);
        for ip in &port.load_balancer_ips {
            let goto = Data::Verdict(Verdict::Goto(name.clone()));
            self.out.shared.insert(
                (Shared::FirewallIps, frontend(*ip, port.proto, port.port)),
                Some(goto),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(n: u8) -> Target {
        (IpAddr::from([10, 0, 0, n]), 80)
    }

    #[test]
    fn endpoints_keep_their_numbers() {
        let table: [(&[u8], &[u8], &[u8]); 6] = [
            (&[], &[1, 2, 3], &[1, 2, 3]),
            (&[1, 2, 3], &[1, 3, 4], &[1, 4, 3]),
            (&[1, 2, 3], &[2, 3], &[3, 2]),
            (&[1, 2, 3], &[1, 2, 3, 4], &[1, 2, 3, 4]),
            (&[1, 2, 3], &[], &[]),
            (&[1, 2, 3, 4], &[4], &[4]),
        ];
        for (old, wanted, expected) in table {
            let list = |l: &[u8]| l.iter().map(|n| target(*n)).collect::<Vec<_>>();
            let wanted: BTreeSet<Target> = list(wanted).into_iter().collect();
            assert_eq!(assign(&list(old), &wanted), list(expected), "{old:?}");
        }
    }
}
