//! A transaction under construction.

use keelson_sys::netlink::{Encoder, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};

use crate::{Expr, Verdict};

const SUBSYS_NFTABLES: u16 = 10 << 8;
const MSG_BATCH_BEGIN: u16 = 16;
const MSG_BATCH_END: u16 = 17;
const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;

/// Elements per message: keeps a nest well below its 64 KiB limit.
const ELEMENTS_PER_MESSAGE: usize = 256;

/// Address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `ip`.
    Ipv4,
    /// `ip6`.
    Ipv6,
    /// `inet`: both.
    Inet,
}

impl Family {
    pub(crate) fn number(self) -> u8 {
        match self {
            Family::Inet => 1,
            Family::Ipv4 => 2,
            Family::Ipv6 => 10,
        }
    }
}

/// Netfilter hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// For this machine.
    Input,
    /// Through this machine.
    Forward,
    /// From this machine.
    Output,
    /// After routing.
    Postrouting,
}

/// What a base chain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainType {
    /// Filtering.
    Filter,
    /// Address translation: sees the first packet of a connection only.
    Nat,
}

/// Where a base chain hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BaseChain {
    /// Purpose.
    pub chain_type: ChainType,
    /// Hook.
    pub hook: Hook,
    /// Order among chains of the hook, lower first.
    pub priority: i32,
}

/// A set or map to be made. Type numbers are only for `nft list`; lengths are what counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SetSpec {
    /// Name, unique in the table.
    pub name: String,
    /// Bytes of the key, padded parts included.
    pub key_len: u32,
    /// nft's type number of the key.
    pub key_type: u32,
    /// Bytes of the data and nft's type number, for a map.
    pub data: Option<(u32, u32)>,
    /// Data are verdicts.
    pub verdicts: bool,
    /// Elements may have timeouts.
    pub timeout: bool,
    /// Rules change it.
    pub dynamic: bool,
    /// Most elements it may have (needed by dynamic ones).
    pub size: Option<u32>,
    /// The key is in host order (a number).
    pub host_order: bool,
}

/// nft's type numbers, for readable listings.
pub(crate) mod types {
    pub(crate) const INTEGER: u32 = 4;
    pub(crate) const IPV4: u32 = 7;
    pub(crate) const IPV6: u32 = 8;
    pub(crate) const PROTO: u32 = 12;
    pub(crate) const SERVICE: u32 = 13;
}

impl SetSpec {
    fn with_key(name: &str, key_len: u32, key_type: u32) -> Self {
        SetSpec {
            name: name.to_owned(),
            key_len,
            key_type,
            ..Default::default()
        }
    }

    fn address(v6: bool) -> (u32, u32) {
        if v6 { (16, types::IPV6) } else { (4, types::IPV4) }
    }

    /// Keyed by address.
    pub fn by_address(name: &str, v6: bool) -> Self {
        let (len, kind) = Self::address(v6);
        Self::with_key(name, len, kind)
    }

    /// Keyed by address . address.
    pub fn by_address_pair(name: &str, v6: bool) -> Self {
        let (len, kind) = Self::address(v6);
        Self::with_key(name, 2 * len, kind << 6 | kind)
    }

    /// Keyed by address . port.
    pub fn by_address_port(name: &str, v6: bool) -> Self {
        let (len, kind) = Self::address(v6);
        Self::with_key(name, len + 4, kind << 6 | types::SERVICE)
    }

    /// Keyed by address . protocol . port.
    pub fn by_address_proto_port(name: &str, v6: bool) -> Self {
        let (len, kind) = Self::address(v6);
        Self::with_key(name, len + 8, kind << 12 | types::PROTO << 6 | types::SERVICE)
    }

    /// Keyed by protocol . port.
    pub fn by_proto_port(name: &str) -> Self {
        Self::with_key(name, 8, types::PROTO << 6 | types::SERVICE)
    }

    /// Keyed by a 32-bit number.
    pub fn by_number(name: &str) -> Self {
        SetSpec {
            host_order: true,
            ..Self::with_key(name, 4, types::INTEGER)
        }
    }

    /// Makes it a map to address . port.
    #[must_use]
    pub fn to_address_port(mut self, v6: bool) -> Self {
        let (len, kind) = Self::address(v6);
        self.data = Some((len + 4, kind << 6 | types::SERVICE));
        self
    }

    /// Makes it a verdict map.
    #[must_use]
    pub fn to_verdict(mut self) -> Self {
        self.verdicts = true;
        self
    }

    /// Lets rules change it; elements expire; at most `size` elements.
    #[must_use]
    pub fn dynamic(mut self, size: u32) -> Self {
        self.dynamic = true;
        self.timeout = true;
        self.size = Some(size);
        self
    }

    fn flags(&self) -> u32 {
        let mut flags = 0;
        if self.data.is_some() || self.verdicts {
            flags |= 0x8;
        }
        if self.timeout {
            flags |= 0x10;
        }
        if self.dynamic {
            flags |= 0x20;
        }
        flags
    }
}

/// Data of a map element.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Data {
    /// A verdict.
    Verdict(Verdict),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Element {
    /// Key, parts padded to four bytes.
    pub key: Vec<u8>,
    /// Data, for maps.
    pub data: Option<Data>,
    /// Milliseconds until it expires: (timeout, what is left of it).
    pub expires: Option<(u64, u64)>,
}

impl Element {
    /// A set element.
    pub fn key(key: Vec<u8>) -> Self {
        Element {
            key,
            data: None,
            expires: None,
        }
    }

    /// A map element.
    pub fn with(key: Vec<u8>, data: Data) -> Self {
        Element {
            key,
            data: Some(data),
            expires: None,
        }
    }
}

/// A transaction on one table. Operations apply in order; see [`crate::NfTables::commit`].
#[derive(Debug)]
pub struct Batch {
    family: Family,
    pub(crate) table: String,
    pub(crate) encoder: Encoder,
    /// What message `seq` (index + 2; 1 is the begin) does, for error messages.
    pub(crate) operations: Vec<(&'static str, String)>,
    next_set_id: u32,
    last_flags_at: usize,
}

impl Batch {
    /// An empty transaction on `table`.
    pub fn new(family: Family, table: &str) -> Self {
        let mut encoder = Encoder::new();
        encoder.begin(MSG_BATCH_BEGIN, 0, 1).raw(&[0, 0, 0, 10]).end();
        Batch {
            family,
            table: table.to_owned(),
            encoder,
            operations: Vec::new(),
            next_set_id: 1,
            last_flags_at: 0,
        }
    }

    /// Number of messages that change something.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Size of the encoded transaction in bytes.
    pub fn encoded_len(&self) -> usize {
        self.encoder.len()
    }

    fn message(
        &mut self,
        op: &'static str,
        name: &str,
        kind: u16,
        flags: u16,
        fill: impl FnOnce(&mut Encoder, &str),
    ) {
        self.operations.push((op, name.to_owned()));
        let seq = u32::try_from(self.operations.len() + 1)
            .expect("invariant: a batch has fewer than 2^32 messages");
        self.last_flags_at = self.encoder.len() + 6;
        self.encoder
            .begin(SUBSYS_NFTABLES | kind, flags, seq)
            .raw(&[self.family.number(), 0, 0, 0]);
        fill(&mut self.encoder, &self.table);
        self.encoder.end();
    }

    /// Makes the table; fine when it exists.
    pub fn add_table(&mut self) -> &mut Self {
        self.message("add table", "", NEWTABLE, NLM_F_CREATE, |e, table| {
            e.attr_str(1, table).attr_be32(2, 0);
        });
        self
    }

    /// Deletes the table with all in it; it must exist.
    pub fn delete_table(&mut self) -> &mut Self {
        self.message("delete table", "", DELTABLE, 0, |e, table| {
            e.attr_str(1, table);
        });
        self
    }

    /// Empties the table, or makes it: afterwards it exists and has nothing.
    pub fn recreate_table(&mut self) -> &mut Self {
        self.add_table().delete_table().add_table()
    }

    /// Makes a base chain with policy accept.
    pub fn add_base_chain(&mut self, name: &str, base: BaseChain) -> &mut Self {
        self.message("add chain", name, NEWCHAIN, NLM_F_CREATE, |e, table| {
            let hook = match base.hook {
                Hook::Prerouting => 0,
                Hook::Input => 1,
                Hook::Forward => 2,
                Hook::Output => 3,
                Hook::Postrouting => 4,
            };
            e.attr_str(1, table).attr_str(3, name).nest(4, |e| {
                e.attr_be32(1, hook).attr(2, &base.priority.to_be_bytes());
            });
            e.attr_be32(5, 1).attr_str(
                7,
                match base.chain_type {
                    ChainType::Filter => "filter",
                    ChainType::Nat => "nat",
                },
            );
        });
        self
    }

    /// Makes a regular chain; fine when it exists.
    pub fn add_chain(&mut self, name: &str) -> &mut Self {
        self.message("add chain", name, NEWCHAIN, NLM_F_CREATE, |e, table| {
            e.attr_str(1, table).attr_str(3, name);
        });
        self
    }

    /// Deletes a chain and its rules; nothing may refer to it after this transaction's earlier operations.
    pub fn delete_chain(&mut self, name: &str) -> &mut Self {
        self.flush_chain(name);
        self.message("delete chain", name, DELCHAIN, 0, |e, table| {
            e.attr_str(1, table).attr_str(3, name);
        });
        self
    }

    /// Removes all rules of a chain.
    pub fn flush_chain(&mut self, name: &str) -> &mut Self {
        self.message("flush chain", name, DELRULE, 0, |e, table| {
            e.attr_str(1, table).attr_str(2, name);
        });
        self
    }

    /// Appends a rule.
    pub fn add_rule(&mut self, chain: &str, rule: &[Expr]) -> &mut Self {
        self.message(
            "add rule",
            chain,
            NEWRULE,
            NLM_F_CREATE | NLM_F_APPEND,
            |e, table| {
                e.attr_str(1, table).attr_str(2, chain).nest(4, |e| {
                    for expr in rule {
                        expr.encode(e);
                    }
                });
            },
        );
        self
    }

    /// Makes a set or map; it must not exist with other properties.
    pub fn add_set(&mut self, spec: &SetSpec) -> &mut Self {
        let id = self.next_set_id;
        self.next_set_id += 1;
        self.message("add set", &spec.name, NEWSET, NLM_F_CREATE, |e, table| {
            e.attr_str(1, table)
                .attr_str(2, &spec.name)
                .attr_be32(3, spec.flags());
            e.attr_be32(4, spec.key_type).attr_be32(5, spec.key_len);
            if spec.verdicts {
                e.attr_be32(6, 0xffff_ff00).attr_be32(7, 0);
            } else if let Some((len, kind)) = spec.data {
                e.attr_be32(6, kind).attr_be32(7, len);
            }
            if let Some(size) = spec.size {
                e.nest(9, |e| {
                    e.attr_be32(1, size);
                });
            }
            e.attr_be32(10, id);
            // nft's own note on the byte order of the key, so that it prints numbers right.
            let order = if spec.host_order { 1u32 } else { 2 };
            let mut userdata = vec![0u8, 4];
            userdata.extend_from_slice(&order.to_ne_bytes());
            e.attr(13, &userdata);
        });
        self
    }

    /// Deletes a set or map; no rule may refer to it after this transaction's earlier operations.
    pub fn delete_set(&mut self, name: &str) -> &mut Self {
        self.message("delete set", name, DELSET, 0, |e, table| {
            e.attr_str(1, table).attr_str(2, name);
        });
        self
    }

    /// Removes all elements of a set.
    pub fn flush_set(&mut self, name: &str) -> &mut Self {
        self.message("flush set", name, DELSETELEM, 0, |e, table| {
            e.attr_str(1, table).attr_str(2, name);
        });
        self
    }

    /// Adds elements; one that exists with other data fails the transaction.
    pub fn add_elements(&mut self, set: &str, elements: &[Element]) -> &mut Self {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.elements("add elements", NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL, set, chunk);
        }
        self
    }

    /// Deletes elements; each must exist.
    pub fn delete_elements(&mut self, set: &str, keys: &[Vec<u8>]) -> &mut Self {
        for chunk in keys.chunks(ELEMENTS_PER_MESSAGE) {
            let elements: Vec<Element> = chunk.iter().map(|k| Element::key(k.clone())).collect();
            self.elements("delete elements", DELSETELEM, 0, set, &elements);
        }
        self
    }

    fn elements(&mut self, op: &'static str, kind: u16, flags: u16, set: &str, elements: &[Element]) {
        self.message(op, set, kind, flags, |e, table| {
            e.attr_str(1, table).attr_str(2, set).nest(3, |e| {
                for element in elements {
                    e.nest(1, |e| encode_element(e, element));
                }
            });
        });
    }

    /// Closes the transaction and returns its bytes and the sequence number that is acknowledged.
    pub(crate) fn finish(mut self) -> (Vec<u8>, u32, Vec<(&'static str, String)>) {
        let last = u32::try_from(self.operations.len() + 1)
            .expect("invariant: a batch has fewer than 2^32 messages");
        self.encoder
            .begin(MSG_BATCH_END, 0, last + 1)
            .raw(&[0, 0, 0, 10])
            .end();
        let mut bytes = self.encoder.as_bytes().to_vec();
        if let Some(flags) = bytes.get_mut(self.last_flags_at..self.last_flags_at + 2) {
            let value = u16::from_ne_bytes([flags[0], flags[1]]) | NLM_F_ACK;
            flags.copy_from_slice(&value.to_ne_bytes());
        }
        (bytes, last, self.operations)
    }
}

fn encode_element(e: &mut Encoder, element: &Element) {
    e.nest(1, |e| {
        e.attr(1, &element.key);
    });
    match &element.data {
        None => {}
        Some(Data::Bytes(bytes)) => {
            e.nest(2, |e| {
                e.attr(1, bytes);
            });
        }
        Some(Data::Verdict(verdict)) => {
            e.nest(2, |e| verdict.encode(e));
        }
    }
    if let Some((timeout, left)) = element.expires {
        e.attr_be64(4, timeout).attr_be64(5, left);
    }
}
