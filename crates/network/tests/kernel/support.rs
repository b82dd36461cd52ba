//! Machines as network namespaces on one switch, with no way out; tiny servers and clients.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use keelson_network::{Config, NodeInfo, PodNetwork, PodRequest};
use keelson_sys::netns::NetNs;

pub(crate) const OUTSIDE: &str = "172.30.0.100";

pub(crate) fn sh(ns: &NetNs, script: &str) -> String {
    let script = script.to_owned();
    let out = ns
        .run(move || Command::new("sh").args(["-ec", &script]).output())
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A switch that machines hang on; everything goes away with it.
pub(crate) struct Lab {
    pub(crate) dir: tempfile::TempDir,
    switch: NetNs,
    pub(crate) outside: NetNs,
    pins: std::cell::RefCell<Vec<PathBuf>>,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let switch = NetNs::create_at(&dir.path().join("switch")).unwrap();
        sh(
            &switch,
            "ip link set lo up; ip link add sw0 type bridge; ip link set sw0 up",
        );
        let mut lab = Lab {
            outside: switch.clone(),
            pins: vec![dir.path().join("switch")].into(),
            dir,
            switch,
        };
        lab.outside = lab.machine("outside", OUTSIDE);
        lab
    }

    /// A namespace with `eth0` on the switch, and a default route to the machine outside (which drops what it gets).
    pub(crate) fn machine(&self, name: &str, ip: &str) -> NetNs {
        let path = self.dir.path().join(name);
        let ns = NetNs::create_at(&path).unwrap();
        self.pins.borrow_mut().push(path.clone());
        let n = self.pins.borrow().len();
        // iproute2 takes a namespace by path or pid only through /run/netns or /proc: a link made here is moved by the fd.
        let holder = ns.clone();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&holder));
        let pid = std::process::id();
        sh(
            &self.switch,
            &format!(
                "ip link add p{n} type veth peer name eth0; ip link set p{n} master sw0 up; \
                 ip link set eth0 netns /proc/{pid}/fd/{fd}"
            ),
        );
        let gateway = if ip == OUTSIDE {
            String::new()
        } else {
            format!("; ip route add default via {OUTSIDE}")
        };
        sh(
            &ns,
            &format!("ip link set lo up; ip addr add {ip}/24 dev eth0; ip link set eth0 up{gateway}"),
        );
        ns
    }

    pub(crate) fn node(&self, n: u8) -> Node {
        let name = format!("n{n}");
        let ip = format!("172.30.0.{n}");
        let ns = self.machine(&name, &ip);
        let mut config = Config::new(&name, self.dir.path().join(format!("state-{name}")));
        config.netns = Some(self.dir.path().join(&name));
        let network = PodNetwork::new(config).unwrap();
        let info = NodeInfo {
            addresses: vec![ip.parse().unwrap()],
            pod_cidrs: vec![format!("10.244.{n}.0/24").parse().unwrap()],
        };
        network.configure(&info).unwrap();
        Node {
            network,
            info,
            name,
            ns,
        }
    }

    pub(crate) fn pod(&self, node: &Node, name: &str, ports: Vec<keelson_network::HostPort>) -> Pod {
        let request = self.request(&format!("{}-{name}", node.name), name, ports);
        let ips = node.network.setup(&request).unwrap();
        Pod {
            ns: NetNs::open(&request.netns).unwrap(),
            ip: ips[0],
            request,
        }
    }

    pub(crate) fn request(
        &self,
        id: &str,
        name: &str,
        host_ports: Vec<keelson_network::HostPort>,
    ) -> PodRequest {
        let netns = self.dir.path().join(format!("pod-{id}"));
        NetNs::create_at(&netns).unwrap();
        self.pins.borrow_mut().push(netns.clone());
        PodRequest {
            netns,
            id: id.into(),
            namespace: "default".into(),
            name: name.into(),
            uid: "u".into(),
            host_ports,
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for pin in self.pins.borrow().iter() {
            NetNs::remove_at(Path::new(pin)).unwrap();
        }
    }
}

pub(crate) struct Node {
    pub(crate) network: PodNetwork,
    pub(crate) info: NodeInfo,
    pub(crate) name: String,
    pub(crate) ns: NetNs,
}

pub(crate) struct Pod {
    pub(crate) ns: NetNs,
    pub(crate) ip: IpAddr,
    pub(crate) request: PodRequest,
}

pub(crate) fn join(nodes: &[&Node]) {
    for a in nodes {
        for b in nodes {
            if a.name != b.name {
                a.network.set_peer(&b.name, Some(b.info.clone())).unwrap();
            }
        }
        a.network.remove_stale_peers().unwrap();
    }
}

/// Answers every connection with `<name> <peer address> <bytes received>`.
pub(crate) fn serve(ns: &NetNs, name: &str, port: u16) {
    let listener = ns.run(move || TcpListener::bind(("0.0.0.0", port))).unwrap();
    let name = name.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            if stream.read_to_end(&mut request).is_ok() {
                let peer = stream.peer_addr().unwrap().ip();
                let _ = write!(stream, "{name} {peer} {}", request.len());
            }
        }
    });
}

pub(crate) fn serve_udp(ns: &NetNs, name: &str, port: u16) {
    let socket = ns.run(move || UdpSocket::bind(("0.0.0.0", port))).unwrap();
    let name = name.to_owned();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(name.as_bytes(), from).unwrap();
        }
    });
}

pub(crate) fn fetch_bytes(ns: &NetNs, to: &str, size: usize) -> io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    ns.run(move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        stream.write_all(&vec![b'x'; size])?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut out = String::new();
        stream.read_to_string(&mut out)?;
        Ok(out)
    })
}

pub(crate) fn fetch(ns: &NetNs, to: &str) -> io::Result<String> {
    fetch_bytes(ns, to, 1)
}

pub(crate) fn ask_udp(ns: &NetNs, to: &str) -> io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    ns.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.connect(to)?;
        socket.send(b"hi")?;
        let mut buffer = [0; 100];
        let n = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
    })
}
