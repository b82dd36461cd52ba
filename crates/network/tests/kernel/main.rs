//! The pod network against the real kernel: machines are network namespaces without a way out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod dns;
mod fake_api;
mod policy;
mod support;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use keelson_network::{Error, HostPort, PodNetwork, Protocol};
use keelson_sys::netns::NetNs;
use support::*;

#[test]
fn pods_reach_each_other_on_a_node_and_across_nodes() {
    let lab = Lab::new();
    let (n1, n2) = (lab.node(1), lab.node(2));
    join(&[&n1, &n2]);
    let (a, b, c) = (
        lab.pod(&n1, "a", vec![]),
        lab.pod(&n1, "b", vec![]),
        lab.pod(&n2, "c", vec![]),
    );
    serve(&b.ns, "b", 80);
    serve(&c.ns, "c", 80);
    assert_eq!(
        fetch(&a.ns, &format!("{}:80", b.ip)).unwrap(),
        format!("b {} 1", a.ip)
    );
    // Larger than any MTU on the way, and the source address is the pod's own.
    assert_eq!(
        fetch_bytes(&a.ns, &format!("{}:80", c.ip), 1 << 20).unwrap(),
        format!("c {} 1048576", a.ip)
    );
    assert!(sh(&a.ns, "ip link show eth0").contains("mtu 1450"));
    // The node itself reaches pods here and there.
    assert_eq!(fetch(&n1.ns, &format!("{}:80", b.ip)).unwrap(), "b 10.244.1.1 1");
    assert_eq!(fetch(&n1.ns, &format!("{}:80", c.ip)).unwrap(), "c 10.244.1.1 1");
    // A pod reaches the node and other machines; these see the node's address.
    serve(&lab.outside, "outside", 80);
    serve(&n2.ns, "n2", 80);
    assert_eq!(
        fetch(&a.ns, &format!("{OUTSIDE}:80")).unwrap(),
        "outside 172.30.0.1 1"
    );
    assert_eq!(fetch(&a.ns, "172.30.0.2:80").unwrap(), "n2 172.30.0.1 1");
    // A node that leaves is unreachable at once; one that comes back is reachable again.
    n1.network.set_peer("n2", None).unwrap();
    assert!(fetch(&a.ns, &format!("{}:80", c.ip)).is_err());
    join(&[&n1, &n2]);
    fetch(&a.ns, &format!("{}:80", c.ip)).unwrap();
}

#[test]
fn masquerade_towards_pods_of_other_nodes_takes_an_address_that_finds_back() {
    let lab = Lab::new();
    let (n1, n2) = (lab.node(1), lab.node(2));
    join(&[&n1, &n2]);
    // Every node has the cluster DNS address: as a source it leads back to nobody.
    for node in [&n1, &n2] {
        node.network
            .add_local_address("10.96.0.10".parse().unwrap())
            .unwrap();
    }
    let (a, b, c) = (
        lab.pod(&n1, "a", vec![]),
        lab.pod(&n1, "b", vec![]),
        lab.pod(&n2, "c", vec![]),
    );
    serve(&b.ns, "b", 80);
    serve(&c.ns, "c", 80);
    // What the service proxy does for load balancer addresses and node ports.
    sh(
        &n1.ns,
        &format!(
            "nft 'table ip proxy {{
               chain in {{
                 type nat hook prerouting priority -100;
                 ip daddr 10.112.0.1 tcp dport 80 dnat to {}:80
                 ip daddr 10.112.0.2 tcp dport 80 dnat to {}:80
                 ip daddr 172.30.0.1 tcp dport 30080 dnat to {}:80
               }}
               chain out {{
                 type nat hook postrouting priority 100;
                 ct status dnat masquerade
               }}
             }}'",
            b.ip, c.ip, c.ip
        ),
    );
    for (from, to, expected) in [
        (&a.ns, "10.112.0.1:80", "b 10.244.1.1 1"),
        (&a.ns, "10.112.0.2:80", "c 10.244.1.1 1"),
        (&a.ns, "172.30.0.1:30080", "c 10.244.1.1 1"),
        (&lab.outside, "172.30.0.1:30080", "c 10.244.1.1 1"),
    ] {
        let got = fetch(from, to).unwrap_or_else(|e| panic!("{to}: {e}"));
        assert_eq!(got, expected, "{to}");
    }
}

#[test]
fn nothing_for_the_clusters_ranges_leaves_by_the_default_route() {
    let lab = Lab::new();
    let n1 = lab.node(1);
    let a = lab.pod(&n1, "a", vec![]);
    // The machine outside would answer for every address if it were asked.
    sh(&lab.outside, "ip route add local 10.0.0.0/8 dev lo");
    serve(&lab.outside, "leak", 80);
    for to in ["10.244.9.9:80", "10.96.0.77:80", "10.112.0.5:80"] {
        for ns in [&a.ns, &n1.ns] {
            let error = fetch(ns, to).unwrap_err();
            assert_ne!(
                error.kind(),
                std::io::ErrorKind::ConnectionRefused,
                "{to}: {error}"
            );
        }
    }
    assert_eq!(fetch(&n1.ns, "10.200.0.1:80").unwrap(), "leak 172.30.0.1 1");
    // Also without the bridge, and before the node is configured.
    sh(&n1.ns, "ip link del keelson0");
    let error = fetch(&n1.ns, "10.96.0.77:80").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable, "{error}");
}

#[test]
fn setup_is_idempotent_survives_restarts_and_teardown_frees() {
    let lab = Lab::new();
    let n1 = lab.node(1);
    let a = lab.pod(&n1, "a", vec![]);
    assert_eq!(n1.network.setup(&a.request).unwrap(), [a.ip]);
    let b = lab.pod(&n1, "b", vec![]);
    serve(&b.ns, "b", 80);
    let Node { network, info, .. } = n1;
    let config = network.config().clone();
    assert!(matches!(PodNetwork::new(config.clone()), Err(Error::Ipam(_))));
    drop(network);
    let network = PodNetwork::new(config).unwrap();
    assert!(matches!(network.setup(&a.request), Err(Error::NotReady(_))));
    network.configure(&info).unwrap();
    assert_eq!(network.setup(&a.request).unwrap(), [a.ip]);
    fetch(&a.ns, &format!("{}:80", b.ip)).unwrap();
    network
        .collect_garbage(&HashSet::from([b.request.id.clone()]))
        .unwrap();
    assert_eq!(network.addresses(&a.request.id), None);
    assert!(sh(&a.ns, "ip -o link").lines().count() == 1);
    network.teardown(&a.request.id).unwrap();
    fetch(&b.ns, &format!("{}:80", b.ip)).unwrap();
    // The interface vanished behind our back (the pod's namespace was made anew).
    NetNs::remove_at(&b.request.netns).unwrap();
    let fresh = NetNs::create_at(&b.request.netns).unwrap();
    assert_eq!(network.setup(&b.request).unwrap(), [b.ip]);
    serve(&fresh, "b2", 81);
    fetch(&fresh, &format!("{}:81", b.ip)).unwrap();
    network.teardown(&b.request.id).unwrap();
    network.remove().unwrap();
    assert!(!sh(&n1.ns, "ip -o link; nft list tables; ip route").contains("keelson"));
}

#[test]
fn a_pod_is_connected_within_milliseconds() {
    let lab = Lab::new();
    let n1 = lab.node(1);
    let requests: Vec<_> = (0..20)
        .map(|i| lab.request(&format!("t{i}"), "t", vec![]))
        .collect();
    let mut times: Vec<Duration> = requests
        .iter()
        .map(|r| {
            let start = Instant::now();
            n1.network.setup(r).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort();
    let start = Instant::now();
    for r in &requests {
        n1.network.teardown(&r.id).unwrap();
    }
    println!(
        "setup p50 {:?} max {:?}; teardown mean {:?}",
        times[10],
        times[19],
        start.elapsed() / 20
    );
    assert!(times[10] < Duration::from_millis(50), "{times:?}");
}

fn port(host_ip: Option<&str>, host_port: u16, protocol: Protocol) -> HostPort {
    HostPort {
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        host_port,
        container_port: 80,
        protocol,
    }
}

#[test]
fn host_ports_by_every_address_and_protocol() {
    let lab = Lab::new();
    let n1 = lab.node(1);
    let a = lab.pod(
        &n1,
        "a",
        vec![port(None, 8080, Protocol::Tcp), port(None, 8080, Protocol::Udp)],
    );
    let b = lab.pod(&n1, "b", vec![port(Some("127.0.0.1"), 8081, Protocol::Tcp)]);
    let c = lab.pod(&n1, "c", vec![port(Some("172.30.0.1"), 8081, Protocol::Tcp)]);
    for (pod, name) in [(&a, "a"), (&b, "b"), (&c, "c")] {
        serve(&pod.ns, name, 80);
    }
    serve_udp(&a.ns, "a-udp", 80);
    let table = [
        (&lab.outside, "172.30.0.1:8080", "a 172.30.0.100 1"),
        (&n1.ns, "172.30.0.1:8080", "a "),
        (&n1.ns, "127.0.0.1:8080", "a 10.244.1.1 1"),
        (&b.ns, "172.30.0.1:8080", "a "),
        (&a.ns, "172.30.0.1:8080", "a 10.244.1.1 1"),
        (&n1.ns, "127.0.0.1:8081", "b 10.244.1.1 1"),
        (&lab.outside, "172.30.0.1:8081", "c 172.30.0.100 1"),
    ];
    for (from, to, expected) in table {
        let got = fetch(from, to).unwrap_or_else(|e| panic!("{to}: {e}"));
        assert!(got.starts_with(expected), "{to}: {got}");
    }
    assert_eq!(ask_udp(&lab.outside, "172.30.0.1:8080").unwrap(), "a-udp");
    let taken = n1
        .network
        .setup(&lab.request("x", "x", vec![port(None, 8080, Protocol::Tcp)]))
        .unwrap_err();
    assert_eq!(
        taken.to_string(),
        "host port 8080 of pod default/x is in use by pod default/a"
    );
    // Pods and other machines cannot use what route_localnet opens.
    serve(&n1.ns, "loopback", 9000);
    sh(
        &a.ns,
        "ip route add 127.0.0.2/32 via 10.244.1.1 dev eth0 2>/dev/null || true; echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet; ip route del local 127.0.0.0/8 dev lo table local; ip route del local 127.0.0.1 dev lo table local; ip route add 127.0.0.0/8 via 10.244.1.1 dev eth0",
    );
    assert!(fetch(&a.ns, "127.0.0.1:9000").is_err());
    n1.network.teardown(&a.request.id).unwrap();
    assert!(fetch(&lab.outside, "172.30.0.1:8080").is_err());
    assert!(ask_udp(&lab.outside, "172.30.0.1:8080").is_err());
}

#[test]
fn cni_plugins_take_over_when_configured() {
    let lab = Lab::new();
    let node = lab.machine("m1", "172.30.0.1");
    let conf = lab.dir.path().join("net.d");
    std::fs::create_dir(&conf).unwrap();
    let mut config = keelson_network::Config::new("m1", lab.dir.path().join("state-m1"));
    config.netns = Some(lab.dir.path().join("m1"));
    config.cni_conf_dir = Some(conf.clone());
    let network = PodNetwork::new(config).unwrap();
    assert!(network.ready().is_err());
    let data = lab.dir.path().join("host-local");
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let list = format!(
            r#"{{"cniVersion":"{version}","name":"net","plugins":[
                {{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":false,"hairpinMode":true,
                  "ipam":{{"type":"host-local","dataDir":"{}","ranges":[[{{"subnet":"10.22.0.0/24"}}]],
                           "routes":[{{"dst":"0.0.0.0/0"}}]}}}},
                {{"type":"portmap","capabilities":{{"portMappings":true}},"snat":true}}]}}"#,
            data.display()
        );
        std::fs::write(conf.join("10-net.conflist"), list).unwrap();
        network.ready().unwrap();
        let cni = keelson_network::cni::Cni::new(
            node.clone(),
            conf.clone(),
            network.config().cni_bin_dirs.clone(),
            network.config().state_dir.join("cni"),
        );
        let a = lab.request(&format!("a{version}"), "a", vec![port(None, 8080, Protocol::Tcp)]);
        let b = lab.request(&format!("b{version}"), "b", vec![]);
        let ip = network.setup(&a).unwrap()[0];
        assert_eq!(network.setup(&a).unwrap(), [ip]);
        let other = network.setup(&b).unwrap()[0];
        assert_ne!(ip, other);
        let (na, nb) = (NetNs::open(&a.netns).unwrap(), NetNs::open(&b.netns).unwrap());
        serve(&na, "a", 80);
        assert_eq!(fetch(&nb, &format!("{ip}:80")).unwrap(), format!("a {other} 1"));
        assert!(
            fetch(&lab.outside, "172.30.0.1:8080").unwrap().starts_with("a "),
            "{version}"
        );
        cni.check(&b.id).unwrap();
        if version != "0.3.1" {
            sh(&nb, "ip addr flush dev eth0");
            assert!(cni.check(&b.id).is_err());
        }
        for id in [&a.id, &b.id, &a.id] {
            network.teardown(id).unwrap();
        }
        assert_eq!(
            std::fs::read_dir(data.join("net"))
                .unwrap()
                .filter(|e| {
                    e.as_ref()
                        .unwrap()
                        .file_name()
                        .to_string_lossy()
                        .starts_with("10.")
                })
                .count(),
            0
        );
    }
    // A plugin's error comes through, and what was done before it is undone.
    let broken = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"nowhere"}]}"#;
    std::fs::write(conf.join("00-broken.conflist"), broken).unwrap();
    let e = network.setup(&lab.request("z", "z", vec![])).unwrap_err();
    assert!(
        e.to_string()
            .starts_with(r#"failed to find plugin "nowhere" in path"#),
        "{e}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn node_objects_program_the_overlay() {
    use serde_json::json;
    let lab = Lab::new();
    let (n1, n2) = (lab.machine("n1", "172.30.0.1"), lab.node(2));
    let c = lab.pod(&n2, "c", vec![]);
    serve(&c.ns, "c", 80);
    let mut config = keelson_network::Config::new("n1", lab.dir.path().join("state-n1"));
    config.netns = Some(lab.dir.path().join("n1"));
    let network = std::sync::Arc::new(PodNetwork::new(config).unwrap());
    n2.network
        .set_peer(
            "n1",
            Some(keelson_network::NodeInfo {
                addresses: vec!["172.30.0.1".parse().unwrap()],
                pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
            }),
        )
        .unwrap();
    let api = fake_api::FakeApi::new();
    let node = |n: u8, range: Option<&str>| {
        let address = json!([{ "type": "InternalIP", "address": format!("172.30.0.{n}") }]);
        json!({ "metadata": { "name": format!("n{n}") }, "spec": { "podCIDR": range, "podCIDRs": range.map(|r| vec![r]) },
                "status": { "addresses": address } })
    };
    let path = "/api/v1/nodes";
    api.put(path, node(1, None));
    api.put(path, node(2, Some("10.244.2.0/24")));
    let shutdown = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(keelson_network::run(
        network.clone(),
        api.client(),
        shutdown.clone(),
    ));
    let test = tokio::task::spawn_blocking(move || {
        assert!(network.ready().is_err());
        api.put(path, node(1, Some("10.244.1.0/24")));
        let start = Instant::now();
        while network.ready().is_err() {
            assert!(start.elapsed() < Duration::from_secs(5));
            std::thread::yield_now();
        }
        let request = lab.request("a", "a", vec![]);
        network.setup(&request).unwrap();
        let a = NetNs::open(&request.netns).unwrap();
        assert_eq!(fetch(&a, &format!("{}:80", c.ip)).unwrap(), "c 10.244.1.2 1");
        api.delete(path, node(2, None));
        let start = Instant::now();
        while sh(&n1, "ip route").contains("10.244.2.0/24") {
            assert!(start.elapsed() < Duration::from_secs(5));
        }
        lab
    });
    let lab = test.await.unwrap();
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    drop(lab);
}
