//! Addresses that are given out one by one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::ProviderError;

/// A range of addresses and who holds which. The network and broadcast addresses are never given out.
#[derive(Clone, Debug)]
pub struct Pool {
    range: Ipv4Net,
    holders: HashMap<Ipv4Addr, String>,
    by_holder: HashMap<String, Ipv4Addr>,
    /// Where the search for a free address goes on, so that an address is not reused at once.
    next: u32,
}

impl Pool {
    /// A pool nobody holds an address of.
    pub fn new(range: Ipv4Net) -> Self {
        Self {
            range,
            holders: HashMap::new(),
            by_holder: HashMap::new(),
            next: 1,
        }
    }

    /// The range.
    pub fn range(&self) -> Ipv4Net {
        self.range
    }

    /// The address of `holder`: the one it has, else `wanted`, else a free one.
    pub fn take(&mut self, holder: &str, wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr, ProviderError> {
        if let Some(wanted) = wanted {
            return self.take_exactly(holder, wanted);
        }
        if let Some(address) = self.by_holder.get(holder) {
            return Ok(*address);
        }
        let size = 1u32
            .checked_shl(u32::from(32 - self.range.prefix_len()))
            .unwrap_or(u32::MAX);
        let first = u32::from(self.range.network());
        for step in 0..size {
            let offset = (self.next.wrapping_add(step)) % size;
            let address = Ipv4Addr::from(first.wrapping_add(offset));
            if self.usable(address) && !self.holders.contains_key(&address) {
                self.next = offset.wrapping_add(1);
                self.give(holder, address);
                return Ok(address);
            }
        }
        Err(ProviderError::PoolExhausted(self.range.to_string()))
    }

    fn take_exactly(&mut self, holder: &str, wanted: Ipv4Addr) -> Result<Ipv4Addr, ProviderError> {
        let refuse = |problem| {
            Err(ProviderError::Address {
                address: IpAddr::V4(wanted),
                problem,
            })
        };
        if !self.usable(wanted) {
            return refuse("is not in the load balancer range");
        }
        match self.holders.get(&wanted) {
            Some(other) if other != holder => refuse("is in use by another Service"),
            _ => {
                self.release(holder);
                self.give(holder, wanted);
                Ok(wanted)
            }
        }
    }

    /// `holder` holds nothing any more.
    pub fn release(&mut self, holder: &str) {
        if let Some(address) = self.by_holder.remove(holder) {
            self.holders.remove(&address);
        }
    }

    fn give(&mut self, holder: &str, address: Ipv4Addr) {
        self.holders.insert(address, holder.to_owned());
        self.by_holder.insert(holder.to_owned(), address);
    }

    fn usable(&self, address: Ipv4Addr) -> bool {
        self.range.contains(&address)
            && (self.range.prefix_len() >= 31
                || (address != self.range.network() && address != self.range.broadcast()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool::new("10.0.0.0/30".parse().unwrap())
    }

    #[test]
    fn a_holder_keeps_its_address_and_released_ones_come_last() {
        let mut pool = pool();
        let a = pool.take("a", None).unwrap();
        assert_eq!(a, Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(pool.take("a", None).unwrap(), a);
        pool.release("a");
        assert_eq!(pool.take("b", None).unwrap(), Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(pool.take("c", None).unwrap(), a);
        assert!(matches!(
            pool.take("d", None),
            Err(ProviderError::PoolExhausted(_))
        ));
    }

    #[test]
    fn a_wanted_address_is_given_or_refused() {
        let mut pool = pool();
        let wanted = Ipv4Addr::new(10, 0, 0, 2);
        assert_eq!(pool.take("a", Some(wanted)).unwrap(), wanted);
        assert!(pool.take("b", Some(wanted)).is_err());
        for outside in [[10, 0, 0, 0], [10, 0, 0, 3], [10, 0, 1, 1]] {
            assert!(pool.take("b", Some(outside.into())).is_err());
        }
        assert_eq!(
            pool.take("a", Some(Ipv4Addr::new(10, 0, 0, 1))).unwrap(),
            Ipv4Addr::new(10, 0, 0, 1)
        );
        assert_eq!(
            pool.take("b", Some(wanted)).unwrap(),
            wanted,
            "moving sets the old one free"
        );
    }
}
