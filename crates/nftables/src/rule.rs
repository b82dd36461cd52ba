//! Phrases that rules are built from. Each returns the expressions; a rule is their concatenation.

use std::net::IpAddr;

use crate::{CmpOp, CtKey, Expr, MetaKey, PayloadBase, Reg, Verdict};

/// `ct state new`.
pub const CT_NEW: u32 = 8;
/// `ct state established`.
pub const CT_ESTABLISHED: u32 = 2;
/// `ct state related`.
pub const CT_RELATED: u32 = 4;
/// `ct status dnat`.
pub const CT_STATUS_DNAT: u32 = 0x20;
/// `RTN_LOCAL`, an address of this machine.
pub const FIB_LOCAL: u32 = 2;

/// The bytes of an address in network order.
pub fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// Loads the source address; IPv4 takes one register, IPv6 four.
pub fn source_address(v6: bool, dst: Reg) -> Expr {
    let (offset, len) = if v6 { (8, 16) } else { (12, 4) };
    Expr::Payload {
        base: PayloadBase::Network,
        offset,
        len,
        dst,
    }
}

/// Loads the destination address.
pub fn destination_address(v6: bool, dst: Reg) -> Expr {
    let (offset, len) = if v6 { (24, 16) } else { (16, 4) };
    Expr::Payload {
        base: PayloadBase::Network,
        offset,
        len,
        dst,
    }
}

/// Loads the destination port.
pub fn destination_port(dst: Reg) -> Expr {
    Expr::Payload {
        base: PayloadBase::Transport,
        offset: 2,
        len: 2,
        dst,
    }
}

/// Loads the transport protocol.
pub fn l4proto(dst: Reg) -> Expr {
    Expr::Meta {
        key: MetaKey::L4Proto,
        dst,
    }
}

fn prefix_match(load: Expr, address: IpAddr, prefix: u8, op: CmpOp) -> Vec<Expr> {
    let reg = Reg(0);
    let bytes = octets(address);
    let mask: Vec<u8> = (0..bytes.len())
        .map(|i| {
            let bits = usize::from(prefix).saturating_sub(i * 8).min(8);
            if bits == 0 { 0 } else { 0xffu8 << (8 - bits) }
        })
        .collect();
    let value: Vec<u8> = bytes.iter().zip(&mask).map(|(b, m)| b & m).collect();
    let mut out = vec![load];
    if mask.iter().any(|b| *b != 0xff) {
        out.push(Expr::Bitwise {
            src: reg,
            dst: reg,
            xor: vec![0; mask.len()],
            mask,
        });
    }
    out.push(Expr::Cmp { src: reg, op, value });
    out
}

/// `ip saddr address/prefix`, or `!=` with [`CmpOp::Neq`]. Uses register 0 onwards.
pub fn source_in(address: IpAddr, prefix: u8, op: CmpOp) -> Vec<Expr> {
    prefix_match(source_address(address.is_ipv6(), Reg(0)), address, prefix, op)
}

/// `ip daddr address/prefix`, or `!=`. Uses register 0 onwards.
pub fn destination_in(address: IpAddr, prefix: u8, op: CmpOp) -> Vec<Expr> {
    prefix_match(
        destination_address(address.is_ipv6(), Reg(0)),
        address,
        prefix,
        op,
    )
}

/// `ct state` (any of `bits`). Uses register 0.
pub fn ct_state(bits: u32) -> Vec<Expr> {
    any_bit(
        Expr::Ct {
            key: CtKey::State,
            dst: Reg(0),
        },
        bits,
    )
}

/// `ct status` (any of `bits`). Uses register 0.
pub fn ct_status(bits: u32) -> Vec<Expr> {
    any_bit(
        Expr::Ct {
            key: CtKey::Status,
            dst: Reg(0),
        },
        bits,
    )
}

/// `meta mark & bits != 0`. Uses register 0.
pub fn mark_set(bits: u32) -> Vec<Expr> {
    any_bit(
        Expr::Meta {
            key: MetaKey::Mark,
            dst: Reg(0),
        },
        bits,
    )
}

fn any_bit(load: Expr, bits: u32) -> Vec<Expr> {
    let reg = Reg(0);
    vec![
        load,
        Expr::Bitwise {
            src: reg,
            dst: reg,
            mask: bits.to_ne_bytes().to_vec(),
            xor: vec![0; 4],
        },
        Expr::Cmp {
            src: reg,
            op: CmpOp::Neq,
            value: vec![0; 4],
        },
    ]
}

/// `meta mark set mark or bits`. Uses register 0.
pub fn set_mark(bits: u32) -> Vec<Expr> {
    change_mark(!bits, bits)
}

/// `meta mark set mark and not bits`. Uses register 0.
pub fn clear_mark(bits: u32) -> Vec<Expr> {
    change_mark(!bits, 0)
}

fn change_mark(mask: u32, xor: u32) -> Vec<Expr> {
    let reg = Reg(0);
    vec![
        Expr::Meta {
            key: MetaKey::Mark,
            dst: reg,
        },
        Expr::Bitwise {
            src: reg,
            dst: reg,
            mask: mask.to_ne_bytes().to_vec(),
            xor: xor.to_ne_bytes().to_vec(),
        },
        Expr::SetMeta {
            key: MetaKey::Mark,
            src: reg,
        },
    ]
}

/// `fib daddr type local` (or saddr; or `!=`). Uses register 0.
pub fn address_is_local(source: bool, op: CmpOp) -> Vec<Expr> {
    vec![
        Expr::FibAddrType { source, dst: Reg(0) },
        Expr::Cmp {
            src: Reg(0),
            op,
            value: FIB_LOCAL.to_ne_bytes().to_vec(),
        },
    ]
}

/// `iifname name` (or `oifname`; or `!=`). Uses registers 0 to 3.
pub fn interface(key: MetaKey, name: &str, op: CmpOp) -> Vec<Expr> {
    let mut value = name.as_bytes().to_vec();
    value.resize(16, 0);
    vec![
        Expr::Meta { key, dst: Reg(0) },
        Expr::Cmp {
            src: Reg(0),
            op,
            value,
        },
    ]
}

/// `jump chain`.
pub fn jump(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Jump(chain.to_owned()))
}

/// `goto chain`.
pub fn goto(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Goto(chain.to_owned()))
}

/// `reject` with ICMP port unreachable of the family.
pub fn reject(v6: bool) -> Expr {
    Expr::RejectIcmp(if v6 { 4 } else { 3 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_become_masks() {
        let table = [
            ("10.244.0.0", 16, Some(vec![255, 255, 0, 0]), vec![10, 244, 0, 0]),
            ("10.96.1.1", 12, Some(vec![255, 240, 0, 0]), vec![10, 96, 0, 0]),
            ("10.0.0.1", 32, None, vec![10, 0, 0, 1]),
            ("0.0.0.0", 0, Some(vec![0; 4]), vec![0; 4]),
        ];
        for (ip, prefix, mask, value) in table {
            let got = source_in(ip.parse().unwrap(), prefix, CmpOp::Eq);
            let got_mask = got.iter().find_map(|e| match e {
                Expr::Bitwise { mask, .. } => Some(mask.clone()),
                _ => None,
            });
            assert_eq!(got_mask, mask, "{ip}/{prefix}");
            assert_eq!(
                got.last(),
                Some(&Expr::Cmp {
                    src: Reg(0),
                    op: CmpOp::Eq,
                    value
                }),
                "{ip}/{prefix}"
            );
        }
    }
}
