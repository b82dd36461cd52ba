//! The proxy against the real kernel, with real servers and clients in network namespaces without a way out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../../../network/tests/kernel/fake_api.rs"]
mod fake_api;
mod run;
mod support;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use keelson_client::NamespacedName;
use keelson_kube_proxy::Proxier;
use keelson_nftables::{Batch, Family, NfTables};
use serde_json::json;
use support::*;

fn ports() -> serde_json::Value {
    json!([{ "port": 8080, "nodePort": 30080, "protocol": "TCP" }, { "port": 8080, "nodePort": 30080, "protocol": "UDP" }])
}

#[test]
fn every_kind_of_address_from_every_place() {
    let lab = Lab::new(3);
    let mut proxier = Proxier::new(lab.config()).unwrap();
    let svc = service(
        "web",
        json!({ "type": "LoadBalancer", "clusterIP": "10.96.0.50", "ports": ports(), "externalIPs": ["172.30.0.77"],
                "status": [{ "ip": "10.112.0.1" }] }),
    );
    assert!(put(&mut proxier, &svc, &[&slice("web", &[2, 3])]).full);
    let addresses = [
        "10.96.0.50:8080",
        "10.112.0.1:8080",
        "172.30.0.1:30080",
        "172.30.0.77:8080",
    ];
    sh(&lab.outside, &format!("ip route add 172.30.0.77 via {NODE}"));
    for (place, ns) in [
        ("pod", lab.pod(4)),
        ("node", &lab.node),
        ("outside", &lab.outside),
    ] {
        for address in addresses {
            let seen: BTreeSet<u8> = (0..24)
                .map(|_| who(ns, address).unwrap_or_else(|e| panic!("{place} {address}: {e}")))
                .collect();
            assert_eq!(seen, BTreeSet::from([2, 3]), "{place} {address}");
            assert!(ask(&udp(ns, address)).is_ok(), "{place} {address} udp");
        }
    }
    // A pod that reaches itself, pods that keep their address, others that get the node's.
    put(&mut proxier, &svc, &[&slice("web", &[2])]);
    assert_eq!(fetch(lab.pod(2), "10.96.0.50:8080").unwrap(), "2 10.244.1.1");
    assert_eq!(fetch(lab.pod(2), "172.30.0.1:30080").unwrap(), "2 10.244.1.1");
    assert_eq!(fetch(lab.pod(4), "10.96.0.50:8080").unwrap(), "2 10.244.1.4");
    for external in ["172.30.0.1:30080", "10.112.0.1:8080", "172.30.0.77:8080"] {
        assert_eq!(fetch(lab.pod(4), external).unwrap(), "2 10.244.1.1", "{external}");
    }
    assert_eq!(fetch(&lab.outside, "172.30.0.1:30080").unwrap(), "2 10.244.1.1");
    assert_eq!(fetch(&lab.outside, "10.96.0.50:8080").unwrap(), "2 10.244.1.1");
    // Loopback is no node address; wrong ports of a cluster address are refused, unknown addresses are dropped.
    assert!(who(&lab.node, "127.0.0.1:30080").is_err());
    assert_eq!(
        who(lab.pod(4), "10.96.0.50:81"),
        Err(ErrorKind::ConnectionRefused)
    );
    assert_eq!(who(&lab.node, "10.96.0.50:81"), Err(ErrorKind::ConnectionRefused));
    assert_eq!(who(&lab.node, "10.96.9.9:81"), Err(ErrorKind::TimedOut));
    // Without endpoints: refused everywhere. Gone: nothing left.
    put(&mut proxier, &svc, &[]);
    for (place, ns) in [
        ("pod", lab.pod(4)),
        ("node", &lab.node),
        ("outside", &lab.outside),
    ] {
        for address in addresses {
            assert_eq!(
                who(ns, address),
                Err(ErrorKind::ConnectionRefused),
                "{place} {address}"
            );
        }
    }
    let before = proxier.sync(vec![]).unwrap();
    assert_eq!(before.messages, 0);
    proxier.sync(vec![(NamespacedName::of(&svc), None)]).unwrap();
    let left = sh(&lab.node, "nft list table ip kube-proxy");
    assert!(
        !left.contains("default/web") && !left.contains("10.96.0.50"),
        "{left}"
    );
}

#[test]
fn clients_stay_with_their_endpoint() {
    let lab = Lab::new(4);
    let mut proxier = Proxier::new(lab.config()).unwrap();
    let spec = |seconds: u32| {
        json!({ "clusterIP": "10.96.0.51", "ports": ports(), "type": "NodePort", "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": seconds } } })
    };
    let svc = service("sticky", spec(100));
    put(&mut proxier, &svc, &[&slice("sticky", &[2, 3, 4])]);
    let stays = |ns, address: &str| -> u8 {
        let seen: BTreeSet<u8> = (0..12).map(|_| who(ns, address).unwrap()).collect();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.into_iter().next().unwrap()
    };
    let first = stays(lab.pod(5), "10.96.0.51:8080");
    assert_eq!(stays(lab.pod(5), "172.30.0.1:30080"), first);
    // Another endpoint goes or comes: no matter. The own one goes: a new one is found and kept.
    let others: Vec<i16> = [2, 3, 4].into_iter().filter(|n| *n != i16::from(first)).collect();
    put(
        &mut proxier,
        &svc,
        &[&slice("sticky", &[i16::from(first), others[0]])],
    );
    assert_eq!(stays(lab.pod(5), "10.96.0.51:8080"), first);
    put(&mut proxier, &svc, &[&slice("sticky", &others)]);
    let second = stays(lab.pod(5), "10.96.0.51:8080");
    assert_ne!(second, first);
    // A new process remembers.
    let mut proxier = Proxier::new(lab.config()).unwrap();
    assert!(put(&mut proxier, &svc, &[&slice("sticky", &[2, 3, 4])]).full);
    assert_eq!(stays(lab.pod(5), "10.96.0.51:8080"), second);
    // It ends with the timeout.
    put(
        &mut proxier,
        &service("sticky", spec(1)),
        &[&slice("sticky", &[2, 3, 4])],
    );
    stays(lab.pod(5), "10.96.0.51:8080");
    let mut seen = BTreeSet::new();
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(1200));
        seen.insert(who(lab.pod(5), "10.96.0.51:8080").unwrap());
        if seen.len() > 1 {
            return;
        }
    }
    panic!("still {seen:?} after its timeout");
}

#[test]
fn local_policies_and_their_fallbacks() {
    let lab = Lab::new(3);
    let mut proxier = Proxier::new(lab.config()).unwrap();
    let external = |ranges: serde_json::Value| {
        service(
            "ext",
            json!({ "type": "LoadBalancer", "clusterIP": "10.96.0.52", "ports": ports(), "externalTrafficPolicy": "Local",
                    "healthCheckNodePort": 32000, "loadBalancerSourceRanges": ranges, "status": [{ "ip": "10.112.0.2" }] }),
        )
    };
    let svc = external(json!([]));
    // 3 is "elsewhere": reachable here, but a node of another name.
    put(&mut proxier, &svc, &[&slice("ext", &[2, -3])]);
    for address in ["172.30.0.1:30080", "10.112.0.2:8080"] {
        for _ in 0..8 {
            assert_eq!(
                fetch(&lab.outside, address).unwrap(),
                format!("2 {OUTSIDE}"),
                "the client's address is kept"
            );
        }
        let seen: BTreeSet<u8> = (0..24).map(|_| who(lab.pod(4), address).unwrap()).collect();
        assert_eq!(seen, BTreeSet::from([2, 3]), "pods are inside");
        assert!(
            fetch(lab.pod(4), address).unwrap().ends_with(" 10.244.1.4"),
            "and keep their address"
        );
        let seen: BTreeSet<u8> = (0..24).map(|_| who(&lab.node, address).unwrap()).collect();
        assert_eq!(seen, BTreeSet::from([2, 3]), "the node is inside");
    }
    let m = models(&svc, &[&slice("ext", &[2, -3])]);
    assert_eq!(
        m.v4.health_check.map(|h| (h.port, h.local_endpoints)),
        Some((32000, 1))
    );
    // No local endpoint: outside is ignored (another node will answer), inside goes on.
    put(&mut proxier, &svc, &[&slice("ext", &[-3])]);
    assert_eq!(who(&lab.outside, "10.112.0.2:8080"), Err(ErrorKind::TimedOut));
    assert_eq!(who(lab.pod(4), "10.112.0.2:8080"), Ok(3));
    assert_eq!(who(lab.pod(4), "10.96.0.52:8080"), Ok(3));
    // Terminating endpoints that serve are used when no ready one is left.
    let terminating = endpoint(2, json!({ "ready": false, "serving": true, "terminating": true }));
    put(
        &mut proxier,
        &svc,
        &[&slice_of("ext", std::slice::from_ref(&terminating))],
    );
    assert_eq!(who(&lab.outside, "10.112.0.2:8080"), Ok(2));
    let dead = endpoint(
        3,
        json!({ "ready": false, "serving": false, "terminating": true }),
    );
    put(&mut proxier, &svc, &[&slice_of("ext", &[dead])]);
    assert_eq!(
        who(&lab.outside, "10.112.0.2:8080"),
        Err(ErrorKind::ConnectionRefused)
    );
    // Source ranges apply to the load balancer's address and nothing else.
    put(
        &mut proxier,
        &external(json!(["192.0.2.0/24"])),
        &[&slice("ext", &[2])],
    );
    assert_eq!(who(&lab.outside, "10.112.0.2:8080"), Err(ErrorKind::TimedOut));
    assert_eq!(who(&lab.outside, "172.30.0.1:30080"), Ok(2));
    put(
        &mut proxier,
        &external(json!(["192.0.2.0/24", "172.30.0.0/24"])),
        &[&slice("ext", &[2])],
    );
    assert_eq!(who(&lab.outside, "10.112.0.2:8080"), Ok(2));

    let internal = service(
        "int",
        json!({ "clusterIP": "10.96.0.53", "ports": ports(), "internalTrafficPolicy": "Local" }),
    );
    put(&mut proxier, &internal, &[&slice("int", &[2, -3])]);
    assert!((0..12).all(|_| who(lab.pod(4), "10.96.0.53:8080") == Ok(2)));
    put(&mut proxier, &internal, &[&slice("int", &[-3])]);
    assert_eq!(who(lab.pod(4), "10.96.0.53:8080"), Err(ErrorKind::TimedOut));
}

#[test]
fn topology_hints_keep_traffic_near() {
    let lab = Lab::new(3);
    let mut proxier = Proxier::new(lab.config()).unwrap();
    let svc = service("near", json!({ "clusterIP": "10.96.0.54", "ports": ports() }));
    let hinted = |n: i16, hints: serde_json::Value| {
        let mut e = endpoint(n, json!({ "ready": true }));
        e["hints"] = hints;
        e
    };
    let zones = |z: &str| json!({ "forZones": [{ "name": z }] });
    let table = [
        (vec![hinted(2, zones("a")), hinted(3, zones("b"))], vec![2]),
        (vec![hinted(2, zones("c")), hinted(3, zones("b"))], vec![2, 3]),
        (vec![hinted(2, zones("a")), endpoint(3, json!({}))], vec![2, 3]),
        (
            vec![
                hinted(
                    2,
                    json!({ "forNodes": [{ "name": "n2" }], "forZones": [{ "name": "a" }] }),
                ),
                hinted(
                    3,
                    json!({ "forNodes": [{ "name": "n1" }], "forZones": [{ "name": "a" }] }),
                ),
            ],
            vec![3],
        ),
    ];
    for (endpoints, expected) in table {
        put(&mut proxier, &svc, &[&slice_of("near", &endpoints)]);
        let seen: BTreeSet<u8> = (0..24)
            .map(|_| who(lab.pod(4), "10.96.0.54:8080").unwrap())
            .collect();
        assert_eq!(seen, expected.into_iter().collect(), "{endpoints:?}");
    }
}

#[test]
fn udp_flows_follow_the_endpoints() {
    let lab = Lab::new(3);
    let mut proxier = Proxier::new(lab.config()).unwrap();
    let svc = service(
        "dns",
        json!({ "type": "NodePort", "clusterIP": "10.96.0.55", "ports": ports() }),
    );
    put(&mut proxier, &svc, &[&slice("dns", &[2])]);
    let cluster = udp(lab.pod(4), "10.96.0.55:8080");
    let node_port = udp(&lab.outside, "172.30.0.1:30080");
    for socket in [&cluster, &node_port] {
        assert!(ask(socket).unwrap().starts_with("2 "));
    }
    // The same sockets: their flows would stay with the old endpoint.
    let synced = put(&mut proxier, &svc, &[&slice("dns", &[3])]);
    assert_eq!(synced.flows_deleted, 2);
    for socket in [&cluster, &node_port] {
        assert!(ask(socket).unwrap().starts_with("3 "));
    }
    // An endpoint more does not disturb flows.
    assert_eq!(
        put(&mut proxier, &svc, &[&slice("dns", &[2, 3])]).flows_deleted,
        0
    );
}

#[test]
fn restarts_and_foreign_changes_are_survived() {
    let lab = Lab::new(3);
    let mut proxier = Proxier::new(lab.config()).unwrap();
    let svc = service("web", json!({ "clusterIP": "10.96.0.56", "ports": ports() }));
    put(&mut proxier, &svc, &[&slice("web", &[2])]);
    let flow = udp(lab.pod(4), "10.96.0.56:8080");
    ask(&flow).unwrap();
    drop(proxier);
    // A new process with one endpoint more: the live flow stays where it is.
    let mut proxier = Proxier::new(lab.config()).unwrap();
    assert!(put(&mut proxier, &svc, &[&slice("web", &[2, 3])]).full);
    assert!((0..8).all(|_| ask(&flow).unwrap().starts_with("2 ")));
    // Somebody deletes the table: the next change makes it anew.
    lab.node
        .run(|| {
            let mut nft = NfTables::open().unwrap();
            let mut batch = Batch::new(Family::Ipv4, "kube-proxy");
            batch.delete_table();
            nft.commit(batch).unwrap();
            Ok(())
        })
        .unwrap();
    assert!(put(&mut proxier, &svc, &[&slice("web", &[3])]).full);
    assert_eq!(who(lab.pod(4), "10.96.0.56:8080"), Ok(3));
    proxier.remove().unwrap();
    assert_eq!(sh(&lab.node, "nft list tables"), "");
}

#[test]
fn two_services_may_claim_one_address() {
    let lab = Lab::new(3);
    let mut proxier = Proxier::new(lab.config()).unwrap();
    let of = |name: &str, ip: &str| {
        service(
            name,
            json!({ "clusterIP": ip, "ports": ports(), "externalIPs": ["172.30.0.77"], "type": "ClusterIP" }),
        )
    };
    let (a, b) = (of("a", "10.96.0.57"), of("b", "10.96.0.58"));
    put(&mut proxier, &b, &[&slice("b", &[3])]);
    assert_eq!(who(lab.pod(4), "172.30.0.77:8080"), Ok(3));
    put(&mut proxier, &a, &[&slice("a", &[2])]);
    assert_eq!(who(lab.pod(4), "172.30.0.77:8080"), Ok(2));
    proxier.sync(vec![(NamespacedName::of(&a), None)]).unwrap();
    assert_eq!(who(lab.pod(4), "172.30.0.77:8080"), Ok(3));
}

#[test]
fn one_endpoint_of_ten_thousand() {
    let lab = Lab::new(3);
    let mut proxier = Proxier::new(lab.config()).unwrap();
    let mut services = Vec::new();
    let mut changes = Vec::new();
    for i in 0..1000u16 {
        let svc = service(
            &format!("s{i}"),
            json!({ "clusterIP": format!("10.97.{}.{}", i >> 8, i & 255), "ports": [{ "port": 80 }] }),
        );
        let endpoints: Vec<i16> = (0..10).map(|e| 0x0200 + (i as i16) * 10 + e).collect();
        changes.push((
            NamespacedName::of(&svc),
            Some(models(&svc, &[&slice(&format!("s{i}"), &endpoints)])),
        ));
        services.push((svc, endpoints));
    }
    let start = Instant::now();
    let synced = proxier.sync(changes).unwrap();
    println!("full table: {:?}, {} messages", start.elapsed(), synced.messages);
    let mut times = Vec::new();
    for (i, (svc, endpoints)) in services.iter_mut().enumerate().take(21) {
        endpoints[3] = 2 + (i as i16) % 3;
        let new = slice(&format!("s{i}"), endpoints);
        let start = Instant::now();
        let synced = put(&mut proxier, svc, &[&new]);
        times.push(start.elapsed());
        assert!(synced.messages <= 8, "{synced:?}");
    }
    times.sort();
    println!("one endpoint changes: p50 {:?}, max {:?}", times[10], times[20]);
    assert!(times[10] < Duration::from_millis(20), "{times:?}");
    let (svc, _) = &services[1];
    put(&mut proxier, svc, &[&slice("s1", &[2])]);
    assert_eq!(who(lab.pod(4), "10.97.0.1:80"), Ok(2));
}

#[test]
fn ipv6_tables_are_accepted_and_change_in_place() {
    let lab = Lab::new(1);
    let mut config = lab.config();
    config.ipv6 = true;
    config.cluster_cidrs.push("fd00:10::/56".parse().unwrap());
    config.service_cidrs.push("fd00:96::/112".parse().unwrap());
    let mut proxier = Proxier::new(config).unwrap();
    let svc = service(
        "six",
        json!({ "type": "LoadBalancer", "clusterIP": "fd00:96::1", "ports": ports(), "sessionAffinity": "ClientIP",
                "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["fd00:1::/64"], "status": [{ "ip": "fd00:112::1" }] }),
    );
    let location = keelson_kube_proxy::model::Location {
        node: "n1".into(),
        zone: None,
    };
    let slice = |last: &[u8]| {
        let endpoints: Vec<_> = last
            .iter()
            .map(|n| json!({ "addresses": [format!("fd00:10::{n}")], "nodeName": "n1" }))
            .collect();
        let mut slice = slice_of("six", &endpoints);
        slice.address_type = "IPv6".into();
        slice
    };
    let models = |last: &[u8]| keelson_kube_proxy::Models {
        v4: Default::default(),
        v6: keelson_kube_proxy::model::service_model(&svc, &[&slice(last)], &location, true),
    };
    for last in [&[1u8, 2][..], &[2, 3, 4], &[]] {
        proxier
            .sync(vec![(NamespacedName::of(&svc), Some(models(last)))])
            .unwrap();
        // nft 1.0.6 cannot list rules that look up what a map gave; the kernel itself says what it has.
        let count = lab
            .node
            .run(|| {
                let mut nft = NfTables::open().unwrap();
                let sets = nft.sets(Family::Ipv6, "kube-proxy").unwrap();
                let pool = sets.iter().find(|s| s.starts_with("local-endpoints-"));
                Ok(pool.map_or(0, |set| {
                    nft.elements(Family::Ipv6, "kube-proxy", set).unwrap().len()
                }))
            })
            .unwrap();
        assert_eq!(count, last.len());
    }
}
