//! From a [`Snapshot`] to sets, chains and maps. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Typed;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keelson_api::selector::LabelSelector;
use keelson_nftables::{CmpOp, Expr, Reg, SetSpec, Verdict, rule};

use super::snapshot::{Labels, LocalAddresses, PodFacts, Snapshot, protocol};
use crate::overlay::fnv;

/// What the kernel is to have in the table of one family, besides what is always there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Desired {
    /// Sets and their elements.
    pub(super) sets: BTreeMap<String, (SetSpec, BTreeSet<Vec<u8>>)>,
    /// Rules of chains.
    pub(super) chains: BTreeMap<String, Vec<Vec<Expr>>>,
    /// Chain by destination address.
    pub(super) ingress: BTreeMap<Vec<u8>, String>,
    /// Chain by source address.
    pub(super) egress: BTreeMap<Vec<u8>, String>,
    /// Isolated addresses, twice each: a pod reaches itself.
    pub(super) own: BTreeSet<Vec<u8>>,
}

/// Which way packets go, seen from the pod that is isolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

fn selector(typed: &Typed) -> LabelSelector {
    let value = serde_json::to_value(typed).unwrap_or_default();
    LabelSelector::from_label_selector_value(&value).unwrap_or_else(|error| {
        // The API server admits none such. Selecting nothing allows nothing.
        tracing::warn!(%error, "a policy's selector is not valid and selects nothing");
        LabelSelector::nothing()
    })
}

fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    selector.matches_by(|key| labels.get(key).map(String::as_str))
}

fn padded_port(port: u16) -> [u8; 4] {
    let [a, b] = port.to_be_bytes();
    [a, b, 0, 0]
}

/// Whether a policy isolates in a direction.
fn applies(policy: &NetworkPolicy, direction: Direction) -> bool {
    let Some(spec) = &policy.spec else { return false };
    match (&spec.policy_types, direction) {
        (Some(types), Direction::Ingress) => types.iter().any(|kind| kind == "Ingress"),
        (Some(types), Direction::Egress) => types.iter().any(|kind| kind == "Egress"),
        (None, Direction::Ingress) => true,
        (None, Direction::Egress) => spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
    }
}

/// What the table of one family is to hold.
pub(super) fn compile(snapshot: &Snapshot, local: &LocalAddresses, v6: bool) -> Desired {
    let pods: Vec<PodFacts> = snapshot
        .pods
        .iter()
        .map(|pod| {
            let key = (pod.namespace.clone(), pod.name.clone());
            let known = local.get(&key).filter(|_| pod.local);
            let ips = known.unwrap_or(&pod.ips).iter().copied();
            PodFacts {
                ips: ips.filter(|ip| ip.is_ipv6() == v6).collect(),
                ..pod.clone()
            }
        })
        .collect();
    let mut compiler = Compiler {
        snapshot,
        pods: &pods,
        v6,
        out: Desired::default(),
    };
    let mut policies: Vec<&NetworkPolicy> = snapshot.policies.iter().map(AsRef::as_ref).collect();
    let key = |policy: &NetworkPolicy| (policy.metadata.namespace.clone(), policy.metadata.name.clone());
    policies.sort_by_key(|policy| key(policy));
    for direction in [Direction::Ingress, Direction::Egress] {
        // Only policies that isolate a pod of this node are of interest.
        let mut chosen: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, policy) in policies.iter().enumerate() {
            if !applies(policy, direction) {
                continue;
            }
            let spec = policy.spec.clone().unwrap_or_default();
            let selected = selector(&spec.pod_selector.unwrap_or_default());
            for (pod, facts) in pods.iter().enumerate() {
                let here = facts.local && Some(&facts.namespace) == policy.metadata.namespace.as_ref();
                if here && !facts.ips.is_empty() && matches(&selected, &facts.labels) {
                    chosen.entry(pod).or_default().push(index);
                }
            }
        }
        let mut rules_of: BTreeMap<usize, Vec<Vec<Expr>>> = BTreeMap::new();
        for (pod, indexes) in chosen {
            let mut rules = Vec::new();
            for index in indexes {
                let own = rules_of
                    .entry(index)
                    .or_insert_with(|| compiler.policy(policies[index], direction));
                rules.extend(own.iter().cloned());
            }
            rules.push(vec![Expr::Verdict(Verdict::Drop)]);
            let name = format!("policy-{:016x}", fnv(format!("{rules:?}").as_bytes()));
            for ip in &pods[pod].ips {
                let bytes = rule::octets(*ip);
                compiler.out.own.insert([&bytes[..], &bytes].concat());
                let map = match direction {
                    Direction::Ingress => &mut compiler.out.ingress,
                    Direction::Egress => &mut compiler.out.egress,
                };
                map.insert(bytes, name.clone());
            }
            compiler.out.chains.insert(name, rules);
        }
    }
    compiler.out
}

struct Compiler<'a> {
    snapshot: &'a Snapshot,
    pods: &'a [PodFacts],
    v6: bool,
    out: Desired,
}

/// What a rule of either direction says; `None` and empty are any.
type PeersAndPorts = (Option<Vec<NetworkPolicyPeer>>, Option<Vec<NetworkPolicyPort>>);

/// Ways that a rule allows; each is what a packet must match.
type Ways = Vec<Vec<Expr>>;

impl Compiler<'_> {
    /// One kernel rule for each combination of a peer and a port that the policy allows.
    fn policy(&mut self, policy: &NetworkPolicy, direction: Direction) -> Vec<Vec<Expr>> {
        let spec = policy.spec.clone().unwrap_or_default();
        let namespace = policy.metadata.namespace.clone().unwrap_or_default();
        let name = policy.metadata.name.clone().unwrap_or_default();
        let rules: Vec<PeersAndPorts> = match direction {
            Direction::Ingress => {
                let rules = spec.ingress.unwrap_or_default();
                rules.into_iter().map(|rule| (rule.from, rule.ports)).collect()
            }
            Direction::Egress => {
                let rules = spec.egress.unwrap_or_default();
                rules.into_iter().map(|rule| (rule.to, rule.ports)).collect()
            }
        };
        let mut out = Vec::new();
        for (index, (peers, ports)) in rules.iter().enumerate() {
            let id = format!("{namespace}/{name}/{direction:?}/{index}");
            let peers = peers.as_deref().filter(|peers| !peers.is_empty());
            let ports = ports.as_deref().filter(|ports| !ports.is_empty());
            let from = self.peers(&namespace, &id, peers, direction);
            let to = self.ports(&namespace, &id, peers, ports, direction);
            for peer in &from {
                for port in &to {
                    let mut rule = [peer.clone(), port.clone()].concat();
                    rule.push(Expr::Verdict(Verdict::Return));
                    out.push(rule);
                }
            }
        }
        out
    }

    /// The pods that a peer selects.
    fn selected(&self, namespace: &str, peer: &NetworkPolicyPeer) -> Vec<&PodFacts> {
        if peer.ip_block.is_some() {
            return Vec::new();
        }
        let pods = peer.pod_selector.as_ref().map(selector);
        let namespaces = peer.namespace_selector.as_ref().map(selector);
        let empty = Labels::new();
        let fits = |pod: &&PodFacts| {
            let inside = match &namespaces {
                Some(selector) => {
                    let labels = self.snapshot.namespaces.get(&pod.namespace).unwrap_or(&empty);
                    matches(selector, labels)
                }
                None => pod.namespace == namespace,
            };
            inside
                && pods
                    .as_ref()
                    .is_none_or(|selector| matches(selector, &pod.labels))
        };
        self.pods.iter().filter(fits).collect()
    }

    /// The address of the other end.
    fn other_end(&self, direction: Direction) -> Expr {
        match direction {
            Direction::Ingress => rule::source_address(self.v6, Reg(0)),
            Direction::Egress => rule::destination_address(self.v6, Reg(0)),
        }
    }

    fn peers(
        &mut self,
        namespace: &str,
        id: &str,
        peers: Option<&[NetworkPolicyPeer]>,
        direction: Direction,
    ) -> Ways {
        let Some(peers) = peers else {
            return vec![Vec::new()];
        };
        let mut ways = Ways::new();
        let mut elements = BTreeSet::new();
        let mut any_selector = false;
        for peer in peers {
            if let Some(block) = &peer.ip_block {
                ways.extend(self.block(block, direction));
                continue;
            }
            any_selector = true;
            let ips = self
                .selected(namespace, peer)
                .into_iter()
                .flat_map(|pod| &pod.ips);
            elements.extend(ips.map(|ip| rule::octets(*ip)));
        }
        if any_selector {
            let name = format!("peers-{:016x}", fnv(id.as_bytes()));
            let spec = SetSpec::by_address(&name, self.v6);
            self.out.sets.insert(name.clone(), (spec, elements));
            ways.push(vec![self.other_end(direction), lookup(&name)]);
        }
        ways
    }

    /// Addresses of a block, without its exceptions.
    fn block(&self, block: &IPBlock, direction: Direction) -> Option<Vec<Expr>> {
        let within = |net: &IpNet, op| match direction {
            Direction::Ingress => rule::source_in(net.network(), net.prefix_len(), op),
            Direction::Egress => rule::destination_in(net.network(), net.prefix_len(), op),
        };
        let family = |text: &String| -> Option<IpNet> {
            let net: IpNet = text.parse().ok()?;
            (net.addr().is_ipv6() == self.v6).then_some(net)
        };
        let mut way = within(&family(&block.cidr)?, CmpOp::Eq);
        for except in block.except.iter().flatten().filter_map(family) {
            way.extend(within(&except, CmpOp::Neq));
        }
        Some(way)
    }

    fn ports(
        &mut self,
        namespace: &str,
        id: &str,
        peers: Option<&[NetworkPolicyPeer]>,
        ports: Option<&[NetworkPolicyPort]>,
        direction: Direction,
    ) -> Ways {
        let Some(ports) = ports else {
            return vec![Vec::new()];
        };
        let mut ways = Ways::new();
        let mut named = BTreeSet::new();
        let mut any_name = false;
        for port in ports {
            let Some(proto) = protocol(port.protocol.as_deref()) else {
                continue;
            };
            let mut way = vec![
                rule::l4proto(Reg(0)),
                Expr::Cmp {
                    src: Reg(0),
                    op: CmpOp::Eq,
                    value: vec![proto],
                },
            ];
            match &port.port {
                None => ways.push(way),
                Some(IntOrString::Int(number)) => {
                    let Ok(first) = u16::try_from(*number) else {
                        continue;
                    };
                    let last = port.end_port.and_then(|last| u16::try_from(last).ok());
                    way.push(rule::destination_port(Reg(0)));
                    for (op, port) in match last {
                        None => vec![(CmpOp::Eq, first)],
                        Some(last) => vec![(CmpOp::Gte, first), (CmpOp::Lte, last)],
                    } {
                        way.push(Expr::Cmp {
                            src: Reg(0),
                            op,
                            value: port.to_be_bytes().to_vec(),
                        });
                    }
                    ways.push(way);
                }
                Some(IntOrString::String(name)) => {
                    any_name = true;
                    named.extend(self.named(namespace, peers, direction, name, proto));
                }
            }
        }
        if any_name {
            let name = format!("ports-{:016x}", fnv(id.as_bytes()));
            let spec = SetSpec::by_address_proto_port(&name, self.v6);
            self.out.sets.insert(name.clone(), (spec, named));
            let after = |r: u8| if self.v6 { Reg(r + 3) } else { Reg(r) };
            ways.push(vec![
                rule::destination_address(self.v6, Reg(0)),
                rule::l4proto(after(1)),
                rule::destination_port(after(2)),
                lookup(&name),
            ]);
        }
        ways
    }

    /// Destinations whose port has a name: this node's pods for ingress, the peers for egress.
    fn named(
        &self,
        namespace: &str,
        peers: Option<&[NetworkPolicyPeer]>,
        direction: Direction,
        name: &str,
        proto: u8,
    ) -> Vec<Vec<u8>> {
        let destinations: Vec<&PodFacts> = match (direction, peers) {
            (Direction::Ingress, _) => {
                let here = |pod: &&PodFacts| pod.local && pod.namespace == namespace;
                self.pods.iter().filter(here).collect()
            }
            (Direction::Egress, None) => self.pods.iter().collect(),
            (Direction::Egress, Some(peers)) => peers
                .iter()
                .flat_map(|peer| self.selected(namespace, peer))
                .collect(),
        };
        let mut out = Vec::new();
        for pod in destinations {
            for (_, _, port) in pod.ports.iter().filter(|p| p.0 == name && p.1 == proto) {
                out.extend(pod.ips.iter().map(|ip| destination(*ip, proto, *port)));
            }
        }
        out
    }
}

fn destination(ip: IpAddr, proto: u8, port: u16) -> Vec<u8> {
    [&rule::octets(ip)[..], &[proto, 0, 0, 0], &padded_port(port)].concat()
}

fn lookup(set: &str) -> Expr {
    Expr::Lookup {
        set: set.to_owned(),
        key: Reg(0),
        invert: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn pod(name: &str, labels: Value, last: u8, local: bool) -> PodFacts {
        PodFacts {
            namespace: "ns".into(),
            name: name.into(),
            labels: serde_json::from_value(labels).unwrap(),
            ips: vec![IpAddr::from([10, 244, 1, last])],
            ports: vec![("http".into(), 6, 8000 + u16::from(last))],
            local,
        }
    }

    fn policy(spec: Value) -> Arc<NetworkPolicy> {
        let object = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn desired(spec: Value) -> Desired {
        let snapshot = Snapshot {
            pods: vec![
                pod("web", json!({"app": "web"}), 2, true),
                pod("db", json!({"app": "db"}), 3, true),
                pod("far", json!({"app": "web"}), 4, false),
            ],
            namespaces: [(
                "ns".to_owned(),
                Labels::from([("team".to_owned(), "a".to_owned())]),
            )]
            .into(),
            policies: vec![policy(spec)],
        };
        compile(&snapshot, &LocalAddresses::new(), false)
    }

    /// Spec, isolated addresses for ingress and for egress (last octets), and rules per chain.
    #[test]
    fn policies_isolate_the_pods_they_select_in_their_directions() {
        let all = json!({});
        let web = json!({"matchLabels": {"app": "web"}});
        let port = |ports: Value| json!({"podSelector": {}, "ingress": [{"ports": ports}]});
        for (spec, ingress, egress, rules) in [
            (json!({"podSelector": all}), vec![2, 3], vec![], 1),
            (json!({"podSelector": web}), vec![2], vec![], 1),
            (
                json!({"podSelector": web, "policyTypes": ["Egress"]}),
                vec![],
                vec![2],
                1,
            ),
            (
                json!({"podSelector": web, "policyTypes": ["Ingress", "Egress"]}),
                vec![2],
                vec![2],
                1,
            ),
            (json!({"podSelector": web, "egress": [{}]}), vec![2], vec![2], 2),
            (
                port(json!([{"port": 80}, {"port": 81, "protocol": "UDP"}])),
                vec![2, 3],
                vec![],
                3,
            ),
            (
                port(json!([{"port": "http"}, {"port": "https"}])),
                vec![2, 3],
                vec![],
                2,
            ),
            (
                json!({"podSelector": web, "ingress": [{
                    "from": [{"podSelector": web}, {"namespaceSelector": {"matchLabels": {"team": "a"}}},
                             {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.1/32"]}}],
                    "ports": [{"port": 80, "endPort": 90}, {"protocol": "SCTP"}]}]}),
                vec![2],
                vec![],
                5,
            ),
        ] {
            let desired = desired(spec.clone());
            let last = |map: &BTreeMap<Vec<u8>, String>| -> Vec<u8> { map.keys().map(|ip| ip[3]).collect() };
            assert_eq!(last(&desired.ingress), ingress, "{spec}");
            assert_eq!(last(&desired.egress), egress, "{spec}");
            let most = desired.chains.values().map(Vec::len).max();
            assert_eq!(most, Some(rules), "{spec}");
        }
    }

    #[test]
    fn peers_and_named_ports_are_elements() {
        let desired = desired(json!({"podSelector": {}, "ingress": [{
            "from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": "http"}]}]}));
        let elements = |prefix: &str| -> Vec<Vec<u8>> {
            let (_, (_, elements)) = desired
                .sets
                .iter()
                .find(|(name, _)| name.starts_with(prefix))
                .unwrap();
            elements.iter().cloned().collect()
        };
        assert_eq!(elements("peers-"), [[10, 244, 1, 2], [10, 244, 1, 4]]);
        assert_eq!(
            elements("ports-"),
            [
                [10, 244, 1, 2, 6, 0, 0, 0, 0x1f, 0x42, 0, 0],
                [10, 244, 1, 3, 6, 0, 0, 0, 0x1f, 0x43, 0, 0]
            ]
        );
    }
}
