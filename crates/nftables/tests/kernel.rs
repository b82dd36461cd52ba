//! Transactions against the real kernel, each test in a network namespace of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use keelson_nftables::{
    BaseChain, Batch, ChainType, CmpOp, Conntrack, Data, Element, Error, Expr, Family, Hook, NfTables, Reg,
    SetSpec, Verdict, rule,
};
use keelson_sys::netns::NetNs;

fn in_ns(f: impl FnOnce() + Send + 'static) {
    NetNs::create()
        .unwrap()
        .run(move || {
            f();
            Ok(())
        })
        .unwrap();
}

fn key(proto: u8, port: u16) -> Vec<u8> {
    let [a, b] = port.to_be_bytes();
    vec![proto, 0, 0, 0, a, b, 0, 0]
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table with everything in it")]
fn everything_the_proxy_uses_is_accepted_and_read_back() {
    in_ns(|| {
        let mut nft = NfTables::open().unwrap();
        let mut b = Batch::new(Family::Ipv4, "t");
        b.recreate_table();
        for (name, chain_type, hook, priority) in [
            ("pre", ChainType::Nat, Hook::Prerouting, -100),
            ("out", ChainType::Nat, Hook::Output, -100),
            ("post", ChainType::Nat, Hook::Postrouting, 100),
            ("in", ChainType::Filter, Hook::Input, 0),
        ] {
            b.add_base_chain(
                name,
                BaseChain {
                    chain_type,
                    hook,
                    priority,
                },
            );
        }
        b.add_chain("svc");
        b.add_set(&SetSpec::by_proto_port("ports").to_verdict());
        b.add_set(&SetSpec::by_number("eps").to_address_port(false));
        b.add_set(
            &SetSpec::by_address("aff", false)
                .to_address_port(false)
                .dynamic(1024),
        );
        b.add_set(&SetSpec::by_address_port("members", false));
        let mut r = vec![rule::l4proto(Reg(0)), rule::destination_port(Reg(1))];
        r.push(Expr::VerdictMap {
            map: "ports".into(),
            key: Reg(0),
        });
        b.add_rule("pre", &r);
        b.add_rule("svc", &rule::set_mark(0x4000));
        let mut r = vec![rule::source_address(false, Reg(0))];
        r.push(Expr::MapLookup {
            map: "aff".into(),
            key: Reg(0),
            dst: Reg(4),
        });
        r.push(Expr::Lookup {
            set: "members".into(),
            key: Reg(4),
            invert: false,
        });
        r.push(Expr::Dynset {
            set: "aff".into(),
            op: keelson_nftables::DynsetOp::Update,
            key: Reg(0),
            data: Some(Reg(4)),
            timeout_ms: Some(1000),
        });
        r.push(Expr::Dnat {
            family: 2,
            addr: Reg(4),
            port: Some(Reg(5)),
        });
        b.add_rule("svc", &r);
        let mut r = vec![Expr::Random {
            modulus: 3,
            dst: Reg(0),
        }];
        r.push(Expr::MapLookup {
            map: "eps".into(),
            key: Reg(0),
            dst: Reg(4),
        });
        r.push(Expr::Dnat {
            family: 2,
            addr: Reg(4),
            port: Some(Reg(5)),
        });
        b.add_rule("svc", &r);
        let mut r = rule::mark_set(0x4000);
        r.extend(rule::clear_mark(0x4000));
        r.push(Expr::Masquerade);
        b.add_rule("post", &r);
        let mut r = rule::address_is_local(false, CmpOp::Eq);
        r.push(Expr::Counter);
        r.push(rule::reject(false));
        b.add_rule("in", &r);
        b.add_elements(
            "ports",
            &[Element::with(
                key(6, 80),
                Data::Verdict(Verdict::Goto("svc".into())),
            )],
        );
        let eps: Vec<Element> = (0..1000u32)
            .map(|i| {
                Element::with(
                    i.to_ne_bytes().to_vec(),
                    Data::Bytes(vec![10, 0, (i >> 8) as u8, i as u8, 0, 80, 0, 0]),
                )
            })
            .collect();
        b.add_elements("eps", &eps);
        nft.commit(b).unwrap();
        assert_eq!(nft.tables(Family::Ipv4).unwrap(), ["t"]);
        assert_eq!(nft.chains(Family::Ipv4, "t").unwrap().len(), 5);
        assert_eq!(nft.sets(Family::Ipv4, "t").unwrap().len(), 4);
        assert_eq!(nft.rule_count(Family::Ipv4, "t", "svc").unwrap(), 3);
        assert_eq!(nft.elements(Family::Ipv4, "t", "eps").unwrap().len(), 1000);
        let ports = nft.elements(Family::Ipv4, "t", "ports").unwrap();
        assert_eq!(ports[0].key, key(6, 80));
        assert_eq!(ports[0].verdict, Some((-4, Some("svc".into()))));
        // Replace one element in place, drop a chain that is in use only by what goes with it.
        let mut b = Batch::new(Family::Ipv4, "t");
        b.delete_elements("eps", &[0u32.to_ne_bytes().to_vec()]);
        b.add_elements(
            "eps",
            &[Element::with(
                vec![0; 4],
                Data::Bytes(vec![10, 9, 9, 9, 0, 80, 0, 0]),
            )],
        );
        b.delete_elements("ports", &[key(6, 80)]);
        b.delete_chain("svc");
        nft.commit(b).unwrap();
        assert_eq!(nft.chains(Family::Ipv4, "t").unwrap().len(), 4);
        assert!(nft.elements(Family::Ipv4, "t", "ports").unwrap().is_empty());
    });
}

#[test]
fn a_refused_batch_changes_nothing_and_says_what() {
    in_ns(|| {
        let mut nft = NfTables::open().unwrap();
        let mut b = Batch::new(Family::Ipv4, "t");
        b.add_table().add_chain("a");
        b.delete_elements("missing", &[vec![0; 8]]);
        let e = nft.commit(b).unwrap_err();
        assert!(
            matches!(&e, Error::Refused { operation: "delete elements", name, .. } if name == "missing"),
            "{e}"
        );
        assert!(nft.tables(Family::Ipv4).unwrap().is_empty());
    });
}

#[test]
fn conntrack_of_a_new_namespace_is_empty() {
    in_ns(|| {
        let mut ct = Conntrack::open().unwrap();
        assert_eq!(ct.delete(false, 17, |_| true).unwrap(), 0);
    });
}
