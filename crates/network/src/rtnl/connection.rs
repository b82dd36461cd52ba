//! The connection.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use ipnet::IpNet;
use keelson_sys::netlink::{
    Encoder, KernelError, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, Protocol, Reply,
    Socket, attribute,
};

use super::wire::{
    IFF_UP, IFLA_ADDRESS, IFLA_IFNAME, IFLA_LINKINFO, IFLA_MTU, address, decode_link, decode_route,
    encode_route, family, libc_errno, octets, u32_at,
};
use super::{Error, Link, Mac, Peer, Route, VxlanSpec};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;
const NEWNEIGH: u16 = 28;
const DELNEIGH: u16 = 29;
const GETNEIGH: u16 = 30;

const AF_BRIDGE: u8 = 7;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_NET_NS_FD: u16 = 28;
const NUD_PERMANENT: u16 = 0x80;
const NUD_NOARP: u16 = 0x40;
const NTF_SELF: u8 = 2;

/// A connection to rtnetlink.
#[derive(Debug)]
pub struct Rtnl {
    socket: Socket,
}

fn ifinfo(family: u8, index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut out = [0; 16];
    out[0] = family;
    out[4..8].copy_from_slice(&index.to_ne_bytes());
    out[8..12].copy_from_slice(&flags.to_ne_bytes());
    out[12..].copy_from_slice(&change.to_ne_bytes());
    out
}

fn neighbour(family: u8, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut out = [0; 12];
    out[0] = family;
    out[4..8].copy_from_slice(&index.to_ne_bytes());
    out[8..10].copy_from_slice(&state.to_ne_bytes());
    out[10] = flags;
    out
}

impl Rtnl {
    /// Connects in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Ok(Rtnl {
            socket: Socket::open(Protocol::Route)?,
        })
    }

    /// Sends one request; errnos in `fine` count as success.
    fn request(
        &mut self,
        operation: impl FnOnce() -> String,
        kind: u16,
        flags: u16,
        fine: &[i32],
        fill: impl FnOnce(&mut Encoder),
    ) -> Result<Vec<Reply>, Error> {
        let seq = self.socket.next_seq();
        let mut e = Encoder::new();
        e.begin(kind, flags | NLM_F_ACK, seq);
        fill(&mut e);
        e.end();
        match self.socket.request(e.as_bytes(), seq)? {
            Ok(replies) => Ok(replies),
            Err(e) if fine.contains(&e.errno) => Ok(Vec::new()),
            Err(KernelError { errno, message, .. }) => Err(Error::Refused {
                operation: operation(),
                detail: message,
                source: io::Error::from_raw_os_error(errno),
            }),
        }
    }

    fn dump(&mut self, what: &str, kind: u16, fill: impl FnOnce(&mut Encoder)) -> Result<Vec<Reply>, Error> {
        let seq = self.socket.next_seq();
        let mut e = Encoder::new();
        e.begin(kind, NLM_F_DUMP, seq);
        fill(&mut e);
        e.end();
        self.socket.dump(e.as_bytes(), seq)?.map_err(|e| Error::Refused {
            operation: format!("list {what}"),
            detail: e.message,
            source: io::Error::from_raw_os_error(e.errno),
        })
    }

    /// The link of that name, if there is one.
    pub fn find_link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let replies = self.request(
            || format!("look up interface {name}"),
            GETLINK,
            0,
            &[libc_errno::ENODEV],
            |e| {
                e.raw(&ifinfo(0, 0, 0, 0)).attr_str(IFLA_IFNAME, name);
            },
        )?;
        Ok(replies.iter().find_map(|r| decode_link(&r.payload)))
    }

    /// The link of that name, which must be there.
    pub fn link(&mut self, name: &str) -> Result<Link, Error> {
        self.find_link(name)?
            .ok_or_else(|| Error::NoLink(name.to_owned()))
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let replies = self.dump("interfaces", GETLINK, |e| {
            e.raw(&ifinfo(0, 0, 0, 0));
        })?;
        Ok(replies.iter().filter_map(|r| decode_link(&r.payload)).collect())
    }

    /// All addresses with the index of their link.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpNet)>, Error> {
        let replies = self.dump("addresses", GETADDR, |e| {
            e.raw(&[0; 8]);
        })?;
        Ok(replies
            .iter()
            .filter_map(|r| {
                let index = u32_at(&r.payload, 4)?;
                let prefix = *r.payload.get(1)?;
                let attrs = r.payload.get(8..)?;
                let ip = address(attribute(attrs, 2).or_else(|| attribute(attrs, 1))?)?;
                Some((index, IpNet::new(ip, prefix).ok()?))
            })
            .collect())
    }

    /// Makes a bridge (down, no address) and returns it; one that is there keeps its address.
    pub fn add_bridge(&mut self, name: &str, mac: Mac, mtu: u32) -> Result<Link, Error> {
        if let Some(link) = self.find_link(name)? {
            if link.kind.as_deref() != Some("bridge") {
                return Err(Error::Refused {
                    operation: format!("use interface {name} as the pods' bridge"),
                    detail: Some(format!(
                        "it is of kind {}",
                        link.kind.as_deref().unwrap_or("physical")
                    )),
                    source: io::Error::from_raw_os_error(libc_errno::EEXIST),
                });
            }
            if link.mtu != mtu {
                self.set_mtu(link.index, mtu)?;
            }
            return Ok(link);
        }
        self.request(
            || format!("make bridge {name}"),
            NEWLINK,
            NLM_F_CREATE | NLM_F_EXCL,
            &[],
            |e| {
                e.raw(&ifinfo(0, 0, 0, 0))
                    .attr_str(IFLA_IFNAME, name)
                    .attr(IFLA_ADDRESS, &mac);
                e.attr_u32(IFLA_MTU, mtu).nest(IFLA_LINKINFO, |e| {
                    e.attr_str(1, "bridge").nest(2, |e| {
                        // No spanning tree and no forward delay: a pod's port works from its first packet.
                        e.attr_u32(1, 0).attr_u32(5, 0);
                    });
                });
            },
        )?;
        self.link(name)
    }

    /// Makes a VXLAN device that learns nothing by itself (down) and returns it.
    pub fn add_vxlan(&mut self, name: &str, spec: &VxlanSpec) -> Result<Link, Error> {
        if let Some(link) = self.find_link(name)? {
            if link.vni == Some(spec.vni) && link.mac == Some(spec.mac) {
                if link.mtu != spec.mtu {
                    self.set_mtu(link.index, spec.mtu)?;
                }
                return Ok(link);
            }
            self.delete_link(name)?;
        }
        self.request(
            || format!("make VXLAN device {name}"),
            NEWLINK,
            NLM_F_CREATE | NLM_F_EXCL,
            &[],
            |e| {
                e.raw(&ifinfo(0, 0, 0, 0))
                    .attr_str(IFLA_IFNAME, name)
                    .attr(IFLA_ADDRESS, &spec.mac);
                e.attr_u32(IFLA_MTU, spec.mtu).nest(IFLA_LINKINFO, |e| {
                    e.attr_str(1, "vxlan").nest(2, |e| {
                        e.attr_u32(1, spec.vni).attr_u32(3, spec.underlay);
                        let local = if spec.local.is_ipv4() { 4 } else { 17 };
                        e.attr(local, &octets(spec.local))
                            .attr_u8(7, 0)
                            .attr_be16(15, spec.port);
                    });
                });
            },
        )?;
        self.link(name)
    }

    /// Makes a veth pair: `name` here, up and a port of bridge `master`; the other end inside the peer's namespace.
    pub fn add_veth(&mut self, name: &str, master: u32, mtu: u32, peer: &Peer<'_>) -> Result<(), Error> {
        self.request(
            || format!("make interface pair {name} and {} in the pod", peer.name),
            NEWLINK,
            NLM_F_CREATE | NLM_F_EXCL,
            &[],
            |e| {
                e.raw(&ifinfo(0, 0, IFF_UP, IFF_UP))
                    .attr_str(IFLA_IFNAME, name)
                    .attr_u32(IFLA_MTU, mtu);
                e.attr_u32(IFLA_MASTER, master).nest(IFLA_LINKINFO, |e| {
                    e.attr_str(1, "veth").nest(2, |e| {
                        e.nest(1, |e| {
                            e.raw(&ifinfo(0, 0, 0, 0))
                                .attr_str(IFLA_IFNAME, peer.name)
                                .attr_u32(IFLA_MTU, mtu);
                            let fd = u32::try_from(peer.netns.as_raw_fd())
                                .expect("invariant: an open fd is not negative");
                            e.attr(IFLA_ADDRESS, &peer.mac).attr_u32(IFLA_NET_NS_FD, fd);
                        });
                    });
                });
            },
        )?;
        Ok(())
    }

    /// Lets a bridge port send packets back out where they came in, as a pod that reaches itself by a Service needs.
    pub fn set_hairpin(&mut self, port: u32) -> Result<(), Error> {
        self.request(
            || format!("set hairpin mode of bridge port {port}"),
            SETLINK,
            0,
            &[],
            |e| {
                e.raw(&ifinfo(AF_BRIDGE, port, 0, 0)).nest(IFLA_PROTINFO, |e| {
                    e.attr_u8(4, 1);
                });
            },
        )?;
        Ok(())
    }

    /// Brings a link up.
    pub fn set_up(&mut self, index: u32) -> Result<(), Error> {
        self.request(
            || format!("bring interface {index} up"),
            NEWLINK,
            0,
            &[],
            |e| {
                e.raw(&ifinfo(0, index, IFF_UP, IFF_UP));
            },
        )?;
        Ok(())
    }

    /// Changes the MTU.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), Error> {
        self.request(
            || format!("set MTU {mtu} of interface {index}"),
            NEWLINK,
            0,
            &[],
            |e| {
                e.raw(&ifinfo(0, index, 0, 0)).attr_u32(IFLA_MTU, mtu);
            },
        )?;
        Ok(())
    }

    /// Deletes a link by name.
    pub fn delete_link(&mut self, name: &str) -> Result<(), Error> {
        self.request(
            || format!("delete interface {name}"),
            DELLINK,
            0,
            &[libc_errno::ENODEV],
            |e| {
                e.raw(&ifinfo(0, 0, 0, 0)).attr_str(IFLA_IFNAME, name);
            },
        )?;
        Ok(())
    }

    /// Gives a link an address.
    pub fn add_address(&mut self, index: u32, net: IpNet) -> Result<(), Error> {
        let op = || format!("give interface {index} the address {net}");
        self.request(
            op,
            NEWADDR,
            NLM_F_CREATE | NLM_F_REPLACE,
            &[libc_errno::EEXIST],
            |e| {
                let mut header = [family(net.addr()), net.prefix_len(), 0, 0, 0, 0, 0, 0];
                header[4..].copy_from_slice(&index.to_ne_bytes());
                let ip = octets(net.addr());
                e.raw(&header).attr(2, &ip).attr(1, &ip);
                if net.addr().is_ipv6() {
                    // IFA_F_NODAD: the address is ours by construction; waiting a second for duplicates helps nobody.
                    e.attr_u32(8, 2);
                }
            },
        )?;
        Ok(())
    }

    /// Takes an address from a link.
    pub fn delete_address(&mut self, index: u32, net: IpNet) -> Result<(), Error> {
        let op = || format!("take the address {net} from interface {index}");
        self.request(op, 21, 0, &[libc_errno::EADDRNOTAVAIL, libc_errno::ENODEV], |e| {
            let mut header = [family(net.addr()), net.prefix_len(), 0, 0, 0, 0, 0, 0];
            header[4..].copy_from_slice(&index.to_ne_bytes());
            e.raw(&header).attr(2, &octets(net.addr()));
        })?;
        Ok(())
    }

    /// Makes or replaces a route of the main table.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), Error> {
        let op = || format!("set the route to {}", route.to);
        self.request(op, NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &[], |e| {
            encode_route(e, route)
        })?;
        Ok(())
    }

    /// Deletes a route of the main table.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), Error> {
        let op = || format!("delete the route to {}", route.to);
        self.request(op, DELROUTE, 0, &[libc_errno::ESRCH, libc_errno::ENODEV], |e| {
            encode_route(e, route)
        })?;
        Ok(())
    }

    /// Destinations and next hops of the main table's routes through a link.
    pub fn routes_via(&mut self, index: u32, v6: bool) -> Result<Vec<Route>, Error> {
        let replies = self.dump("routes", GETROUTE, |e| {
            let mut header = [0u8; 12];
            header[0] = if v6 { 10 } else { 2 };
            e.raw(&header);
        })?;
        Ok(replies
            .iter()
            .filter_map(|r| decode_route(&r.payload))
            .filter(|r| r.link == Some(index))
            .collect())
    }

    /// Makes or replaces a permanent neighbour entry: `ip` is at `mac`.
    pub fn replace_neighbour(&mut self, index: u32, ip: IpAddr, mac: Mac) -> Result<(), Error> {
        let op = || format!("set the neighbour {ip}");
        self.request(op, NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &[], |e| {
            e.raw(&neighbour(family(ip), index, NUD_PERMANENT, 0))
                .attr(1, &octets(ip))
                .attr(2, &mac);
        })?;
        Ok(())
    }

    /// Deletes a neighbour entry.
    pub fn delete_neighbour(&mut self, index: u32, ip: IpAddr) -> Result<(), Error> {
        let op = || format!("delete the neighbour {ip}");
        self.request(op, DELNEIGH, 0, &[libc_errno::ENOENT, libc_errno::ENODEV], |e| {
            e.raw(&neighbour(family(ip), index, 0, 0)).attr(1, &octets(ip));
        })?;
        Ok(())
    }

    /// Makes or replaces a forwarding entry of a VXLAN device: `mac` is behind the node `remote`.
    pub fn replace_forwarding(&mut self, index: u32, mac: Mac, remote: IpAddr) -> Result<(), Error> {
        let op = || format!("set the forwarding entry to node {remote}");
        self.request(op, NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &[], |e| {
            e.raw(&neighbour(AF_BRIDGE, index, NUD_PERMANENT | NUD_NOARP, NTF_SELF));
            e.attr(2, &mac).attr(1, &octets(remote));
        })?;
        Ok(())
    }

    /// Deletes a forwarding entry.
    pub fn delete_forwarding(&mut self, index: u32, mac: Mac, remote: IpAddr) -> Result<(), Error> {
        let op = || format!("delete the forwarding entry to node {remote}");
        self.request(op, DELNEIGH, 0, &[libc_errno::ENOENT, libc_errno::ENODEV], |e| {
            e.raw(&neighbour(AF_BRIDGE, index, 0, NTF_SELF))
                .attr(2, &mac)
                .attr(1, &octets(remote));
        })?;
        Ok(())
    }

    /// Forwarding entries of a VXLAN device.
    pub fn forwarding(&mut self, index: u32) -> Result<Vec<(Mac, IpAddr)>, Error> {
        let replies = self.dump("forwarding entries", GETNEIGH, |e| {
            e.raw(&neighbour(AF_BRIDGE, 0, 0, 0));
        })?;
        Ok(replies
            .iter()
            .filter(|r| u32_at(&r.payload, 4) == Some(index))
            .filter_map(|r| {
                let attrs = r.payload.get(12..)?;
                Some((
                    attribute(attrs, 2)?.try_into().ok()?,
                    address(attribute(attrs, 1)?)?,
                ))
            })
            .collect())
    }
}
