//! Netfilter by raw netlink: nf_tables batches and conntrack entries, without the `nft` or `conntrack` programs.
//!
//! - [`Batch`] collects changes (tables, chains, rules, sets, maps, elements); [`NfTables::commit`] applies them as one
//!   transaction: all or nothing, and packets see either the old or the new state.
//! - [`Expr`] is what rules are made of; [`rule`] has the phrases that come up again and again.
//! - [`Conntrack`] lists and deletes tracked connections.
//!
//! Names are not validated here beyond the kernel's own limits. Only what this project uses is encoded: there are no
//! stateful objects, flowtables, or limits.

mod batch;
mod conntrack;
mod expr;
mod socket;

pub mod rule;

pub use batch::{BaseChain, Batch, ChainType, Data, Element, Family, Hook, SetSpec};
pub use conntrack::{Conntrack, Flow};
pub use expr::{CmpOp, CtKey, DynsetOp, Expr, MetaKey, PayloadBase, Reg, Verdict};
pub use socket::{DumpedElement, Error, NfTables};

/// IP protocol numbers that Services may use.
pub mod proto {
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// SCTP.
    pub const SCTP: u8 = 132;
}
