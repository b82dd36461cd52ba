//! A node with pods on a bridge and a machine outside, as network namespaces without a way out; tiny servers and clients;
//! short notations for Services and slices.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_client::NamespacedName;
use keelson_kube_proxy::model::{Location, service_model};
use keelson_kube_proxy::{Config, Models, Proxier, Synced};
use keelson_sys::netns::NetNs;
use serde_json::{Value, json};

pub(crate) const NODE: &str = "172.30.0.1";
pub(crate) const OUTSIDE: &str = "172.30.0.100";

pub(crate) fn sh(ns: &NetNs, script: &str) -> String {
    let script = script.to_owned();
    let out = ns
        .run(move || Command::new("sh").args(["-ec", &script]).output())
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn link(a: &NetNs, a_name: &str, b: &NetNs, b_name: &str) {
    use std::os::fd::{AsFd, AsRawFd};
    let path = format!("/proc/{}/fd/{}", std::process::id(), b.as_fd().as_raw_fd());
    sh(
        a,
        &format!("ip link add {a_name} type veth peer name {b_name} netns {path}"),
    );
}

pub(crate) struct Lab {
    dir: tempfile::TempDir,
    pub(crate) node: NetNs,
    pub(crate) outside: NetNs,
    pods: HashMap<u8, NetNs>,
}

impl Lab {
    /// A node with pods 10.244.1.2 and following on its bridge, each serving TCP and UDP port 80 with its last octet.
    pub(crate) fn new(pods: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = NetNs::create_at(&dir.path().join("node")).unwrap();
        let outside = NetNs::create().unwrap();
        link(&node, "eth0", &outside, "eth0");
        sh(
            &node,
            &format!(
                "ip link set lo up; ip addr add {NODE}/24 dev eth0; ip link set eth0 up; \
                 ip link add br0 type bridge; ip addr add 10.244.1.1/24 dev br0; ip link set br0 up; \
                 ip route add 10.96.0.0/12 dev br0 src 10.244.1.1; ip route add 10.112.0.0/16 dev br0 src 10.244.1.1; \
                 ip route add unreachable 10.244.0.0/16; \
                 echo 1 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv4/conf/all/send_redirects; \
                 echo 0 > /proc/sys/net/ipv4/conf/br0/send_redirects; echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables"
            ),
        );
        sh(
            &outside,
            &format!(
                "ip link set lo up; ip addr add {OUTSIDE}/24 dev eth0; ip link set eth0 up; \
                 ip route add 10.96.0.0/12 via {NODE}; ip route add 10.112.0.0/16 via {NODE}; ip route add 10.244.0.0/16 via {NODE}"
            ),
        );
        let mut lab = Lab {
            dir,
            node,
            outside,
            pods: HashMap::new(),
        };
        for n in 2..2 + pods {
            lab.add_pod(n);
        }
        lab
    }

    fn add_pod(&mut self, n: u8) {
        let ns = NetNs::create().unwrap();
        link(&self.node, &format!("v{n}"), &ns, "eth0");
        sh(
            &self.node,
            &format!("ip link set v{n} master br0 up; bridge link set dev v{n} hairpin on"),
        );
        sh(
            &ns,
            &format!(
                "ip link set lo up; ip addr add 10.244.1.{n}/24 dev eth0; ip link set eth0 up; ip route add default via 10.244.1.1"
            ),
        );
        serve(&ns, n);
        self.pods.insert(n, ns);
    }

    pub(crate) fn pod(&self, n: u8) -> &NetNs {
        &self.pods[&n]
    }

    pub(crate) fn config(&self) -> Config {
        let mut config = Config::new("n1");
        config.netns = Some(self.dir.path().join("node"));
        config
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        NetNs::remove_at(&self.dir.path().join("node")).unwrap();
    }
}

/// TCP and UDP on port 80: `<last octet> <peer address>`.
fn serve(ns: &NetNs, n: u8) {
    let listener = ns.run(|| TcpListener::bind("0.0.0.0:80")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            // The client may be gone already.
            let _ = write!(stream, "{n} {peer}");
        }
    });
    let socket = ns.run(|| UdpSocket::bind("0.0.0.0:80")).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            socket
                .send_to(format!("{n} {}", from.ip()).as_bytes(), from)
                .unwrap();
        }
    });
}

pub(crate) fn fetch(ns: &NetNs, to: &str) -> io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    ns.run(move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(1500))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut out = String::new();
        stream.read_to_string(&mut out)?;
        Ok(out)
    })
}

/// Who answers, by last octet.
pub(crate) fn who(ns: &NetNs, to: &str) -> Result<u8, io::ErrorKind> {
    match fetch(ns, to) {
        Ok(answer) => Ok(answer.split(' ').next().unwrap().parse().unwrap()),
        Err(e) => Err(e.kind()),
    }
}

/// A UDP socket in a namespace that keeps its port, to see how its flow fares.
pub(crate) fn udp(ns: &NetNs, to: &str) -> UdpSocket {
    let to = to.to_owned();
    let socket = ns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket
}

pub(crate) fn ask(socket: &UdpSocket) -> io::Result<String> {
    socket.send(b"?")?;
    let mut buffer = [0; 100];
    let n = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

pub(crate) fn service(name: &str, spec: Value) -> Service {
    let ips = spec["status"].clone();
    let mut spec = spec;
    spec.as_object_mut().unwrap().remove("status");
    serde_json::from_value(json!({
        "metadata": { "namespace": "default", "name": name }, "spec": spec,
        "status": { "loadBalancer": { "ingress": ips } },
    }))
    .unwrap()
}

/// A slice of pods on port 80 of both protocols; node `n1` unless the number is negative.
pub(crate) fn slice(service: &str, pods: &[i16]) -> EndpointSlice {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|n| endpoint(*n, json!({ "ready": true })))
        .collect();
    slice_of(service, &endpoints)
}

pub(crate) fn endpoint(n: i16, conditions: Value) -> Value {
    let node = if n < 0 { "n2" } else { "n1" };
    let n = n.unsigned_abs();
    let ip = if n < 256 {
        format!("10.244.1.{n}")
    } else {
        format!("10.244.{}.{}", n >> 8, n & 255)
    };
    json!({ "addresses": [ip], "nodeName": node, "conditions": conditions })
}

pub(crate) fn slice_of(service: &str, endpoints: &[Value]) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": { "namespace": "default", "name": format!("{service}-1"), "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4",
        "ports": [{ "name": "", "protocol": "TCP", "port": 80 }, { "name": "", "protocol": "UDP", "port": 80 }],
        "endpoints": endpoints,
    }))
    .unwrap()
}

pub(crate) fn models(service: &Service, slices: &[&EndpointSlice]) -> Models {
    let location = Location {
        node: "n1".into(),
        zone: Some("a".into()),
    };
    Models {
        v4: service_model(service, slices, &location, false),
        v6: Default::default(),
    }
}

pub(crate) fn put(proxier: &mut Proxier, service: &Service, slices: &[&EndpointSlice]) -> Synced {
    proxier
        .sync(vec![(NamespacedName::of(service), Some(models(service, slices)))])
        .unwrap()
}
