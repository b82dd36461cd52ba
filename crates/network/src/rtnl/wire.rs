//! Encoding and decoding of rtnetlink messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use keelson_sys::netlink::{Encoder, attribute};

use super::{Link, Route};

pub(super) const IFF_UP: u32 = 1;
pub(super) const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
pub(super) const IFLA_LINKINFO: u16 = 18;
const TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RTN_UNREACHABLE: u8 = 7;
const RTNH_F_ONLINK: u32 = 4;

pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

pub(super) fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 2 } else { 10 }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn encode_route(e: &mut Encoder, route: &Route) {
    let kind = if route.link.is_some() {
        RTN_UNICAST
    } else {
        RTN_UNREACHABLE
    };
    let scope = if route.link.is_some() && route.via.is_none() {
        253
    } else {
        0
    };
    let flags = if route.via.is_some() { RTNH_F_ONLINK } else { 0 };
    let mut header = [0u8; 12];
    header[0] = family(route.to.addr());
    header[1] = route.to.prefix_len();
    header[4] = TABLE_MAIN;
    header[5] = RTPROT_STATIC;
    header[6] = scope;
    header[7] = kind;
    header[8..].copy_from_slice(&flags.to_ne_bytes());
    e.raw(&header).attr(1, &octets(route.to.network()));
    if let Some(link) = route.link {
        e.attr_u32(4, link);
    }
    if let Some(via) = route.via {
        e.attr(5, &octets(via));
    }
    if route.metric != 0 {
        e.attr_u32(6, route.metric);
    }
    if let Some(source) = route.source {
        e.attr(7, &octets(source));
    }
}

pub(super) fn decode_route(payload: &[u8]) -> Option<Route> {
    let (fam, prefix, table) = (*payload.first()?, *payload.get(1)?, *payload.get(4)?);
    if table != TABLE_MAIN {
        return None;
    }
    let attrs = payload.get(12..)?;
    let zero = if fam == 2 {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let to = attribute(attrs, 1).and_then(address).unwrap_or(zero);
    Some(Route {
        to: IpNet::new(to, prefix).ok()?,
        via: attribute(attrs, 5).and_then(address),
        link: attribute(attrs, 4).and_then(|b| u32_at(b, 0)),
        source: attribute(attrs, 7).and_then(address),
        metric: attribute(attrs, 6).and_then(|b| u32_at(b, 0)).unwrap_or(0),
    })
}

pub(super) fn decode_link(payload: &[u8]) -> Option<Link> {
    let attrs = payload.get(16..)?;
    let info = attribute(attrs, IFLA_LINKINFO).unwrap_or_default();
    let kind = attribute(info, 1).map(|v| String::from_utf8_lossy(v).trim_end_matches('\0').to_owned());
    let vni = (kind.as_deref() == Some("vxlan"))
        .then(|| {
            attribute(info, 2)
                .and_then(|d| attribute(d, 1))
                .and_then(|b| u32_at(b, 0))
        })
        .flatten();
    Some(Link {
        index: u32_at(payload, 4)?,
        name: String::from_utf8_lossy(attribute(attrs, IFLA_IFNAME)?)
            .trim_end_matches('\0')
            .to_owned(),
        mtu: attribute(attrs, IFLA_MTU).and_then(|b| u32_at(b, 0)).unwrap_or(0),
        mac: attribute(attrs, IFLA_ADDRESS).and_then(|b| b.try_into().ok()),
        up: u32_at(payload, 8)? & IFF_UP != 0,
        kind,
        vni,
    })
}

/// The errnos that mean "already so".
pub(super) mod libc_errno {
    pub(in crate::rtnl) const ENOENT: i32 = 2;
    pub(in crate::rtnl) const ESRCH: i32 = 3;
    pub(in crate::rtnl) const EEXIST: i32 = 17;
    pub(in crate::rtnl) const ENODEV: i32 = 19;
    pub(in crate::rtnl) const EADDRNOTAVAIL: i32 = 99;
}
