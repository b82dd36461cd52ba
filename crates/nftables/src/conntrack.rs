//! Tracked connections: list and delete (`linux/netfilter/nfnetlink_conntrack.h`).
//!
//! Used to forget UDP flows whose translation has become wrong: TCP recovers by itself, UDP would keep going to an
//! endpoint that no longer exists.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use keelson_sys::netlink::{Encoder, NLM_F_ACK, NLM_F_DUMP, Protocol, Socket, attribute};

use crate::Error;

const SUBSYS_CTNETLINK: u16 = 1 << 8;
const CT_GET: u16 = 1;
const CT_DELETE: u16 = 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ENOENT: i32 = 2;

/// One tracked connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IP protocol.
    pub proto: u8,
    /// Where the first packet came from.
    pub source: (IpAddr, u16),
    /// Where the first packet was sent to, before translation.
    pub destination: (IpAddr, u16),
    /// Where replies come from: the destination after translation.
    pub reply_source: (IpAddr, u16),
    orig: Vec<u8>,
}

/// A connection to the tracking table of one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Connects in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        let socket = Socket::open(Protocol::Netfilter)?;
        socket.set_receive_buffer(8 << 20)?;
        Ok(Conntrack { socket })
    }

    /// All connections of a family (with ports; others are left out).
    pub fn flows(&mut self, v6: bool) -> Result<Vec<Flow>, Error> {
        let seq = self.socket.next_seq();
        let mut e = Encoder::new();
        e.begin(SUBSYS_CTNETLINK | CT_GET, NLM_F_DUMP, seq)
            .raw(&[family(v6), 0, 0, 0])
            .end();
        match self.socket.dump(e.as_bytes(), seq)? {
            Ok(replies) => Ok(replies
                .iter()
                .filter_map(|r| decode(r.payload.get(4..)?))
                .collect()),
            Err(e) => Err(Error::List {
                what: "connections",
                source: io::Error::from_raw_os_error(e.errno),
            }),
        }
    }

    /// Deletes the connections of protocol `proto` that `stale` says; returns how many.
    pub fn delete(&mut self, v6: bool, proto: u8, stale: impl Fn(&Flow) -> bool) -> Result<usize, Error> {
        let mut deleted = 0;
        for flow in self.flows(v6)?.iter().filter(|f| f.proto == proto && stale(f)) {
            let seq = self.socket.next_seq();
            let mut e = Encoder::new();
            e.begin(SUBSYS_CTNETLINK | CT_DELETE, NLM_F_ACK, seq)
                .raw(&[family(v6), 0, 0, 0]);
            e.attr(TUPLE_ORIG | keelson_sys::netlink::NLA_F_NESTED, &flow.orig)
                .end();
            match self.socket.request(e.as_bytes(), seq)? {
                Ok(_) => deleted += 1,
                Err(e) if e.errno == ENOENT => {}
                Err(e) => {
                    let source = io::Error::from_raw_os_error(e.errno);
                    return Err(Error::List {
                        what: "connections to delete",
                        source,
                    });
                }
            }
        }
        Ok(deleted)
    }
}

fn family(v6: bool) -> u8 {
    if v6 { 10 } else { 2 }
}

fn address(ip: &[u8], v4: u16, v6: u16) -> Option<IpAddr> {
    if let Some(a) = attribute(ip, v4) {
        return Some(Ipv4Addr::from(<[u8; 4]>::try_from(a).ok()?).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(attribute(ip, v6)?).ok()?).into())
}

fn port(proto: &[u8], kind: u16) -> Option<u16> {
    Some(u16::from_be_bytes(attribute(proto, kind)?.try_into().ok()?))
}

fn decode(message: &[u8]) -> Option<Flow> {
    let orig = attribute(message, TUPLE_ORIG)?;
    let reply = attribute(message, TUPLE_REPLY)?;
    let (ip, proto) = (attribute(orig, 1)?, attribute(orig, 2)?);
    let (reply_ip, reply_proto) = (attribute(reply, 1)?, attribute(reply, 2)?);
    Some(Flow {
        proto: *attribute(proto, 1)?.first()?,
        source: (address(ip, 1, 3)?, port(proto, 2)?),
        destination: (address(ip, 2, 4)?, port(proto, 3)?),
        reply_source: (address(reply_ip, 1, 3)?, port(reply_proto, 2)?),
        orig: orig.to_vec(),
    })
}
