//! Network policies against the kernel: who reaches whom, on one node and across two.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use keelson_network::policy::{PodFacts, Snapshot};
use keelson_sys::netns::NetNs;
use serde_json::{Value, json};

use super::support::*;

/// Whether a connection comes about; what is dropped gets no answer.
fn reaches(from: &NetNs, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    from.run(move || Ok(TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_ok()))
        .unwrap()
}

struct World {
    lab: Lab,
    nodes: [Node; 2],
    a: Pod,
    b: Pod,
    c: Pod,
}

impl World {
    /// Pods a and b on one node, c on another; b and c serve ports 80, 81 and 90.
    fn new() -> Self {
        let lab = Lab::new();
        let (n1, n2) = (lab.node(1), lab.node(2));
        join(&[&n1, &n2]);
        let (a, b, c) = (
            lab.pod(&n1, "a", vec![]),
            lab.pod(&n1, "b", vec![]),
            lab.pod(&n2, "c", vec![]),
        );
        for pod in [&b, &c] {
            for port in [80, 81, 90] {
                serve(&pod.ns, "server", port);
            }
        }
        serve(&a.ns, "a", 80);
        Self {
            lab,
            nodes: [n1, n2],
            a,
            b,
            c,
        }
    }

    fn facts(&self, node: &str) -> Vec<PodFacts> {
        let of = |pod: &Pod, on: &str, namespace: &str| PodFacts {
            namespace: namespace.into(),
            name: pod.request.name.clone(),
            labels: [("app".to_owned(), pod.request.name.clone())].into(),
            ips: vec![pod.ip],
            ports: vec![("web".into(), 6, 80)],
            local: on == node,
        };
        vec![
            of(&self.a, "n1", "default"),
            of(&self.b, "n1", "default"),
            of(&self.c, "n2", "default"),
        ]
    }

    fn policies(&self, specs: &[Value]) {
        for node in &self.nodes {
            let policies = specs.iter().enumerate().map(|(index, spec)| {
                let meta = json!({"name": format!("p{index}"), "namespace": "default"});
                Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap())
            });
            let labels = [("kubernetes.io/metadata.name".to_owned(), "default".to_owned())].into();
            node.network
                .set_policies(Snapshot {
                    pods: self.facts(&node.name),
                    namespaces: [("default".to_owned(), labels)].into(),
                    policies: policies.collect(),
                })
                .unwrap();
        }
    }

    /// Who reaches b on port 80: a, c, the node that b is on, the other node, and the machine outside.
    fn reach_b(&self, port: u16) -> [bool; 3] {
        let to = format!("{}:{port}", self.b.ip);
        [&self.a.ns, &self.c.ns, &self.nodes[0].ns].map(|from| reaches(from, &to))
    }
}

#[test]
fn ingress_is_what_policies_allow_and_the_node_itself() {
    let world = World::new();
    assert_eq!(world.reach_b(80), [true; 3]);
    let b = json!({"matchLabels": {"app": "b"}});
    let from =
        |peers: Value, ports: Value| json!({"podSelector": b, "ingress": [{"from": peers, "ports": ports}]});
    let a = json!({"podSelector": {"matchLabels": {"app": "a"}}});
    let default = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}});
    let other = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}});
    let n2 = json!({"ipBlock": {"cidr": "10.244.2.0/24"}});
    let but_c = json!({"ipBlock": {"cidr": "10.244.0.0/16", "except": ["10.244.2.0/24"]}});
    // The policies; who reaches ports 80, 81 and 90.
    for (policies, expected) in [
        (vec![json!({"podSelector": b})], [[false, false, true]; 3]),
        (
            vec![json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]})],
            [[true; 3]; 3],
        ),
        (vec![json!({"podSelector": b, "ingress": [{}]})], [[true; 3]; 3]),
        (vec![from(json!([a]), json!(null))], [[true, false, true]; 3]),
        (vec![from(json!([default]), json!(null))], [[true; 3]; 3]),
        (vec![from(json!([other]), json!(null))], [[false, false, true]; 3]),
        (vec![from(json!([n2]), json!(null))], [[false, true, true]; 3]),
        (vec![from(json!([but_c]), json!(null))], [[true, false, true]; 3]),
        (
            vec![from(
                json!(null),
                json!([{"port": "web"}, {"port": 85, "endPort": 95}]),
            )],
            [[true; 3], [false, false, true], [true; 3]],
        ),
        (
            vec![
                from(json!([a]), json!([{"port": 80}])),
                from(json!([n2]), json!([{"port": 81}])),
            ],
            [[true, false, true], [false, true, true], [false, false, true]],
        ),
        (
            vec![from(json!(null), json!([{"port": 80, "protocol": "UDP"}]))],
            [[false, false, true]; 3],
        ),
        (vec![], [[true; 3]; 3]),
    ] {
        world.policies(&policies);
        for (port, expected) in [80, 81, 90].into_iter().zip(expected) {
            assert_eq!(world.reach_b(port), expected, "{port}: {policies:?}");
        }
    }
    // Nothing is left of policies that are gone.
    let left = sh(&world.nodes[0].ns, "nft list table ip keelson-network-policy");
    assert!(!left.contains("drop") && !left.contains("10.244."), "{left}");
}

#[test]
fn egress_is_what_policies_allow_the_pod_itself_and_its_node() {
    let world = World::new();
    serve(&world.nodes[0].ns, "node", 9000);
    serve(&world.lab.outside, "outside", 80);
    let a = json!({"matchLabels": {"app": "a"}});
    let c = json!([{"podSelector": {"matchLabels": {"app": "c"}}}]);
    world.policies(&[
        json!({"podSelector": a, "policyTypes": ["Egress"], "egress": [{"to": c, "ports": [{"port": "web"}]}]}),
    ]);
    let (b, c) = (world.b.ip, world.c.ip);
    for (to, expected) in [
        (format!("{c}:80"), true),
        (format!("{c}:81"), false),
        (format!("{b}:80"), false),
        (format!("{OUTSIDE}:80"), false),
        ("172.30.0.1:9000".to_owned(), true),
        (format!("{}:80", world.a.ip), true),
    ] {
        assert_eq!(reaches(&world.a.ns, &to), expected, "{to}");
    }
    // Others are not isolated, and a can be reached.
    assert!(reaches(&world.b.ns, &format!("{OUTSIDE}:80")));
    assert!(reaches(&world.b.ns, &format!("{}:80", world.a.ip)));
    // Both ends have a say: what a may send, b must take.
    let all = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{}]});
    world.policies(&[all]);
    assert!(!reaches(&world.a.ns, &format!("{b}:80")));
    assert!(reaches(&world.a.ns, &format!("{OUTSIDE}:80")));
}

#[test]
fn a_new_pod_is_isolated_before_its_first_packet_and_a_restart_keeps_the_rules() {
    let world = World::new();
    let mut facts = world.facts("n1");
    facts.push(PodFacts {
        namespace: "default".into(),
        name: "new".into(),
        local: true,
        ..PodFacts::default()
    });
    let deny = json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {"podSelector": {}}});
    let snapshot = Snapshot {
        pods: facts,
        policies: vec![Arc::new(serde_json::from_value(deny).unwrap())],
        ..Snapshot::default()
    };
    world.nodes[0].network.set_policies(snapshot).unwrap();
    // The API does not have its address yet.
    let new = world.lab.pod(&world.nodes[0], "new", vec![]);
    serve(&new.ns, "new", 80);
    let to = format!("{}:80", new.ip);
    assert!(!reaches(&world.a.ns, &to));
    assert!(reaches(&world.nodes[0].ns, &to));
    world.nodes[0].network.teardown(&new.request.id).unwrap();
    let rules = "nft list table ip keelson-network-policy";
    let before = sh(&world.nodes[0].ns, rules);
    assert!(!before.contains(&new.ip.to_string()), "{before}");
    let World { lab, nodes, .. } = world;
    let [n1, n2] = nodes;
    let config = n1.network.config().clone();
    drop(n1.network);
    let network = keelson_network::PodNetwork::new(config).unwrap();
    network.configure(&n1.info).unwrap();
    assert_eq!(sh(&n1.ns, rules), before, "until the API's objects are known");
    drop((lab, n2, network));
}
