//! The `nameserver` lines of resolv.conf.

use std::net::{IpAddr, SocketAddr};

/// What of a resolv.conf matters to a forwarder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Upstream resolvers in order, without repetitions.
    pub nameservers: Vec<SocketAddr>,
}

impl ResolvConf {
    /// Parses a file's text; lines that are not understood are skipped, as libc does.
    pub fn parse(text: &str) -> Self {
        let mut out = ResolvConf::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            if words.next() != Some("nameserver") {
                continue;
            }
            // A scope (`fe80::1%eth0`) names a link that a socket address here cannot carry.
            let Some(ip) = words.next().and_then(|w| w.parse::<IpAddr>().ok()) else {
                continue;
            };
            let address = SocketAddr::new(ip, 53);
            if !out.nameservers.contains(&address) {
                out.nameservers.push(address);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_only() {
        let text = "# x\nnameserver 192.0.2.1\nsearch a b\n nameserver\t2001:db8::1 ; c\nnameserver bad\nnameserver 192.0.2.1\noptions ndots:5";
        let expected: Vec<SocketAddr> = vec![
            "192.0.2.1:53".parse().unwrap(),
            "[2001:db8::1]:53".parse().unwrap(),
        ];
        assert_eq!(ResolvConf::parse(text).nameservers, expected);
    }
}
