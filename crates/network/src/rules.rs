//! The network's own nf_tables table: masquerade of pods towards the outside, host ports, and a guard for loopback.
//!
//! ```text
//! prerouting, output   nat    address . protocol . port -> dnat   (host ports with an address)
//!                             local address, protocol . port -> dnat   (host ports of all addresses)
//! postrouting          nat    hairpin and loopback connections to host ports, pods to the outside -> masquerade
//! input                filter nobody but this machine talks to 127.0.0.0/8
//! ```
//! `route_localnet` is on for the bridge, so that `127.0.0.1:<host port>` works; the guard keeps what that would open shut.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use keelson_nftables::{
    BaseChain, Batch, ChainType, CmpOp, Data, Element, Expr, Family, Hook, MetaKey, Reg, SetSpec, Verdict,
    rule,
};

use crate::config::{Config, HostPort};
use crate::ipam::Record;

const PORTS: &str = "host-ports";
const IP_PORTS: &str = "host-ip-ports";
const HAIRPIN: &str = "hairpin";
const CHAIN: &str = "hostports";
const GUARD: &str = "loopback-guard";

/// Which sets an element of a host port goes to.
type SetElement = (&'static str, Element);

fn v6(ip: IpAddr) -> bool {
    ip.is_ipv6()
}

fn family(v6: bool) -> Family {
    if v6 { Family::Ipv6 } else { Family::Ipv4 }
}

fn padded_port(port: u16) -> [u8; 4] {
    let [a, b] = port.to_be_bytes();
    [a, b, 0, 0]
}

/// The elements that the host ports of one pod address need.
fn elements(ip: IpAddr, ports: &[HostPort]) -> Vec<SetElement> {
    let mut out = Vec::new();
    for port in ports {
        let to = [&rule::octets(ip)[..], &padded_port(port.container_port)].concat();
        let proto_port = [
            &[port.protocol.number(), 0, 0, 0][..],
            &padded_port(port.host_port),
        ]
        .concat();
        match port.host_ip {
            Some(host) if !host.is_unspecified() => {
                if v6(host) == v6(ip) {
                    let key = [&rule::octets(host)[..], &proto_port].concat();
                    out.push((IP_PORTS, Element::with(key, Data::Bytes(to))));
                }
            }
            _ => out.push((PORTS, Element::with(proto_port, Data::Bytes(to)))),
        }
    }
    if !out.is_empty() {
        let bytes = rule::octets(ip);
        out.push((HAIRPIN, Element::key([&bytes[..], &bytes].concat())));
    }
    out
}

fn translate(v6: bool, load: Vec<Expr>, map: &str) -> Vec<Expr> {
    let (address, port) = (Reg(8), if v6 { Reg(12) } else { Reg(9) });
    let mut rule = load;
    rule.push(Expr::MapLookup {
        map: map.to_owned(),
        key: Reg(0),
        dst: address,
    });
    rule.push(Expr::Dnat {
        family: if v6 { 10 } else { 2 },
        addr: address,
        port: Some(port),
    });
    rule
}

/// The whole table of one family, made anew; `records` are the pods that have host ports now.
pub(crate) fn table<'a>(
    config: &Config,
    use_v6: bool,
    pod_cidrs: &[IpNet],
    records: impl Iterator<Item = &'a Record>,
) -> Batch {
    let mut b = Batch::new(family(use_v6), &config.table);
    b.recreate_table();
    b.add_set(&SetSpec::by_proto_port(PORTS).to_address_port(use_v6));
    b.add_set(&SetSpec::by_address_proto_port(IP_PORTS, use_v6).to_address_port(use_v6));
    b.add_set(&SetSpec::by_address_pair(HAIRPIN, use_v6));
    b.add_chain(CHAIN).add_chain(GUARD);

    // Before the service proxy's chains at -100: a host port wins over a node port.
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        b.add_base_chain(
            name,
            BaseChain {
                chain_type: ChainType::Nat,
                hook,
                priority: -101,
            },
        );
        b.add_rule(name, &[rule::jump(CHAIN)]);
    }
    let after = |r: u8| if use_v6 { Reg(r + 3) } else { Reg(r) };
    let load = vec![
        rule::destination_address(use_v6, Reg(0)),
        rule::l4proto(after(1)),
        rule::destination_port(after(2)),
    ];
    b.add_rule(CHAIN, &translate(use_v6, load, IP_PORTS));
    let mut load = rule::address_is_local(false, CmpOp::Eq);
    load.extend([rule::l4proto(Reg(0)), rule::destination_port(Reg(1))]);
    b.add_rule(CHAIN, &translate(use_v6, load, PORTS));

    b.add_base_chain(
        "postrouting",
        BaseChain {
            chain_type: ChainType::Nat,
            hook: Hook::Postrouting,
            priority: 100,
        },
    );
    let second = if use_v6 { Reg(4) } else { Reg(1) };
    let mut hairpin = rule::ct_status(rule::CT_STATUS_DNAT);
    hairpin.extend([
        rule::source_address(use_v6, Reg(0)),
        rule::destination_address(use_v6, second),
        Expr::Lookup {
            set: HAIRPIN.into(),
            key: Reg(0),
            invert: false,
        },
        Expr::Masquerade,
    ]);
    b.add_rule("postrouting", &hairpin);
    if !use_v6 {
        let mut local = rule::ct_status(rule::CT_STATUS_DNAT);
        local.extend(rule::source_in(Ipv4Addr::LOCALHOST.into(), 8, CmpOp::Eq));
        local.extend(rule::interface(MetaKey::OifName, "lo", CmpOp::Neq));
        local.push(Expr::Masquerade);
        b.add_rule("postrouting", &local);
    }
    for range in pod_cidrs.iter().filter(|r| v6(r.addr()) == use_v6) {
        b.add_rule("postrouting", &outbound(config, *range));
    }
    if !use_v6 {
        guard(&mut b);
    }
    let mut seen = std::collections::HashSet::new();
    for record in records {
        for ip in record.ips.iter().filter(|ip| v6(**ip) == use_v6) {
            for (set, element) in elements(*ip, &record.host_ports) {
                if seen.insert((set, element.key.clone())) {
                    b.add_elements(set, &[element]);
                }
            }
        }
    }
    b
}

/// Pods of `range` to anything outside the cluster's ranges: behind the node's address.
fn outbound(config: &Config, range: IpNet) -> Vec<Expr> {
    let mut out = rule::source_in(range.network(), range.prefix_len(), CmpOp::Eq);
    let multicast: IpNet = if range.addr().is_ipv4() {
        "224.0.0.0/4"
    } else {
        "ff00::/8"
    }
    .parse()
    .expect("invariant: a literal network");
    let inside = config
        .cluster_cidrs
        .iter()
        .chain(&config.service_cidrs)
        .chain(&config.load_balancer_cidrs);
    for net in inside
        .chain([&multicast])
        .filter(|n| v6(n.addr()) == v6(range.addr()))
    {
        out.extend(rule::destination_in(net.network(), net.prefix_len(), CmpOp::Neq));
    }
    out.extend(rule::interface(MetaKey::OifName, &config.bridge, CmpOp::Neq));
    out.push(Expr::Masquerade);
    out
}

fn guard(b: &mut Batch) {
    b.add_base_chain(
        "input",
        BaseChain {
            chain_type: ChainType::Filter,
            hook: Hook::Input,
            priority: 0,
        },
    );
    let mut from_outside = rule::interface(MetaKey::IifName, "lo", CmpOp::Neq);
    from_outside.extend(rule::destination_in(Ipv4Addr::LOCALHOST.into(), 8, CmpOp::Eq));
    from_outside.push(rule::jump(GUARD));
    b.add_rule("input", &from_outside);
    for mut allowed in [
        rule::ct_state(rule::CT_ESTABLISHED | rule::CT_RELATED),
        rule::ct_status(rule::CT_STATUS_DNAT),
    ] {
        allowed.push(Expr::Verdict(Verdict::Return));
        b.add_rule(GUARD, &allowed);
    }
    b.add_rule(GUARD, &[Expr::Verdict(Verdict::Drop)]);
}

/// Adds or removes the host ports of one pod, one transaction per family.
pub(crate) fn host_ports(config: &Config, record: &Record, add: bool) -> Vec<Batch> {
    let mut out = Vec::new();
    for ip in &record.ips {
        let elements = elements(*ip, &record.host_ports);
        if elements.is_empty() {
            continue;
        }
        let mut b = Batch::new(family(v6(*ip)), &config.table);
        for (set, element) in elements {
            if add {
                b.add_elements(set, &[element]);
            } else {
                b.delete_elements(set, &[element.key]);
            }
        }
        out.push(b);
    }
    out
}
