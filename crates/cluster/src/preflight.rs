//! What must be true of a machine before anything is changed on it. Every finding says what to do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

/// Something that stands in the way.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not root.
    #[error("keelson must run as root to make containers and networks: use sudo")]
    NotRoot,
    /// A port is taken.
    #[error(
        "port {port} ({purpose}) is in use on this machine: stop what listens there (see `ss -ltnp`){hint}"
    )]
    PortTaken {
        /// The port.
        port: u16,
        /// What we need it for.
        purpose: &'static str,
        /// A flag that helps, or nothing.
        hint: &'static str,
    },
    /// The kernel lacks something.
    #[error("this kernel lacks {feature}: {remedy}")]
    Kernel {
        /// What is missing.
        feature: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// No host name.
    #[error(
        "the host name {0:?} is not a valid node name (lower case letters, digits, `-` and `.`): use --node-name"
    )]
    HostName(String),
}

/// Root, or an error.
pub fn require_root() -> Result<(), Error> {
    if rustix::process::geteuid().is_root() {
        Ok(())
    } else {
        Err(Error::NotRoot)
    }
}

/// Kernel features that containers and the network need.
pub fn require_kernel() -> Result<(), Error> {
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.lines().any(|line| line.trim().ends_with("overlay")) {
        return Err(Error::Kernel {
            feature: "overlayfs",
            remedy: "load it with `modprobe overlay`",
        });
    }
    if std::fs::metadata("/sys/fs/cgroup").is_err()
        || !std::fs::read_to_string("/proc/filesystems").is_ok_and(|f| f.contains("cgroup"))
    {
        return Err(Error::Kernel {
            feature: "cgroups",
            remedy: "boot a kernel with CONFIG_CGROUPS",
        });
    }
    for (namespace, feature) in [
        ("net", "network namespaces"),
        ("pid", "PID namespaces"),
        ("mnt", "mount namespaces"),
    ] {
        if !std::path::Path::new("/proc/self/ns").join(namespace).exists() {
            return Err(Error::Kernel {
                feature,
                remedy: "boot a kernel with CONFIG_NAMESPACES",
            });
        }
    }
    Ok(())
}

/// The ports that a server and its node listen on.
pub fn require_ports(api_port: u16) -> Result<(), Error> {
    let ports = [
        (api_port, "API server", "; or choose another with --api-port"),
        (10250, "kubelet", ""),
        (10256, "kube-proxy health", ""),
    ];
    for (port, purpose, hint) in ports {
        if TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).is_err() {
            return Err(Error::PortTaken { port, purpose, hint });
        }
    }
    Ok(())
}

/// The host name as a node name.
pub fn host_name() -> Result<String, Error> {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .to_lowercase();
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if name.chars().all(good) && ends(name.chars().next()) && ends(name.chars().last()) && name.len() <= 63 {
        Ok(name)
    } else {
        Err(Error::HostName(name))
    }
}

/// Whether `address` is one of this machine's.
pub fn is_own_address(address: IpAddr) -> bool {
    // Only a local address can be bound to; nothing is sent.
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

/// The address that packets to `target` leave from; no packet is sent.
pub fn source_address(target: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(target).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// The address of the default route; `None` where there is no way out.
pub fn default_route_address() -> Option<IpAddr> {
    // Any global address will do: connecting a UDP socket only asks the routing table.
    source_address(SocketAddr::from(([192, 0, 2, 1], 9)))
}
