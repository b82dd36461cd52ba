//! IP addresses and blocks of them.

use std::net::IpAddr;

use super::Outcome;
use super::strings::text;
use crate::error::EvalError;
use crate::value::{Cidr, Extension, Value};

fn parse_ip(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| format!("IP Address \"{text}\" parse error during conversion from string: ParseAddr(\"{text}\"): unable to parse IP"))?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address \"{text}\" is not allowed"))
        }
        _ => Ok(address),
    }
}

fn parse_cidr(text: &str) -> Result<Cidr, String> {
    let invalid = || {
        format!(
            "network address parse error during conversion from string: netip.ParsePrefix(\"{text}\"): invalid CIDR address"
        )
    };
    let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
    let address = parse_ip(address)?;
    if prefix.is_empty() || prefix.len() > 1 && prefix.starts_with('0') || prefix.starts_with('+') {
        return Err(invalid());
    }
    let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
    if prefix > bits(address) {
        return Err(invalid());
    }
    Ok(Cidr { address, prefix })
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with everything after the prefix cleared.
fn mask(address: IpAddr, prefix: u8) -> IpAddr {
    let cleared = u32::from(bits(address) - prefix);
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(cleared).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(cleared).unwrap_or(0)).into()),
    }
}

fn within(cidr: Cidr, address: IpAddr) -> bool {
    address.is_ipv4() == cidr.address.is_ipv4()
        && mask(address, cidr.prefix) == mask(cidr.address, cidr.prefix)
}

fn address(args: &[Value<'_>]) -> Result<IpAddr, EvalError> {
    match args.first() {
        Some(Value::Extension(Extension::Ip(address))) => Ok(*address),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn block(args: &[Value<'_>]) -> Result<Cidr, EvalError> {
    match args.first() {
        Some(Value::Extension(Extension::Cidr(cidr))) => Ok(*cidr),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `ip(s)` and `c.ip()`
pub(super) fn ip<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    if let Ok(cidr) = block(args) {
        return Ok(Value::Extension(Extension::Ip(cidr.address)));
    }
    parse_ip(text(args, 0)?)
        .map(|address| Value::Extension(Extension::Ip(address)))
        .map_err(EvalError::new)
}

/// `isIP(s)`
pub(super) fn is_ip<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(parse_ip(text(args, 0)?).is_ok()))
}

/// `ip.isCanonical(s)`
pub(super) fn is_canonical<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let source = text(args, 0)?;
    let address = parse_ip(source).map_err(EvalError::new)?;
    Ok(Value::Bool(address.to_string() == **source))
}

/// `a.family()`
pub(super) fn family<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Int(if address(args)?.is_ipv4() { 4 } else { 6 }))
}

/// `a.isUnspecified()`
pub(super) fn is_unspecified<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(address(args)?.is_unspecified()))
}

/// `a.isLoopback()`
pub(super) fn is_loopback<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(address(args)?.is_loopback()))
}

/// `a.isLinkLocalMulticast()`
pub(super) fn is_link_local_multicast<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(match address(args)? {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }))
}

fn link_local_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// `a.isLinkLocalUnicast()`
pub(super) fn is_link_local_unicast<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(link_local_unicast(address(args)?)))
}

/// `a.isGlobalUnicast()`
pub(super) fn is_global_unicast<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let address = address(args)?;
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let other = broadcast || address.is_unspecified() || address.is_loopback() || address.is_multicast();
    Ok(Value::Bool(!other && !link_local_unicast(address)))
}

/// `cidr(s)`
pub(super) fn cidr<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    parse_cidr(text(args, 0)?)
        .map(|cidr| Value::Extension(Extension::Cidr(cidr)))
        .map_err(EvalError::new)
}

/// `isCIDR(s)`
pub(super) fn is_cidr<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(parse_cidr(text(args, 0)?).is_ok()))
}

/// `c.containsIP(a)`
pub(super) fn contains_ip<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let cidr = block(args)?;
    let address = match args.get(1) {
        Some(Value::Extension(Extension::Ip(address))) => *address,
        _ => parse_ip(text(args, 1)?).map_err(EvalError::new)?,
    };
    Ok(Value::Bool(within(cidr, address)))
}

/// `c.containsCIDR(other)`
pub(super) fn contains_cidr<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let cidr = block(args)?;
    let other = match args.get(1) {
        Some(Value::Extension(Extension::Cidr(other))) => *other,
        _ => parse_cidr(text(args, 1)?).map_err(EvalError::new)?,
    };
    Ok(Value::Bool(
        cidr.prefix <= other.prefix && within(cidr, other.address),
    ))
}

/// `c.prefixLength()`
pub(super) fn prefix_length<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Int(i64::from(block(args)?.prefix)))
}

/// `c.masked()`
pub(super) fn masked<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let Cidr { address, prefix } = block(args)?;
    let address = mask(address, prefix);
    Ok(Value::Extension(Extension::Cidr(Cidr { address, prefix })))
}
