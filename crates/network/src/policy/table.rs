//! What the kernel has of policies, and the transactions that change it.

use std::collections::{BTreeMap, BTreeSet};

use keelson_nftables::{
    BaseChain, Batch, ChainType, Data, Element, Expr, Family, Hook, NfTables, Reg, SetSpec, Verdict, rule,
};

use crate::ipam::Record;

use super::compile::{Desired, compile};
use super::snapshot::{LocalAddresses, Snapshot};

const FORWARD: &str = "forward";
const INGRESS: &str = "ingress";
const EGRESS: &str = "egress";
const OWN: &str = "own";

/// The policies' tables of one node, one per address family that pods have.
#[derive(Debug)]
pub struct PolicyTable {
    name: String,
    families: Vec<bool>,
    /// What was committed last; `None` before the first time, and after an error.
    kernel: BTreeMap<bool, Desired>,
    /// What the API says; `None` until it is known.
    snapshot: Option<Snapshot>,
    local: LocalAddresses,
}

fn family(v6: bool) -> Family {
    if v6 { Family::Ipv6 } else { Family::Ipv4 }
}

impl PolicyTable {
    /// Tables of that name; `ipv6` where pods have such addresses. The kernel is left as it is.
    pub fn new(name: &str, ipv6: bool) -> Self {
        Self {
            name: name.to_owned(),
            families: if ipv6 { vec![false, true] } else { vec![false] },
            kernel: BTreeMap::new(),
            snapshot: None,
            local: LocalAddresses::new(),
        }
    }

    /// What the API says now.
    pub fn set_snapshot(&mut self, snapshot: Snapshot) {
        self.snapshot = Some(snapshot);
    }

    /// The addresses of this node's pods.
    pub fn set_local(&mut self, local: LocalAddresses) {
        self.local = local;
    }

    /// A pod that has just got its addresses.
    pub(crate) fn add_local(&mut self, record: &Record) {
        let key = (record.namespace.clone(), record.name.clone());
        self.local.insert(key, record.ips.clone());
    }

    /// Brings the kernel to what is known; nothing before the API's objects are. Returns how many messages it took.
    ///
    /// # Errors
    /// The kernel refused. The next call makes the table anew.
    pub fn sync(&mut self, nft: &mut NfTables) -> Result<usize, keelson_nftables::Error> {
        let Some(snapshot) = &self.snapshot else {
            return Ok(0);
        };
        let mut messages = 0;
        for v6 in self.families.clone() {
            let wanted = compile(snapshot, &self.local, v6);
            let batch = match self.kernel.remove(&v6) {
                Some(has) => self.difference(v6, &has, &wanted),
                None => self.full(v6, &wanted),
            };
            if !batch.is_empty() {
                messages += batch.len();
                nft.commit(batch)?;
            }
            self.kernel.insert(v6, wanted);
        }
        Ok(messages)
    }

    /// Removes the tables.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(&mut self, nft: &mut NfTables) -> Result<(), keelson_nftables::Error> {
        self.kernel.clear();
        for v6 in [false, true] {
            let mut batch = Batch::new(family(v6), &self.name);
            batch.add_table().delete_table();
            nft.commit(batch)?;
        }
        Ok(())
    }

    fn full(&self, v6: bool, wanted: &Desired) -> Batch {
        let mut b = Batch::new(family(v6), &self.name);
        b.recreate_table();
        b.add_set(&SetSpec::by_address(INGRESS, v6).to_verdict());
        b.add_set(&SetSpec::by_address(EGRESS, v6).to_verdict());
        b.add_set(&SetSpec::by_address_pair(OWN, v6));
        b.add_base_chain(
            FORWARD,
            BaseChain {
                chain_type: ChainType::Filter,
                hook: Hook::Forward,
                priority: 0,
            },
        );
        let mut known = rule::ct_state(rule::CT_ESTABLISHED | rule::CT_RELATED);
        known.push(Expr::Verdict(Verdict::Accept));
        b.add_rule(FORWARD, &known);
        let second = if v6 { Reg(4) } else { Reg(1) };
        b.add_rule(
            FORWARD,
            &[
                rule::source_address(v6, Reg(0)),
                rule::destination_address(v6, second),
                Expr::Lookup {
                    set: OWN.into(),
                    key: Reg(0),
                    invert: false,
                },
                Expr::Verdict(Verdict::Accept),
            ],
        );
        let decide = |map: &str| Expr::VerdictMap {
            map: map.to_owned(),
            key: Reg(0),
        };
        b.add_rule(FORWARD, &[rule::source_address(v6, Reg(0)), decide(EGRESS)]);
        b.add_rule(FORWARD, &[rule::destination_address(v6, Reg(0)), decide(INGRESS)]);
        self.change(&mut b, &Desired::default(), wanted);
        b
    }

    fn difference(&self, v6: bool, has: &Desired, wanted: &Desired) -> Batch {
        let mut b = Batch::new(family(v6), &self.name);
        self.change(&mut b, has, wanted);
        b
    }

    /// Sets before the rules that look them up, maps between the chains that come and those that go.
    fn change(&self, b: &mut Batch, has: &Desired, wanted: &Desired) {
        let none = BTreeSet::new();
        for (name, (spec, elements)) in &wanted.sets {
            let before = has.sets.get(name).map(|(_, elements)| elements);
            if before.is_none() {
                b.add_set(spec);
            }
            change_set(b, name, before.unwrap_or(&none), elements);
        }
        for (name, rules) in wanted
            .chains
            .iter()
            .filter(|(name, _)| !has.chains.contains_key(*name))
        {
            b.add_chain(name);
            for rule in rules {
                b.add_rule(name, rule);
            }
        }
        change_set(b, OWN, &has.own, &wanted.own);
        change_map(b, INGRESS, &has.ingress, &wanted.ingress);
        change_map(b, EGRESS, &has.egress, &wanted.egress);
        let dead = || {
            has.chains
                .keys()
                .filter(|name| !wanted.chains.contains_key(*name))
        };
        for name in dead() {
            b.flush_chain(name);
        }
        for name in dead() {
            b.delete_chain(name);
        }
        for name in has.sets.keys().filter(|name| !wanted.sets.contains_key(*name)) {
            b.delete_set(name);
        }
    }
}

fn change_set(b: &mut Batch, name: &str, has: &BTreeSet<Vec<u8>>, wanted: &BTreeSet<Vec<u8>>) {
    let gone: Vec<Vec<u8>> = has.difference(wanted).cloned().collect();
    let new: Vec<Element> = wanted.difference(has).cloned().map(Element::key).collect();
    if !gone.is_empty() {
        b.delete_elements(name, &gone);
    }
    if !new.is_empty() {
        b.add_elements(name, &new);
    }
}

fn change_map(
    b: &mut Batch,
    name: &str,
    has: &BTreeMap<Vec<u8>, String>,
    wanted: &BTreeMap<Vec<u8>, String>,
) {
    let gone: Vec<Vec<u8>> = has
        .iter()
        .filter(|(key, chain)| wanted.get(*key) != Some(chain))
        .map(|(key, _)| key.clone())
        .collect();
    let new: Vec<Element> = wanted
        .iter()
        .filter(|(key, chain)| has.get(*key) != Some(chain))
        .map(|(key, chain)| Element::with(key.clone(), Data::Verdict(Verdict::Jump(chain.clone()))))
        .collect();
    if !gone.is_empty() {
        b.delete_elements(name, &gone);
    }
    if !new.is_empty() {
        b.add_elements(name, &new);
    }
}
