//! The table of one family: its fixed part, and the difference between what Services want and what the kernel has.
//!
//! ```text
//! prerouting -110, output -110   filter  new: source ranges of load balancers
//! prerouting -100, output -100   nat     address . protocol . port -> service chain; node address, protocol . port -> same
//! output -90, input 0, forward 0 filter  new: no endpoints -> refuse; cluster address without such a port -> refuse
//! postrouting 100                nat     endpoint to itself, marked -> masquerade
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use keelson_client::NamespacedName;
use keelson_nftables::{
    BaseChain, Batch, ChainType, CmpOp, Data, Element, Expr, Family, Hook, Reg, SetSpec, Verdict, rule,
};

use crate::Config;
use crate::render::{MARK_CHAIN, OwnSet, REJECT_CHAIN, Rendered, Shared};

const SERVICES: &str = "services";
const NO_ENDPOINTS: &str = "service-endpoints-check";
const NODE_PORTS: &str = "nodeport-endpoints-check";
const FIREWALL: &str = "firewall-check";
const CLUSTER_IPS: &str = "cluster-ips-check";
const MASQUERADE: &str = "masquerading";

/// Name, type, hook, priority, chains to jump to, and whether only new connections do.
type BaseRow = (&'static str, ChainType, Hook, i32, &'static [&'static str], bool);
type Owners = BTreeMap<NamespacedName, Option<Data>>;

/// What Services want in the table of one family, and with it what the kernel has.
#[derive(Debug)]
pub struct Table {
    config: Config,
    v6: bool,
    services: HashMap<NamespacedName, Rendered>,
    /// Who wants each shared element; the first owner (by name) has it.
    shared: HashMap<(Shared, Vec<u8>), Owners>,
}

/// Changes of elements of one set: keys to delete and elements to add.
#[derive(Default)]
struct ElementChanges {
    delete: Vec<Vec<u8>>,
    add: Vec<Element>,
}

fn element(key: &[u8], data: Option<&Data>) -> Element {
    Element {
        key: key.to_vec(),
        data: data.cloned(),
        expires: None,
    }
}

impl Table {
    /// An empty table of a family.
    pub fn new(config: &Config, v6: bool) -> Self {
        Table {
            config: config.clone(),
            v6,
            services: HashMap::new(),
            shared: HashMap::new(),
        }
    }

    fn batch(&self) -> Batch {
        Batch::new(self.family(), &self.config.table)
    }

    /// The address family.
    pub fn family(&self) -> Family {
        if self.v6 { Family::Ipv6 } else { Family::Ipv4 }
    }

    /// What a Service has in the table.
    pub fn rendered(&self, service: &NamespacedName) -> Option<&Rendered> {
        self.services.get(service)
    }

    /// Services that have anything in the table.
    pub fn services(&self) -> impl Iterator<Item = &NamespacedName> {
        self.services.keys()
    }

    /// Replaces what Services want and returns the transaction that brings the kernel from the old state to the new.
    pub fn update(&mut self, changes: Vec<(NamespacedName, Rendered)>) -> Batch {
        let nothing = Rendered::default();
        let mut batch = self.batch();
        let mut touched: BTreeMap<(Shared, Vec<u8>), Option<Option<Data>>> = BTreeMap::new();
        let mut own: BTreeMap<String, ElementChanges> = BTreeMap::new();
        let (mut dead_chains, mut dead_sets) = (Vec::new(), Vec::new());
        let mut rules: Vec<(String, Vec<Vec<Expr>>, bool)> = Vec::new();
        for (service, new) in changes {
            let old = self.services.remove(&service).unwrap_or_default();
            for (name, set) in &new.sets {
                let before = old.sets.get(name);
                if before.is_none() {
                    batch.add_set(&set.spec);
                }
                let changes = own_changes(before, set);
                if !changes.delete.is_empty() || !changes.add.is_empty() {
                    own.insert(name.clone(), changes);
                }
            }
            for (name, chain) in &new.chains {
                let before = old.chains.get(name);
                if before.is_none() {
                    batch.add_chain(name);
                }
                if before != Some(chain) {
                    rules.push((name.clone(), chain.clone(), before.is_some()));
                }
            }
            dead_chains.extend(
                old.chains
                    .keys()
                    .filter(|n| !new.chains.contains_key(*n))
                    .cloned(),
            );
            dead_sets.extend(old.sets.keys().filter(|n| !new.sets.contains_key(*n)).cloned());
            let keys: BTreeSet<_> = old.shared.keys().chain(new.shared.keys()).cloned().collect();
            for key in keys {
                if old.shared.get(&key) == new.shared.get(&key) {
                    continue;
                }
                let owners = self.shared.entry(key.clone()).or_default();
                let effective = owners.first_key_value().map(|(_, data)| data.clone());
                touched.entry(key.clone()).or_insert(effective);
                match new.shared.get(&key) {
                    Some(data) => owners.insert(service.clone(), data.clone()),
                    None => owners.remove(&service),
                };
                if owners.is_empty() {
                    self.shared.remove(&key);
                }
            }
            if new != nothing {
                self.services.insert(service, new);
            }
        }
        let shared = self.shared_changes(touched);
        for (set, changes) in &shared {
            batch.delete_elements(set.name(), &changes.delete);
        }
        for (set, changes) in &own {
            batch.delete_elements(set, &changes.delete);
            batch.add_elements(set, &changes.add);
        }
        for (chain, chain_rules, existed) in &rules {
            if *existed {
                batch.flush_chain(chain);
            }
            for rule in chain_rules {
                batch.add_rule(chain, rule);
            }
        }
        for (set, changes) in &shared {
            batch.add_elements(set.name(), &changes.add);
        }
        for chain in &dead_chains {
            batch.flush_chain(chain);
        }
        for chain in &dead_chains {
            batch.delete_chain(chain);
        }
        for set in &dead_sets {
            batch.delete_set(set);
        }
        batch
    }

    fn shared_changes(
        &self,
        touched: BTreeMap<(Shared, Vec<u8>), Option<Option<Data>>>,
    ) -> BTreeMap<Shared, ElementChanges> {
        let mut out: BTreeMap<Shared, ElementChanges> = BTreeMap::new();
        for ((set, key), before) in touched {
            let owners = self.shared.get(&(set, key.clone()));
            let after = owners
                .and_then(|o| o.first_key_value())
                .map(|(_, data)| data.clone());
            if before == after {
                continue;
            }
            let changes = out.entry(set).or_default();
            if before.is_some() {
                changes.delete.push(key.clone());
            }
            if let Some(data) = after {
                changes.add.push(element(&key, data.as_ref()));
            }
        }
        out
    }

    /// The transaction that makes the whole table anew, whatever the kernel has. `remembered` are elements of dynamic sets to
    /// keep, by set.
    pub fn full(&self, remembered: &HashMap<String, Vec<Element>>) -> Batch {
        let mut batch = self.batch();
        batch.recreate_table();
        self.fixed_part(&mut batch);
        let sets = || self.services.values().flat_map(|s| &s.sets);
        let chains = || self.services.values().flat_map(|s| &s.chains);
        for (name, set) in sets() {
            batch.add_set(&set.spec);
            batch.add_elements(name, &own_changes(None, set).add);
            if let Some(elements) = remembered.get(name).filter(|_| set.spec.timeout) {
                batch.add_elements(name, elements);
            }
        }
        for (name, _) in chains() {
            batch.add_chain(name);
        }
        for (name, rules) in chains() {
            for rule in rules {
                batch.add_rule(name, rule);
            }
        }
        let mut shared: BTreeMap<Shared, Vec<Element>> = BTreeMap::new();
        for ((set, key), owners) in &self.shared {
            if let Some((_, data)) = owners.first_key_value() {
                shared.entry(*set).or_default().push(element(key, data.as_ref()));
            }
        }
        for (set, elements) in shared {
            batch.add_elements(set.name(), &elements);
        }
        batch
    }

    /// Names of the sets whose elements rules have learned: client to endpoint.
    pub fn dynamic_sets(&self) -> Vec<SetSpec> {
        let sets = self.services.values().flat_map(|s| s.sets.values());
        sets.filter(|s| s.spec.dynamic).map(|s| s.spec.clone()).collect()
    }

    fn fixed_part(&self, b: &mut Batch) {
        for set in Shared::ALL {
            b.add_set(&set.spec(self.v6));
        }
        for chain in [
            SERVICES,
            NO_ENDPOINTS,
            NODE_PORTS,
            FIREWALL,
            CLUSTER_IPS,
            MASQUERADE,
            MARK_CHAIN,
            REJECT_CHAIN,
        ] {
            b.add_chain(chain);
        }
        let (filter, nat) = (ChainType::Filter, ChainType::Nat);
        let base: [BaseRow; 8] = [
            (
                "filter-prerouting",
                filter,
                Hook::Prerouting,
                -110,
                &[FIREWALL],
                true,
            ),
            ("filter-output", filter, Hook::Output, -110, &[FIREWALL], true),
            ("nat-prerouting", nat, Hook::Prerouting, -100, &[SERVICES], false),
            ("nat-output", nat, Hook::Output, -100, &[SERVICES], false),
            (
                "filter-output-post-dnat",
                filter,
                Hook::Output,
                -90,
                &[NO_ENDPOINTS, NODE_PORTS, CLUSTER_IPS],
                true,
            ),
            (
                "filter-input",
                filter,
                Hook::Input,
                0,
                &[NODE_PORTS, NO_ENDPOINTS],
                true,
            ),
            (
                "filter-forward",
                filter,
                Hook::Forward,
                0,
                &[NO_ENDPOINTS, CLUSTER_IPS],
                true,
            ),
            (
                "nat-postrouting",
                nat,
                Hook::Postrouting,
                100,
                &[MASQUERADE],
                false,
            ),
        ];
        for (name, chain_type, hook, priority, jumps, only_new) in base {
            b.add_base_chain(
                name,
                BaseChain {
                    chain_type,
                    hook,
                    priority,
                },
            );
            for chain in jumps {
                let mut r = if only_new {
                    rule::ct_state(rule::CT_NEW)
                } else {
                    Vec::new()
                };
                r.push(rule::jump(chain));
                b.add_rule(name, &r);
            }
        }
        b.add_rule(MARK_CHAIN, &rule::set_mark(self.config.masquerade_mark()));
        b.add_rule(REJECT_CHAIN, &[rule::reject(self.v6)]);
        self.services_chain(b);
        b.add_rule(NO_ENDPOINTS, &self.by_frontend(Shared::NoEndpointServices));
        b.add_rule(FIREWALL, &self.by_frontend(Shared::FirewallIps));
        for mut r in self.to_node_addresses() {
            r.extend(by_port(Shared::NoEndpointNodePorts));
            b.add_rule(NODE_PORTS, &r);
        }
        b.add_rule(
            CLUSTER_IPS,
            &[
                rule::destination_address(self.v6, Reg(0)),
                lookup(Shared::ClusterIps),
                rule::reject(self.v6),
            ],
        );
        for range in self
            .config
            .service_cidrs
            .iter()
            .filter(|r| r.addr().is_ipv6() == self.v6)
        {
            let mut r = rule::destination_in(range.network(), range.prefix_len(), CmpOp::Eq);
            // The cluster DNS address is on this machine itself.
            r.extend(rule::address_is_local(false, CmpOp::Neq));
            r.push(Expr::Verdict(Verdict::Drop));
            b.add_rule(CLUSTER_IPS, &r);
        }
        self.masquerade_chain(b);
    }

    fn services_chain(&self, b: &mut Batch) {
        let ranges: Vec<_> = self
            .config
            .cluster_cidrs
            .iter()
            .filter(|r| r.addr().is_ipv6() == self.v6)
            .collect();
        if !ranges.is_empty() {
            let mut r = Vec::new();
            for range in ranges {
                r.extend(rule::source_in(range.network(), range.prefix_len(), CmpOp::Neq));
            }
            r.extend([
                rule::destination_address(self.v6, Reg(0)),
                lookup(Shared::ClusterIps),
                rule::jump(MARK_CHAIN),
            ]);
            b.add_rule(SERVICES, &r);
        }
        b.add_rule(SERVICES, &self.by_frontend(Shared::ServiceIps));
        for mut r in self.to_node_addresses() {
            r.extend(by_port(Shared::NodePorts));
            b.add_rule(SERVICES, &r);
        }
    }

    fn masquerade_chain(&self, b: &mut Batch) {
        let second = if self.v6 { Reg(4) } else { Reg(1) };
        let mut hairpin = rule::ct_status(rule::CT_STATUS_DNAT);
        hairpin.extend([
            rule::source_address(self.v6, Reg(0)),
            rule::destination_address(self.v6, second),
            lookup(Shared::Hairpin),
            Expr::Masquerade,
        ]);
        b.add_rule(MASQUERADE, &hairpin);
        let mark = self.config.masquerade_mark();
        let mut marked = rule::mark_set(mark);
        // The mark must not ask for a second masquerade should the packet come by again (encapsulated, say).
        marked.extend(rule::clear_mark(mark));
        marked.push(Expr::Masquerade);
        b.add_rule(MASQUERADE, &marked);
    }

    fn by_frontend(&self, map: Shared) -> Vec<Expr> {
        let after = |r: u8| if self.v6 { Reg(r + 3) } else { Reg(r) };
        vec![
            rule::destination_address(self.v6, Reg(0)),
            rule::l4proto(after(1)),
            rule::destination_port(after(2)),
            Expr::VerdictMap {
                map: map.name().into(),
                key: Reg(0),
            },
        ]
    }

    /// One beginning of a rule for each way to say "an address of this node that answers on node ports".
    fn to_node_addresses(&self) -> Vec<Vec<Expr>> {
        let local = || rule::address_is_local(false, CmpOp::Eq);
        if self.config.node_port_addresses.is_empty() {
            let (loopback, prefix): (IpAddr, u8) = if self.v6 {
                (std::net::Ipv6Addr::LOCALHOST.into(), 128)
            } else {
                (std::net::Ipv4Addr::LOCALHOST.into(), 8)
            };
            let mut r = local();
            r.extend(rule::destination_in(loopback, prefix, CmpOp::Neq));
            return vec![r];
        }
        let ranges = self
            .config
            .node_port_addresses
            .iter()
            .filter(|r| r.addr().is_ipv6() == self.v6);
        ranges
            .map(|range| {
                let mut r = local();
                r.extend(rule::destination_in(
                    range.network(),
                    range.prefix_len(),
                    CmpOp::Eq,
                ));
                r
            })
            .collect()
    }
}

fn by_port(map: Shared) -> Vec<Expr> {
    vec![
        rule::l4proto(Reg(0)),
        rule::destination_port(Reg(1)),
        Expr::VerdictMap {
            map: map.name().into(),
            key: Reg(0),
        },
    ]
}

fn lookup(set: Shared) -> Expr {
    Expr::Lookup {
        set: set.name().into(),
        key: Reg(0),
        invert: false,
    }
}

fn own_changes(before: Option<&OwnSet>, now: &OwnSet) -> ElementChanges {
    let empty = BTreeMap::new();
    let before = before.map_or(&empty, |b| &b.elements);
    let mut out = ElementChanges::default();
    for (key, data) in before {
        if now.elements.get(key) != Some(data) {
            out.delete.push(key.clone());
        }
    }
    for (key, data) in &now.elements {
        if before.get(key) != Some(data) {
            out.add.push(element(key, data.as_ref()));
        }
    }
    out
}
