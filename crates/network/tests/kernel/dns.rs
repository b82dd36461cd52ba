//! Cluster DNS by real UDP and TCP, asked by dig.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record};
use keelson_network::dns;
use keelson_sys::netns::NetNs;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::fake_api::FakeApi;
use crate::support::{Lab, OUTSIDE, sh};

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// Asks again until it is so, for a few seconds at most.
fn wait(mut so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !so() {
        assert!(
            start.elapsed() < Duration::from_secs(8),
            "it did not come to pass"
        );
        std::thread::yield_now();
    }
}

fn meta(name: &str) -> Value {
    json!({ "namespace": "default", "name": name })
}

fn fill(api: &FakeApi) {
    for ns in ["default", "kube-system"] {
        api.put("/api/v1/namespaces", json!({ "metadata": { "name": ns } }));
    }
    let ports = json!([{ "name": "http", "port": 80, "protocol": "TCP" }, { "name": "dns", "port": 53, "protocol": "UDP" }]);
    let web = json!({ "metadata": meta("web"), "spec": { "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": ports } });
    api.put(SERVICES, web);
    api.put(
        SERVICES,
        json!({ "metadata": meta("db"), "spec": { "clusterIP": "None", "ports": ports } }),
    );
    api.put(
        SERVICES,
        json!({ "metadata": meta("big"), "spec": { "clusterIP": "None" } }),
    );
    api.put(
        SERVICES,
        json!({ "metadata": meta("none"), "spec": { "clusterIP": "None" } }),
    );
    for (name, target) in [
        ("out", "example.com"),
        ("inner", "web.default.svc.cluster.local"),
        ("loop", "loop.default.svc.cluster.local"),
    ] {
        api.put(
            SERVICES,
            json!({ "metadata": meta(name), "spec": { "type": "ExternalName", "externalName": target } }),
        );
    }
    let labels = |s: &str| json!({ "namespace": "default", "name": format!("{s}-x"), "labels": { "kubernetes.io/service-name": s } });
    api.put(
        SLICES,
        json!({ "metadata": labels("db"), "addressType": "IPv4", "ports": ports, "endpoints": [
            { "addresses": ["10.244.1.5"], "hostname": "db-0" }, { "addresses": ["10.244.2.6"] },
            { "addresses": ["10.244.3.7"], "conditions": { "ready": false } } ] }),
    );
    let many: Vec<Value> = (0..200)
        .map(|i| json!({ "addresses": [format!("10.244.9.{i}")] }))
        .collect();
    api.put(
        SLICES,
        json!({ "metadata": labels("big"), "addressType": "IPv4", "endpoints": many }),
    );
}

/// Knows example.com, denies the rest; `big.example.com` only by TCP.
fn upstream(ns: &NetNs, ip: &str) {
    let at = format!("{ip}:53");
    let (udp, tcp) = ns
        .run(move || Ok((UdpSocket::bind(&at)?, TcpListener::bind(&at)?)))
        .unwrap();
    fn answer(bytes: &[u8], tcp: bool) -> Vec<u8> {
        let request = Message::from_vec(bytes).unwrap();
        let mut m = Message::new(
            request.metadata.id,
            MessageType::Response,
            request.metadata.op_code,
        );
        m.queries.clone_from(&request.queries);
        let name = request.queries[0].name().clone();
        let a = |i: u8| Record::from_rdata(name.clone(), 60, RData::A(A(Ipv4Addr::new(192, 0, 2, i))));
        match name.to_lowercase().to_ascii().as_str() {
            "example.com." => m.answers.push(a(1)),
            "big.example.com." if tcp => m.answers.extend((0..250).map(a)),
            "big.example.com." => m.metadata.truncation = true,
            _ => {
                m.metadata.response_code = ResponseCode::NXDomain;
                let root = Name::root();
                let soa = SOA::new(root.clone(), root.clone(), 1, 1, 1, 1, 60);
                m.authorities.push(Record::from_rdata(root, 60, RData::SOA(soa)));
            }
        }
        m.to_vec().unwrap()
    }
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((n, from)) = udp.recv_from(&mut buffer) {
            udp.send_to(&answer(&buffer[..n], false), from).unwrap();
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut bytes).unwrap();
            let out = answer(&bytes, true);
            stream
                .write_all(&u16::try_from(out.len()).unwrap().to_be_bytes())
                .unwrap();
            stream.write_all(&out).unwrap();
        }
    });
}

fn dig(ns: &NetNs, arguments: &str) -> String {
    sh(ns, &format!("dig @10.96.0.10 +tries=1 +time=5 {arguments}"))
}

/// Answers in order, without times.
fn short(ns: &NetNs, arguments: &str) -> Vec<String> {
    let mut lines: Vec<String> = dig(ns, &format!("+short {arguments}"))
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_cluster_and_of_the_world() {
    let lab = Lab::new();
    let node = lab.machine("m1", "172.30.0.1");
    upstream(&lab.outside, OUTSIDE);
    let api = FakeApi::new();
    fill(&api);
    let resolv_conf = lab.dir.path().join("resolv.conf");
    // The first resolver is this server itself, the second does not answer.
    std::fs::write(
        &resolv_conf,
        format!("nameserver 10.96.0.10\nnameserver 172.30.0.99\nnameserver {OUTSIDE}\n"),
    )
    .unwrap();
    let config = dns::Config {
        netns: Some(lab.dir.path().join("m1")),
        resolv_conf,
        ..Default::default()
    };
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(dns::run(config, api.client(), shutdown.clone()));
    let test = tokio::task::spawn_blocking(move || {
        wait(|| {
            node.run(|| Ok(std::net::TcpStream::connect("10.96.0.10:53").is_ok()))
                .unwrap()
        });
        wait(|| dig(&node, "web.default.svc.cluster.local").contains("NOERROR"));
        questions(&node);
        // A change is seen at once.
        api.put(
            SERVICES,
            json!({ "metadata": meta("new"), "spec": { "clusterIP": "10.96.0.99" } }),
        );
        wait(|| !short(&node, "new.default.svc.cluster.local").is_empty());
        api.delete(SERVICES, json!({ "metadata": meta("new") }));
        wait(|| short(&node, "new.default.svc.cluster.local").is_empty());
        drop(lab);
    });
    test.await.unwrap();
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), server)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

fn questions(ns: &NetNs) {
    let zone = "default.svc.cluster.local";
    let table: &[(&str, &[&str])] = &[
        ("web.default.svc.cluster.local", &["10.96.0.7"]),
        ("+tcp WEB.Default.svc.CLUSTER.local", &["10.96.0.7"]),
        ("web.default.svc.cluster.local AAAA", &[]),
        (
            "_http._tcp.web.default.svc.cluster.local SRV",
            &["0 100 80 web.default.svc.cluster.local."],
        ),
        ("_http._udp.web.default.svc.cluster.local SRV", &[]),
        (
            "web.default.svc.cluster.local SRV",
            &[
                "0 50 53 web.default.svc.cluster.local.",
                "0 50 80 web.default.svc.cluster.local.",
            ],
        ),
        ("db.default.svc.cluster.local", &["10.244.1.5", "10.244.2.6"]),
        ("db-0.db.default.svc.cluster.local", &["10.244.1.5"]),
        ("10-244-2-6.db.default.svc.cluster.local", &["10.244.2.6"]),
        ("10-244-3-7.db.default.svc.cluster.local", &[]),
        (
            "_dns._udp.db.default.svc.cluster.local SRV",
            &[
                "0 50 53 10-244-2-6.db.default.svc.cluster.local.",
                "0 50 53 db-0.db.default.svc.cluster.local.",
            ],
        ),
        ("-x 10.96.0.7", &["web.default.svc.cluster.local."]),
        ("-x 10.244.1.5", &["db-0.db.default.svc.cluster.local."]),
        ("10-244-1-5.default.pod.cluster.local", &["10.244.1.5"]),
        ("10-244-1-5.nowhere.pod.cluster.local", &[]),
        ("dns-version.cluster.local TXT", &["\"1.1.0\""]),
        ("ns.dns.cluster.local", &["10.96.0.10"]),
        ("out.default.svc.cluster.local", &["192.0.2.1", "example.com."]),
        (
            "inner.default.svc.cluster.local",
            &["10.96.0.7", "web.default.svc.cluster.local."],
        ),
        ("example.com", &["192.0.2.1"]),
        ("example.com", &["192.0.2.1"]),
    ];
    for (question, expected) in table {
        assert_eq!(short(ns, question), *expected, "{question}");
    }
    let status: &[(&str, &str, bool)] = &[
        ("web.default.svc.cluster.local AAAA", "NOERROR", true),
        ("missing.default.svc.cluster.local", "NXDOMAIN", true),
        ("none.default.svc.cluster.local", "NXDOMAIN", true),
        (
            "web.default.svc.cluster.local.default.svc.cluster.local",
            "NXDOMAIN",
            true,
        ),
        ("default.svc.cluster.local", "NOERROR", true),
        ("nowhere.svc.cluster.local", "NXDOMAIN", true),
        ("a.b.c.d.default.svc.cluster.local", "NXDOMAIN", true),
        ("-x 10.96.0.200", "NXDOMAIN", true),
        ("missing.example.org", "NXDOMAIN", true),
        ("loop.default.svc.cluster.local", "SERVFAIL", false),
        ("+opcode=status example.com", "NOTIMP", false),
        ("-c CH version.bind TXT", "REFUSED", false),
        ("+edns=1 +noednsneg example.com", "BADVERS", false),
    ];
    for (question, code, soa) in status {
        let answer = dig(ns, question);
        assert!(
            answer.contains(&format!("status: {code}")),
            "{question}: {answer}"
        );
        assert_eq!(answer.contains("SOA"), *soa, "{question}: {answer}");
    }
    // Larger than a datagram: truncated without EDNS, whole by TCP.
    assert_eq!(short(ns, &format!("big.{zone}")).len(), 200);
    let cut = dig(ns, &format!("+noedns +ignore big.{zone}"));
    assert!(
        cut.contains("flags: qr aa tc") && cut.contains("MSG SIZE  rcvd:"),
        "{cut}"
    );
    assert_eq!(short(ns, "big.example.com").len(), 250);
    // Rubbish is survived.
    ns.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for bytes in [&b""[..], b"x", &[0xff; 12], &[0; 12], &[0xc0; 600]] {
            socket.send_to(bytes, "10.96.0.10:53")?;
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(short(ns, "web.default.svc.cluster.local"), ["10.96.0.7"]);
}
