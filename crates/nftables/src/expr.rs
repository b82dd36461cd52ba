//! Rule expressions and their netlink encoding (`linux/netfilter/nf_tables.h`).
//!
//! Registers are the kernel's sixteen 32-bit registers. A concatenated key occupies consecutive registers, each part
//! padded to four bytes.

use keelson_sys::netlink::Encoder;

/// A 32-bit register, 0 to 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reg(pub u8);

impl Reg {
    fn number(self) -> u32 {
        8 + u32::from(self.0)
    }
}

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Drop the packet.
    Drop,
    /// Accept it for this hook's chain.
    Accept,
    /// Return to the calling chain.
    Return,
    /// Call a chain.
    Jump(String),
    /// Continue in a chain without coming back.
    Goto(String),
}

impl Verdict {
    pub(crate) fn encode(&self, e: &mut Encoder) {
        let (code, chain): (i32, Option<&str>) = match self {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Return => (-5, None),
            Verdict::Jump(c) => (-3, Some(c)),
            Verdict::Goto(c) => (-4, Some(c)),
        };
        e.nest(2, |e| {
            e.attr(1, &code.to_be_bytes());
            if let Some(chain) = chain {
                e.attr_str(2, chain);
            }
        });
    }
}

/// Packet metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetaKey {
    /// Packet mark, host order.
    Mark,
    /// Name of the input interface, 16 bytes.
    IifName,
    /// Name of the output interface, 16 bytes.
    OifName,
    /// Transport protocol number.
    L4Proto,
}

impl MetaKey {
    fn number(self) -> u32 {
        match self {
            MetaKey::Mark => 3,
            MetaKey::IifName => 6,
            MetaKey::OifName => 7,
            MetaKey::L4Proto => 16,
        }
    }
}

/// Connection tracking fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CtKey {
    /// State bits, host order: see [`crate::rule::CT_NEW`].
    State,
    /// Status bits, host order: see [`crate::rule::CT_STATUS_DNAT`].
    Status,
}

/// Where a payload offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PayloadBase {
    /// IP header.
    Network,
    /// TCP, UDP or SCTP header.
    Transport,
}

/// Comparison operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CmpOp {
    /// Equal.
    Eq,
    /// Not equal.
    Neq,
    /// At most, as numbers in network order.
    Lte,
    /// At least.
    Gte,
}

/// What a rule does to a dynamic set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DynsetOp {
    /// Add when missing, otherwise restart the timeout.
    Update,
    /// Remove.
    Delete,
}

/// One expression of a rule. Evaluation stops at the first that does not match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expr {
    /// Load packet bytes.
    Payload {
        /// Origin of `offset`.
        base: PayloadBase,
        /// Bytes from `base`.
        offset: u32,
        /// Bytes to load.
        len: u32,
        /// Destination.
        dst: Reg,
    },
    /// Load metadata.
    Meta {
        /// Which.
        key: MetaKey,
        /// Destination.
        dst: Reg,
    },
    /// Store metadata (the mark).
    SetMeta {
        /// Which.
        key: MetaKey,
        /// Source.
        src: Reg,
    },
    /// Load connection tracking data.
    Ct {
        /// Which.
        key: CtKey,
        /// Destination.
        dst: Reg,
    },
    /// Compare a register with bytes.
    Cmp {
        /// Register.
        src: Reg,
        /// Operator.
        op: CmpOp,
        /// Expected bytes.
        value: Vec<u8>,
    },
    /// `dst = (src & mask) ^ xor`.
    Bitwise {
        /// Source.
        src: Reg,
        /// Destination.
        dst: Reg,
        /// Mask; its length is the width.
        mask: Vec<u8>,
        /// Exclusive or, as long as `mask`.
        xor: Vec<u8>,
    },
    /// Load constant bytes.
    Load {
        /// Destination.
        dst: Reg,
        /// Bytes.
        value: Vec<u8>,
    },
    /// End the rule with a verdict.
    Verdict(Verdict),
    /// Match when the key is in the set (or is not, with `invert`).
    Lookup {
        /// Set name.
        set: String,
        /// First register of the key.
        key: Reg,
        /// Match when absent.
        invert: bool,
    },
    /// Look the key up in a map and load its data.
    MapLookup {
        /// Map name.
        map: String,
        /// First register of the key.
        key: Reg,
        /// First register of the data.
        dst: Reg,
    },
    /// Look the key up in a verdict map and do what it says.
    VerdictMap {
        /// Map name.
        map: String,
        /// First register of the key.
        key: Reg,
    },
    /// A random number below `modulus`, host order.
    Random {
        /// Exclusive upper bound, at least 1.
        modulus: u32,
        /// Destination.
        dst: Reg,
    },
    /// Destination NAT to the address and port in registers.
    Dnat {
        /// 2 for IPv4, 10 for IPv6.
        family: u32,
        /// First register of the address.
        addr: Reg,
        /// Register of the port, network order.
        port: Option<Reg>,
    },
    /// Source NAT to the address of the outgoing interface, fully random ports.
    Masquerade,
    /// Answer with ICMP (port) unreachable of the family; code of that family.
    RejectIcmp(u8),
    /// Answer with TCP reset.
    RejectTcp,
    /// Type (`RTN_*`, host order) of the packet's source or destination address in the routing table.
    FibAddrType {
        /// Source instead of destination.
        source: bool,
        /// Destination.
        dst: Reg,
    },
    /// Change a dynamic set or map.
    Dynset {
        /// Set name.
        set: String,
        /// What to do.
        op: DynsetOp,
        /// First register of the key.
        key: Reg,
        /// First register of the data, for maps.
        data: Option<Reg>,
        /// Time until the element expires; the set must have the timeout flag.
        timeout_ms: Option<u64>,
    },
    /// Count packets and bytes.
    Counter,
}

fn value(e: &mut Encoder, kind: u16, bytes: &[u8]) {
    e.nest(kind, |e| {
        e.attr(1, bytes);
    });
}

impl Expr {
    fn name(&self) -> &'static str {
        match self {
            Expr::Payload { .. } => "payload",
            Expr::Meta { .. } | Expr::SetMeta { .. } => "meta",
            Expr::Ct { .. } => "ct",
            Expr::Cmp { .. } => "cmp",
            Expr::Bitwise { .. } => "bitwise",
            Expr::Load { .. } | Expr::Verdict(_) => "immediate",
            Expr::Lookup { .. } | Expr::MapLookup { .. } | Expr::VerdictMap { .. } => "lookup",
            Expr::Random { .. } => "numgen",
            Expr::Dnat { .. } => "nat",
            Expr::Masquerade => "masq",
            Expr::RejectIcmp(_) | Expr::RejectTcp => "reject",
            Expr::FibAddrType { .. } => "fib",
            Expr::Dynset { .. } => "dynset",
            Expr::Counter => "counter",
        }
    }

    pub(crate) fn encode(&self, e: &mut Encoder) {
        e.nest(1, |e| {
            e.attr_str(1, self.name());
            e.nest(2, |e| self.encode_data(e));
        });
    }

    fn encode_data(&self, e: &mut Encoder) {
        match self {
            Expr::Payload {
                base,
                offset,
                len,
                dst,
            } => {
                let base = match base {
                    PayloadBase::Network => 1,
                    PayloadBase::Transport => 2,
                };
                e.attr_be32(1, dst.number())
                    .attr_be32(2, base)
                    .attr_be32(3, *offset)
                    .attr_be32(4, *len);
            }
            Expr::Meta { key, dst } => {
                e.attr_be32(1, dst.number()).attr_be32(2, key.number());
            }
            Expr::SetMeta { key, src } => {
                e.attr_be32(2, key.number()).attr_be32(3, src.number());
            }
            Expr::Ct { key, dst } => {
                let key = match key {
                    CtKey::State => 0,
                    CtKey::Status => 2,
                };
                e.attr_be32(1, dst.number()).attr_be32(2, key);
            }
            Expr::Cmp { src, op, value: v } => {
                let op = match op {
                    CmpOp::Eq => 0,
                    CmpOp::Neq => 1,
                    CmpOp::Lte => 3,
                    CmpOp::Gte => 5,
                };
                e.attr_be32(1, src.number()).attr_be32(2, op);
                value(e, 3, v);
            }
            Expr::Bitwise { src, dst, mask, xor } => {
                let len = u32::try_from(mask.len()).expect("invariant: masks are at most 16 bytes");
                e.attr_be32(1, src.number())
                    .attr_be32(2, dst.number())
                    .attr_be32(3, len);
                value(e, 4, mask);
                value(e, 5, xor);
            }
            Expr::Load { dst, value: v } => {
                e.attr_be32(1, dst.number());
                value(e, 2, v);
            }
            Expr::Verdict(v) => {
                e.attr_be32(1, 0).nest(2, |e| v.encode(e));
            }
            Expr::Lookup { set, key, invert } => {
                e.attr_str(1, set).attr_be32(2, key.number());
                if *invert {
                    e.attr_be32(5, 1);
                }
            }
            Expr::MapLookup { map, key, dst } => {
                e.attr_str(1, map)
                    .attr_be32(2, key.number())
                    .attr_be32(3, dst.number());
            }
            Expr::VerdictMap { map, key } => {
                e.attr_str(1, map).attr_be32(2, key.number()).attr_be32(3, 0);
            }
            Expr::Random { modulus, dst } => {
                e.attr_be32(1, dst.number())
                    .attr_be32(2, *modulus)
                    .attr_be32(3, 1)
                    .attr_be32(4, 0);
            }
            Expr::Dnat { family, addr, port } => {
                e.attr_be32(1, 1)
                    .attr_be32(2, *family)
                    .attr_be32(3, addr.number());
                if let Some(port) = port {
                    e.attr_be32(5, port.number());
                }
            }
            Expr::Masquerade => {
                e.attr_be32(1, 16);
            }
            Expr::RejectIcmp(code) => {
                e.attr_be32(1, 0).attr_u8(2, *code);
            }
            Expr::RejectTcp => {
                e.attr_be32(1, 1);
            }
            Expr::FibAddrType { source, dst } => {
                e.attr_be32(1, dst.number())
                    .attr_be32(2, 3)
                    .attr_be32(3, if *source { 1 } else { 2 });
            }
            Expr::Dynset {
                set,
                op,
                key,
                data,
                timeout_ms,
            } => {
                let op = match op {
                    DynsetOp::Update => 1,
                    DynsetOp::Delete => 2,
                };
                e.attr_str(1, set).attr_be32(3, op).attr_be32(4, key.number());
                if let Some(data) = data {
                    e.attr_be32(5, data.number());
                }
                if let Some(ms) = timeout_ms {
                    e.attr_be64(6, *ms);
                }
            }
            Expr::Counter => {
                e.attr_be64(1, 0).attr_be64(2, 0);
            }
        }
    }
}
